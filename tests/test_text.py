"""Texts from users that hold what is no Unicode, and the ends of lines."""

import json
import os

import pytest

from gen1_jax import cli
from gen1_jax.errors import UserError
from gen1_jax.evaluation.prompts.reading import read_prompts
from gen1_jax.files import read_json
from gen1_jax.text import check_text, decode_text, mend_text, name_of, read_lines

# Characters at which `str.splitlines` ends a line, and a byte-order mark.
INSIDE = "a\u2028b\u0085c\x0bd\x0ce\x1cf\u2029g\rh"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_end_where_people_end_them(tmp_path, end, mark):
    path = tmp_path / "lines.txt"
    path.write_bytes((mark + end.join([INSIDE, "", "ü"])).encode())
    assert read_lines(path, "a file") == [INSIDE, "", "ü"]


def test_a_line_that_is_no_utf8_is_named(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"{}\n\xfcber\n")
    with pytest.raises(UserError, match="jsonl, line 2: byte 0xfc is no UTF-8; save a list as"):
        read_lines(path, "a list")
    with pytest.raises(UserError, match="cannot be read as a list: "):
        read_lines(tmp_path, "a list")


def test_what_is_no_unicode_is_refused_or_mended():
    assert check_text("🎈 ü", "a text") == mend_text("🎈 ü") == name_of("🎈 ü") == "🎈 ü"
    with pytest.raises(UserError, match=r"the prompt is no Unicode text: character 2 .*'a\\ud83d'"):
        check_text("a\ud83d", "the prompt")
    assert mend_text("a\ud83d\udcff") == "a\ufffd\ufffd"
    assert name_of(os.fsdecode(b"a\xff.mp4")) == "a\\xff.mp4" and name_of("\ud83d") == "\ufffd"
    assert decode_text(b"\xef\xbb\xbf\xc3\xbc \xfc") == "ü \ufffd"
    assert decode_text("ü".encode("utf-16")) == "ü"


def test_json_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "config.json").write_text('\ufeff{"a": 1}', encoding="utf-8")
    assert read_json(tmp_path / "config.json") == {"a": 1}


def test_prompt_files(tmp_path):
    path = tmp_path / "prompts.jsonl"
    (tmp_path / "clip.mp4").touch()

    def write(*prompts, **options):
        lines = (json.dumps({"video": "clip.mp4", "prompt": x}, **options) for x in prompts)
        path.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")

    write("snow\u2028\u0085falls", "a ball", ensure_ascii=False)
    assert [row.prompt for row in read_prompts(path).rows] == ["snow\u2028\u0085falls", "a ball"]
    write("a ball", "a \ud83d ball")
    with pytest.raises(UserError, match="jsonl, line 2: prompt is no Unicode text: character 3"):
        read_prompts(path)


def test_a_command_line_that_is_no_utf8(capsys, tmp_path):
    words = ["edit", "clip.mp4", "--model", "m", "-o", str(tmp_path / "o.mp4")]
    assert cli.main([*words, "--prompt", os.fsdecode(b"snow \xff")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("gen1: --prompt is no Unicode text: character 6 ")
    assert "\n" not in error
