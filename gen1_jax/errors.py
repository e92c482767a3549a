"""The exceptions for bad input. The module imports nothing, so that every other may raise them."""


class UserError(ValueError):
    """Bad input from a user. Its text is one line: what is wrong and what is accepted.

    The command line prints the text without a traceback and exits with code 2.
    """


class TryAgain(UserError):
    """What a new start of the command may cure, such as a network disk that does not answer."""


class WritingFailed(UserError):
    """A file or folder cannot be written, whatever the input was."""


def one_line(error: BaseException) -> str:
    """Returns the text of another library's error as one line, to be quoted in ours."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__
