"""Files and folders are there whole or not at all."""

import os

import numpy as np
import pytest
from PIL import Image

from gen1_jax.errors import UserError, WritingFailed
from gen1_jax.files import (
    making_folder,
    read_json,
    remove_parts,
    replacing,
    replacing_folder,
    write_json,
)


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


def test_folders_made_for_what_failed_are_removed_again(tmp_path):
    (tmp_path / "kept").mkdir()
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "kept" / "a" / "b" / "c.json"):
        raise KeyboardInterrupt
    with pytest.raises(UserError), replacing_folder(tmp_path / "d" / "e" / "f", "marker") as new:
        (new / "half").touch()
        raise UserError("bad")
    with pytest.raises(WritingFailed), making_folder(tmp_path / "g" / "h"):
        (tmp_path / "g" / "theirs").touch()
        raise WritingFailed("full")
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["g", "g/theirs", "kept"]


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.json", tmp_path / "folder"):
        with pytest.raises(WritingFailed, match=f"cannot write {path}: "):
            write_json(path, {})
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def test_a_library_may_have_an_error_of_its_own_for_a_full_disk(tmp_path):
    with pytest.raises(WritingFailed, match="cannot write .*a.bin: no place"):
        with replacing(tmp_path / "a.bin", failures=(RuntimeError,)) as part:
            part.write_bytes(b"half")
            raise RuntimeError("no place")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_can_be_removed(tmp_path):
    parts = replacing(tmp_path / "a.json"), replacing(tmp_path / "array_record")
    for each in parts:
        each.__enter__().write_text("half")
    write_json(tmp_path / "b.json", {})
    remove_parts(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["b.json"]


def test_the_suffix_stays_for_what_writes_by_it(tmp_path):
    path = tmp_path / "a.png"
    with replacing(path) as part:
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(part)
    with Image.open(path) as image:
        assert image.format == "PNG"


@pytest.mark.parametrize("text", ["{", "[1]", "3", "\xff", "[" * 100_000])
def test_what_is_no_object_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="cannot read .*a.json: ") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot read .*: Is a directory"):
        read_json(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """A finished folder of our kind."""
    with replacing_folder(tmp_path / "deep" / "folder", "marker.json") as new:
        write_json(new / "marker.json", {"a": 1})
    return tmp_path / "deep" / "folder"


def is_alone_and_unchanged(folder):
    names = [each.name for each in folder.iterdir()]
    return (
        list(folder.parent.iterdir()) == [folder]
        and names == ["marker.json"]
        and read_json(folder / "marker.json") == {"a": 1}
    )


def test_a_folder_is_replaced_whole(folder):
    assert is_alone_and_unchanged(folder)
    with replacing_folder(folder, "marker.json") as new:
        write_json(new / "other" / "marker.json", {"a": 2})
        assert is_alone_and_unchanged(folder) is False  # the new one stands beside it, unseen
        assert read_json(folder / "marker.json") == {"a": 1}
    assert [each.name for each in folder.iterdir()] == ["other"]
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space\nleft"), KeyboardInterrupt(), UserError("another reason")]
)
def test_a_folder_that_fails_halfway_leaves_what_was_there(folder, error):
    with pytest.raises((UserError, KeyboardInterrupt)) as caught:
        with replacing_folder(folder, "marker.json") as new:
            (new / "half").mkdir()
            raise error
    if isinstance(error, OSError):
        assert caught.type is WritingFailed
        assert str(caught.value) == f"cannot write {folder}: No space left"
    assert is_alone_and_unchanged(folder)


def test_a_file_in_a_folder_fails_by_the_folder_s_name(folder):
    with pytest.raises(WritingFailed) as caught:
        with replacing_folder(folder, "marker.json") as new:
            (new / "a.json").mkdir()
            write_json(new / "a.json", {})
    assert str(caught.value) == f"cannot write {folder}: Is a directory"
    assert is_alone_and_unchanged(folder)


def test_a_failed_rename_brings_the_old_folder_back(folder, monkeypatch):
    rename = type(folder).rename

    def fails_for_the_new(self, target):
        if self.name.endswith(".new"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(type(folder), "rename", fails_for_the_new)
    with pytest.raises(WritingFailed, match="Input/output error"):
        with replacing_folder(folder, "marker.json") as new:
            write_json(new / "marker.json", {"a": 2})
    assert is_alone_and_unchanged(folder)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("years of work")
    for place in (tmp_path, thesis, thesis / "folder"):
        with pytest.raises(UserError, match=str(place)):
            with replacing_folder(place, "marker.json"):
                pytest.fail("it must be refused before any work is done")
    assert list(tmp_path.iterdir()) == [thesis] and thesis.read_text() == "years of work"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_new_files_and_folders_have_the_usual_permissions(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {})
        with replacing_folder(tmp_path / "folder", "a.json") as new:
            write_json(new / "a.json", {})
    finally:
        os.umask(before)
    modes = {
        path.relative_to(tmp_path): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")
    }
    assert {str(name): mode for name, mode in modes.items()} == {
        "a.json": 0o666 & ~umask,
        "folder": 0o777 & ~umask,
        "folder/a.json": 0o666 & ~umask,
    }
