"""The one exception for bad input; floor 0, so every module may raise it."""


class UserError(ValueError):
    """Bad input from a user. Its text is one line: what is wrong and what is accepted.

    The command line prints it without a traceback and exits with code 2.
    """


class WritingFailed(UserError):
    """A file cannot be written: the fault of no input."""


def one_line(error: Exception) -> str:
    """What another library's error says, for a place in a line of ours."""
    return (
        " ".join((getattr(error, "strerror", None) or str(error)).split()) or type(error).__name__
    )
