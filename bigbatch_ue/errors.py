"""The one exception whose message is meant for the user."""


class UserError(Exception):
    """Something the user can put right; the command line prints it as one line and exits with 2."""
