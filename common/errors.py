"""Errors that the user can mend."""


class UserError(ValueError):
    """Wrong input: the message says what was expected, what was found, where, and what to do.

    Programs print the message alone, without a traceback, and exit with status 1.
    """
