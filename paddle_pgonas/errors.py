"""The exceptions for what a user can mend, as opposed to an error of the program, and text that is safe to print."""

import re


def printable(text: str, keep: str = "") -> str:
    """The text with each character that does not show escaped, as in ``\\x1b``, but those to ``keep``: names of files and entries
    may hold line breaks and the control sequences of terminals."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else character.encode("unicode_escape").decode()
        for character in text
    )


def brief(text: str) -> str:
    """The text with each SHA-256 as its first eight digits and a star, which a shell completes in a path."""
    return re.sub(r"(?<![0-9a-f])([0-9a-f]{8})[0-9a-f]{56}(?![0-9a-f])", r"\1*", text)


class UserError(Exception):
    """A mistake in a file, a key or an argument. The message is one line that names it and says what to do.

    The command lines print it without a traceback and exit with its ``status``. Line breaks, which a name or another library's
    message may hold, become spaces; other control characters are escaped, and digests shortened (:func:`brief`).
    """

    status = 2

    def __init__(self, message: str) -> None:
        super().__init__(brief(printable(" ".join(message.split()))))


class Diverged(UserError):
    """A training diverged or collapsed. Its own exit status tells programs that try settings from every other mistake."""

    status = 3
