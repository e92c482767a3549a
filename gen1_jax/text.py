"""Texts from users, which may hold what is no Unicode: refused or mended, with the place named.

Python reads an undecodable byte of a file's name or of a command line as half a surrogate pair, and
JSON can spell one. Such a text cannot be written as UTF-8, so it is caught where it comes in.
"""

import codecs
import os
import re
from pathlib import Path

from gen1_jax.errors import UserError, one_line

_HALVES = re.compile("[\ud800-\udfff]")
REPLACED = "\ufffd"  # what stands for what cannot be decoded
_SHOWN = 40  # characters of a refused text
# The only ends of a line. `str.splitlines` has eight more, which occur inside texts.
_LINE_ENDS = re.compile("\r\n|\n")


def check_text(text: str, what: str) -> str:
    """Returns a text, after checking that it is Unicode.

    Args:
      text: the text.
      what: what the error's line calls it.

    Raises:
      UserError: the text holds a byte that is no UTF-8, or half a surrogate pair.
    """
    found = _HALVES.search(text)
    if found:
        start = max(0, found.start() - _SHOWN // 2)
        raise UserError(
            f"{what} is no Unicode text: character {found.start() + 1} stands for a byte that is "
            f"no UTF-8, or is half a surrogate pair: {ascii(text[start : start + _SHOWN])}"
        )
    return text


def mend_text(text: str) -> str:
    """Returns a text with U+FFFD in place of what is no Unicode."""
    return _HALVES.sub(REPLACED, text)


def name_of(path: str | os.PathLike) -> str:
    """Returns a path as a text that can be stored and shown; a byte that is no UTF-8 is \\xff."""

    def spell(found: re.Match) -> str:
        byte = ord(found[0]) - 0xDC00  # Python's spelling of such a byte
        return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else REPLACED

    return _HALVES.sub(spell, os.fspath(path))


def decode_text(data: bytes) -> str:
    """Decodes a small text file: UTF-8, or UTF-16 by its mark; U+FFFD replaces what is neither."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")


def read_lines(path: Path, what: str) -> list[str]:
    """Returns the lines of a UTF-8 file, without a byte-order mark.

    Args:
      path: the file.
      what: what the error's line says that it should be.

    Raises:
      UserError: the file cannot be read, or a line is no UTF-8; the line is named.
    """
    try:
        return _LINE_ENDS.split(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read as {what}: {one_line(error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}, {find_undecodable(path)}; save {what} as UTF-8") from None


def find_undecodable(path: Path) -> str:
    """Returns the place of the first byte of a file that is no UTF-8, in words."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number}: byte {line[error.start]:#04x} is no UTF-8"
    return "some byte is no UTF-8"
