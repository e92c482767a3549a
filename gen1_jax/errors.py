"""The exceptions for bad input and for faults that pass, and the exit codes that they end with.

The module imports nothing of this project, so that every other may raise them.
"""

import errno

# Codes of sysexits.h, for launchers: 2 and 70 are final; 75 and all others start the job again.
EXIT_BAD_INPUT, EXIT_GIVEN_UP, EXIT_TRY_AGAIN = 2, 70, 75

# Faults of a disk, a network or a machine, which say nothing about the command.
_PASSING = """
    EAGAIN EBUSY ECONNABORTED ECONNREFUSED ECONNRESET EDQUOT EHOSTDOWN EHOSTUNREACH EINTR EIO EMFILE
    ENETDOWN ENETRESET ENETUNREACH ENFILE ENOBUFS ENOLINK ENOMEM ENOSPC ENOTCONN EPIPE EREMOTEIO
    ESTALE ETIMEDOUT
"""
_PASSING_ERRNOS = frozenset(getattr(errno, name, -1) for name in _PASSING.split())


class UserError(ValueError):
    """Bad input from a user. Its text is one line: what is wrong and what is accepted.

    The command line prints the text without a traceback and exits with `exit_code(error)`.
    """


class Damaged(UserError):
    """A stored record is damaged. The text names the record."""


class TryAgain(UserError):
    """What a new start of the command may cure, such as a network disk that does not answer."""


class GivenUp(UserError):
    """A job was started again and again, and made nothing new."""


class StoreFailed(OSError):
    """An object store refuses, or does not answer; `filename` is the object."""


class WritingFailed(UserError):
    """A file or folder cannot be written, whatever the input was."""


def exit_code(error: BaseException) -> int:
    """Returns the exit code of a command that ends with a UserError.

    Returns:
      EXIT_GIVEN_UP for GivenUp. EXIT_TRY_AGAIN if the error, or an error that it was raised from,
      is a TryAgain or a fault of a disk, a network or a machine. Otherwise EXIT_BAD_INPUT.
    """
    if isinstance(error, GivenUp):
        return EXIT_GIVEN_UP
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TryAgain | ConnectionError | TimeoutError) or (
            isinstance(cause, OSError) and cause.errno in _PASSING_ERRNOS
        ):
            return EXIT_TRY_AGAIN
        cause = cause.__cause__
    return EXIT_BAD_INPUT


def one_line(error: BaseException) -> str:
    """Returns the text of another library's error as one line, to be quoted in ours."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__
