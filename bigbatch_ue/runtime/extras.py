"""Packages that only some features need, each installed by an extra."""

import importlib.util

from bigbatch_ue.runtime.errors import UserError


def require_extra(package: str, extra: str, where: str) -> None:
    """Raise a `UserError` unless `package` is installed, naming the `extra` that installs it."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f'{where}: needs {package}; run: pip install "bigbatch-ue[{extra}]"')
