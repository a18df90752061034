"""The one exception that means: the input is wrong, not the program."""


class UserError(Exception):
    """A mistake in a file, a key or an argument. The message is one line that names it and says what to do.

    The command lines print it without a traceback and exit with status 2.
    """
