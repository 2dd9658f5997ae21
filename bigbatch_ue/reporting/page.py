"""Self-contained report pages: the Jinja environment, and filling in a template."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from bigbatch_ue.files.atomic import atomic_file
from bigbatch_ue.files.yaml_files import format_yaml
from bigbatch_ue.reporting.style import PALETTE
from bigbatch_ue.reporting.words import counted, percent, span


def page_environment(package: str, **filters: Callable[..., str]) -> Environment:
    """Return the environment of the templates of `package`; its pages extend `base.html`.

    The templates also have the filters `counted`, `percent`, `span` and `yaml`, and the colours of
    `palette`.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("bigbatch_ue.reporting")]),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["palette"] = PALETTE
    words = {"counted": counted, "percent": percent, "span": span}
    environment.filters |= {**words, "yaml": format_yaml, **filters}
    return environment


def write_page(path: Path, environment: Environment, content: Mapping[str, Any]) -> None:
    """Fill the template named like `path` with `content` and write it there, atomically."""
    text = environment.get_template(path.name).render(content)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
