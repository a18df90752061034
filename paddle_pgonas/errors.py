"""The exception for wrong input, as opposed to an error of the program."""


class UserError(Exception):
    """A mistake in a file, a key or an argument. The message is one line that names it and says what to do.

    The command lines print it without a traceback and exit with status 2. Line breaks, which a name or another library's
    message may hold, become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
