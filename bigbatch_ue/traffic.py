from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any


@contextmanager
def counting() -> Iterator[Any]:
    yield SimpleNamespace(bytes_sent=0.0)
