"""Tests which errors end a command for good, and which a new start may cure."""

import errno

import pytest

from gen1_jax.errors import GivenUp, TryAgain, UserError, WritingFailed, exit_code


def raised(kind: type[Exception], cause: BaseException | None) -> Exception:
    try:
        raise kind("a line") from cause
    except kind as error:
        return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("bad"), 2),
        (raised(UserError, FileNotFoundError(errno.ENOENT, "no such file")), 2),
        (raised(WritingFailed, PermissionError(errno.EACCES, "no")), 2),
        (raised(UserError, OSError("not an image")), 2),  # as Pillow says it
        (TryAgain("later"), 75),
        (raised(UserError, raised(UserError, TryAgain("later"))), 75),
        (raised(WritingFailed, OSError(errno.ENOSPC, "disk full")), 75),
        (raised(UserError, OSError(errno.EIO, "input/output error")), 75),
        (raised(UserError, OSError(errno.ESTALE, "stale file handle")), 75),
        (raised(UserError, TimeoutError("timed out")), 75),
        (GivenUp("too often"), 70),
    ],
)
def test_a_fault_that_passes_is_told_from_bad_input(error, code):
    assert exit_code(error) == code
