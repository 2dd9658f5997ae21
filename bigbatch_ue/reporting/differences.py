"""Settings that differ, in words."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

UNKNOWN = "settings not recorded"


def describe_differences(several: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say of each of several nested settings what distinguishes it, such as `target.fit.epochs=60`.

    Settings that all have in common are left out. Where only some are known, the others say so.
    """
    flat = [dict(flatten(settings)) for settings in several]
    known = [settings for settings in flat if settings]
    keys = dict.fromkeys(key for settings in known for key in settings)
    differing = [key for key in keys if len({settings.get(key) for settings in known}) > 1]
    return [
        ", ".join(f"{key}={settings[key]}" for key in differing if key in settings)
        if settings or not known
        else UNKNOWN
        for settings in flat
    ]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each setting's full name and its value as text."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
