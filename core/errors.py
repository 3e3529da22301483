"""What a user can be told in one line."""

from __future__ import annotations


class BadInput(ValueError):
    """The user asked for something that cannot be done. Its message is one line that names what is wrong."""


class Absent(BadInput):
    """What is asked for is fine, but not there yet; the line says how to have it."""


class Unfit(BadInput):
    """A method does not fit a task, whatever its settings: who names no methods is not bothered with it."""


def cause(error: OSError) -> str:
    """What the system says of a file, for a line that names the file itself."""
    return error.strerror or reason(error)


def reason(error: BaseException) -> str:
    """One line that says what an error is about; its kind where it has no words of its own."""
    if isinstance(error, OSError) and error.strerror:
        named = f": {error.filename}" if error.filename is not None else ""
        return f"{error.strerror}{named}"
    words = " ".join(str(error).split())
    if isinstance(error, KeyError):  # its text is the bare key
        return f"no {words}"
    return words or type(error).__name__
