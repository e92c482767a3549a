"""`gen1` in the test's own process, and what a refusal must be: one line, exit code 2, no files."""

import re
import warnings
from pathlib import Path

from gen1_jax import cli


def gen1(capsys, *arguments) -> tuple[int, str, str]:
    """Returns exit code, stdout and stderr of `gen1 ARGUMENTS`."""
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as outside the suite, where a warning is no error
        code = cli.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def refused(capsys, *arguments, culprit: str) -> str:
    """Checks that `gen1 ARGUMENTS` ends in one line that names the culprit; returns the line."""
    code, _, err = gen1(capsys, *arguments)
    lines = err.strip().splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith("gen1: "), err
    assert re.search(culprit, lines[0]), lines[0]
    return lines[0]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Returns every path below a folder, with the bytes of files."""
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in paths}
