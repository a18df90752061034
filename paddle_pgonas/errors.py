"""The exceptions for what a user can mend, as opposed to an error of the program."""


class UserError(Exception):
    """A mistake in a file, a key or an argument. The message is one line that names it and says what to do.

    The command lines print it without a traceback and exit with its ``status``. Line breaks, which a name or another library's
    message may hold, become spaces.
    """

    status = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Diverged(UserError):
    """A training diverged or collapsed. Its own exit status tells programs that try settings from every other mistake."""

    status = 3
