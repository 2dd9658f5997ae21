"""Errors that the user can mend."""


class UserError(Exception):
    """Bad input or a state the user can mend; its message is one line that says what to do."""


def told(error: Exception) -> str | None:
    """What to tell the user of `error` in one line; None if it is not theirs to mend."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and (error.filename or error.strerror):
        return f"{error.filename or 'output'}: {error.strerror}"
    return None
