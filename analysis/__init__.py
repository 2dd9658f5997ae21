"""Instability curves: how protection varies with the effective batch, and how certain that is.

The names in `__all__` are the Python API (docs/python.md). Each is imported at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.table.collect import Collection as Collection
    from analysis.table.collect import collect as collect
    from analysis.table.collect import read_collection as read_collection
    from analysis.table.collect import write_collection as write_collection
    from analysis.views.analysis import Analysis as Analysis
    from analysis.views.analysis import analyse as analyse

_ORIGINS = {
    "Analysis": "views.analysis",
    "Collection": "table.collect",
    "analyse": "views.analysis",
    "collect": "table.collect",
    "read_collection": "table.collect",
    "write_collection": "table.collect",
}
"""The module of each name."""

__all__ = list(_ORIGINS)

if not TYPE_CHECKING:  # a type checker is to know exactly the names above

    def __getattr__(name: str) -> Any:
        if name not in _ORIGINS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_ORIGINS[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
