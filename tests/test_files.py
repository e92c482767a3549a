"""Files are there whole or not at all."""

import numpy as np
import pytest
from PIL import Image

from gen1_jax.errors import UserError, WritingFailed
from gen1_jax.files import read_json, replacing, write_json


def test_json_comes_back_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "a.json"
    assert read_json(path) is None
    for content in ({"a": [1, 2.5, None]}, {"b": "ä"}):
        write_json(path, content)
        assert read_json(path) == content
    assert [each.name for each in path.parent.iterdir()] == ["a.json"]


def test_what_fails_halfway_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("{")
        raise KeyboardInterrupt
    with pytest.raises(WritingFailed, match="cannot write .*a.json: disk full"), replacing(path):
        raise OSError("disk\nfull")
    assert read_json(path) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.json", tmp_path / "folder"):
        with pytest.raises(WritingFailed, match=f"cannot write {path}: "):
            write_json(path, {})
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def test_the_suffix_stays_for_what_writes_by_it(tmp_path):
    path = tmp_path / "a.png"
    with replacing(path) as part:
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(part)
    with Image.open(path) as image:
        assert image.format == "PNG"


@pytest.mark.parametrize("text", ["{", "[1]", "3", "\xff"])
def test_what_is_no_object_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="cannot read .*a.json: ") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot read .*: Is a directory"):
        read_json(tmp_path)
