"""Prompt files of our own form: what is read of them, how clips are named, what is refused."""

import csv
import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import video_files
from PIL import Image

from gen1_jax.errors import UserError
from gen1_jax.evaluation.prompts.clips import Taking, describe_taken, load_items, mask_of
from gen1_jax.evaluation.prompts.documents import read_document
from gen1_jax.evaluation.prompts.reading import LAYOUTS, read_prompts
from gen1_jax.evaluation.prompts.results import write_frames
from gen1_jax.video.io import write_video
from gen1_jax.video.pace import Pace
from gen1_jax.video.trained import TrainedClips

TRAINED = TrainedClips(3, ((16, 16), (16, 32), (32, 16)), Pace(2, 24))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("videos")
    write_video(path / "wide.mp4", video_files.clip(8, 24, 48), 24)
    write_video(path / "high.mp4", video_files.clip(8, 48, 24), 24)
    return path


@pytest.fixture
def folder(videos, tmp_path) -> Path:
    for video in videos.iterdir():
        shutil.copy(video, tmp_path)
    return tmp_path


def write(folder: Path, *entries: dict | str) -> Path:
    path = folder / "prompts.jsonl"
    lines = (e if isinstance(e, str) else json.dumps(e) for e in entries)
    path.write_text("\n".join(lines) + "\n")
    return path


def ask(prompt: str, video: str = "wide.mp4", **more) -> dict:
    return {"video": video, "prompt": prompt, **more}


# ---- what is read


def test_all_that_a_line_says_comes_to_the_clip(folder):
    red = np.zeros((12, 12, 3), np.uint8) + np.uint8([200, 0, 0])
    Image.fromarray(red).save(folder / "red.png")
    mask = np.zeros((24, 48), np.uint8)
    mask[:, 24:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    more = {"source_prompt": "a square", "kind": "style", "camera": "still", "name": "first"}
    path = write(
        folder,
        ask("a star", mask="mask.png", start=1, frames=2, **more),
        {"video": "wide.mp4", "image": "red.png"},
    )
    first, second = load_items(read_prompts(path), TRAINED)
    assert (first.clip, first.video, first.prompt) == ("first", "wide.mp4", "a star")
    assert (first.source_prompt, first.kind, first.camera) == ("a square", "style", "still")
    assert (first.start, first.stride, first.fps) == (1, 2, Fraction(12))
    assert first.frames.shape == (2, 16, 32, 3)
    expected = video_files.clip(8, 24, 48)[[1, 3]]
    assert np.abs(first.frames.mean((1, 2)) - expected.mean((1, 2))).max() < 3
    assert first.mask.shape == (2, 16, 32) and first.mask.dtype == bool
    assert first.mask[:, :, 17:].all() and not first.mask[:, :, :15].any()
    np.testing.assert_array_equal(second.image, red)
    assert second.prompt == "" and second.image is not None and first.image is None


def test_each_video_takes_the_trained_size_nearest_to_its_shape(folder):
    path = write(folder, ask("a star"), ask("a star", "high.mp4"))
    prompts = read_prompts(path)
    assert [i.frames.shape for i in load_items(prompts, TRAINED)] == [
        (3, 16, 32, 3),
        (3, 32, 16, 3),
    ]
    items = load_items(prompts, TRAINED, Taking(size=(16, 16), frames=4, stride=1, start=2))
    assert [i.frames.shape for i in items] == [(4, 16, 16, 3)] * 2
    assert describe_taken(items).startswith("wide.mp4#") and "--start" in describe_taken(items)
    assert "(and 1 more clip likewise)" in describe_taken(items)


def test_prompts_of_one_video_share_its_frames(folder):
    items = load_items(read_prompts(write(folder, ask("a"), ask("b"), ask("c", start=1))), TRAINED)
    assert items[0].frames is items[1].frames and items[0].frames is not items[2].frames


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_csv_has_the_same_columns(folder, delimiter, mark):
    path = folder / "prompts.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(mark)
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["video", "prompt", "start", "kind"])
        writer.writerow(["wide.mp4", 'a "red"\nball, on snow; at\tnight', "1", ""])
        writer.writerow([])
        writer.writerow(["high.mp4", "ü", "", "style"])
    first, second = read_prompts(path).rows
    assert first.prompt == 'a "red"\nball, on snow; at\tnight' and first.start == 1
    assert (second.prompt, second.start, second.kind) == ("ü", None, "style")
    assert first.place.endswith("prompts.csv, line 2")
    assert second.place.endswith("prompts.csv, line 5")


def test_paths_of_ones_own_may_lead_anywhere(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    path = write(other, ask("a", str(folder / "wide.mp4")), ask("b", f"../{folder.name}/high.mp4"))
    assert [i.frames.shape[1:3] for i in load_items(read_prompts(path), TRAINED)] == [
        (16, 32), (32, 16),
    ]  # fmt: skip
    path = write(other, ask("a"))
    with pytest.raises(UserError, match="wide.mp4: no such file or folder"):
        read_prompts(path)
    assert load_items(read_prompts(path, root=folder), TRAINED)[0].video == "wide.mp4"


# ---- names


def test_names_follow_from_what_is_asked_for(folder):
    """A line more or less renames no other clip."""
    asked = [ask("a star"), ask("a ball"), ask("a star", "high.mp4"), ask("a ball", start=1)]
    names = [row.name for row in read_prompts(write(folder, *asked)).rows]
    assert len(set(names)) == 4 and all(n.startswith(("wide.mp4#", "high.mp4#")) for n in names)
    again = [row.name for row in read_prompts(write(folder, ask("new"), *asked[::-1])).rows]
    assert again[1:] == names[::-1]


def test_equal_names_are_told_apart(folder):
    path = write(folder, ask("a star", name="x"), ask("a ball", name="x"), ask("a cup", name="y"))
    first, second, third = (row.name for row in read_prompts(path).rows)
    assert first.startswith("x#") and second.startswith("x#") and first != second and third == "y"


# ---- what is refused


@pytest.mark.parametrize(
    ("line", "culprit"),
    [
        ("{", '{"video": PATH, "prompt": TEXT} is accepted'),
        ('["wide.mp4"]', "is accepted, not"),
        ('{"video": "wide.mp4"}', "is accepted, not"),
        (json.dumps(ask(" ")), "must be texts, not empty"),
        (json.dumps(ask("a", start=-1)), "start is -1; a whole number, 0 or more"),
        (json.dumps(ask("a", frames=0)), "frames is 0"),
        (json.dumps(ask("a", frames=True)), "frames is True"),
        (json.dumps(ask("a", kind=["b"])), "kind is"),
        (json.dumps(ask("a", frames=99)), "99 frames; this model takes at most 8"),
        (json.dumps(ask("a", mask="none.png")), "none.png: no such file"),
        (json.dumps(ask("a", image="none.png")), "none.png: no such file"),
        (json.dumps(ask("a", "none.mp4")), "none.mp4: no such file"),
        (json.dumps(ask("a", start=99)), "start 99 is beyond"),
        ('{"video": "wide.mp4", "prompt": "\\ud83d"}', "prompt is no Unicode text"),
        (json.dumps(ask("good")), "line 2: repeats line 1; edits that differ"),
    ],
)
def test_a_wrong_line_is_named(folder, line, culprit):
    path = write(folder, ask("good"), line)
    taking = Taking(most=8)
    with pytest.raises(UserError, match=r"prompts\.jsonl, line 2: ") as caught:
        load_items(read_prompts(path), TRAINED, taking)
    assert culprit in str(caught.value) and "\n" not in str(caught.value)
    prompts = read_prompts(path, keep_going=True)  # left out, and counted
    (item,) = load_items(prompts, TRAINED, taking, keep_going=True)
    (left_out,) = prompts.left_out
    assert item.prompt == "good" and left_out.startswith(f"{path}, line 2: ")
    assert [row.name for row in prompts.rows] == [item.clip]


def test_one_wrong_line_of_a_thousand(folder):
    lines = [ask(f"a star of {number}") for number in range(999)]
    path = write(folder, *lines[:500], ask("a star", "lost.mp4"), *lines[500:])
    with pytest.raises(UserError, match="line 501: .*lost.mp4: no such file"):
        read_prompts(path)
    prompts = read_prompts(path, keep_going=True)
    assert len({row.name for row in prompts.rows}) == 999
    items = load_items(prompts, TRAINED, keep_going=True)
    assert len(items) == len(prompts.rows) == 999 and len(prompts.left_out) == 1


def test_what_means_nothing_here_is_said(folder):
    prompts = read_prompts(write(folder, ask("a", id=7, source_promt="x"), ask("b", id=8)))
    assert prompts.notes == [f"{folder / 'prompts.jsonl'}: not used: id, source_promt"]


@pytest.mark.parametrize(
    ("name", "content", "culprit"),
    [
        ("a.csv", "a,b\n1,2\n", "fits no layout; accepted are .*LOVEU.*FiVE.*JSON lines or a CSV"),
        ("a.csv", 'video,prompt\n"a,b\n', "line 2: is no CSV"),
        ("a.csv", "video,prompt\na.mp4,b,c\n", "line 2: has more cells than the header"),
        ("a.json", "[1, 2", "is no JSON"),
        ("a.json", '{"a": 1}', "fits no layout"),
        ("a.yaml", "a: [1", "line 1: is no YAML"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "is no YAML that is accepted"),
        ("a.yaml", "a: 1", "fits no layout"),
        ("a.xlsx", "PK", "save the sheet as CSV"),
        ("a.jsonl", "\n", "holds no prompts"),
        ("a.json", "[" * 100_000, "nested too deeply"),
    ],
)
def test_files_that_hold_no_prompts(tmp_path, name, content, culprit):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=culprit) as caught:
        read_prompts(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_files_are_bounded(tmp_path):
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(5 * 2**20)
    with pytest.raises(UserError, match="is of 5 MiB; .* of at most 4 MiB"):
        read_document(path)


def test_a_layout_may_be_forced(folder):
    path = write(folder, ask("a"))
    assert read_prompts(path, layout="lines").layout is LAYOUTS["lines"]
    with pytest.raises(UserError, match=r"is not in the form of FiVE's JSON of edits \(five\)"):
        read_prompts(path, layout="five")
    with pytest.raises(UserError, match="no layout 'fivee'; accepted are .*"):
        read_prompts(path, layout="fivee")


def test_a_folder_holds_files_of_one_layout(folder):
    with pytest.raises(UserError, match="holds no file of prompts; accepted are"):
        read_prompts(folder)
    write(folder, ask("a"))
    (folder / "urls.csv").write_text("id,url\n1,https://x\n")
    prompts = read_prompts(folder)
    assert len(prompts.rows) == 1 and prompts.notes == [
        f"{folder / 'urls.csv'}: fits no layout, and is not read"
    ]
    (folder / "more.csv").write_text("video,prompt\nhigh.mp4,b\n")
    assert [row.prompt for row in read_prompts(folder).rows] == ["b", "a"]
    (folder / "script.csv").write_text("original_video_path,edited_video_path,target_prompt\na,b,c")
    with pytest.raises(UserError, match="files of several layouts, editboard and lines; --layout"):
        read_prompts(folder)
    assert len(read_prompts(folder, layout="lines").rows) == 2


# ---- masks


def masks(folder: Path, form: str) -> Path:
    """A mask whose left half is inside in frame 0, and one column more in each later frame."""
    inside = np.zeros((8, 24, 48), np.uint8)
    for number in range(8):
        inside[number, :, : 24 + 2 * number] = 1
    path = folder / f"mask-{form}"
    if form == "mp4":
        write_video(path.with_suffix(".mp4"), inside[..., None].repeat(3, -1) * 255, 24)
        return path.with_suffix(".mp4")
    if form == "npy":
        np.save(path.with_suffix(".npy"), inside)
        return path.with_suffix(".npy")
    if form == "palette":  # as DAVIS has them: object 1 is dark red
        path.mkdir()
        for number, each in enumerate(inside):
            image = Image.fromarray(each, mode=None).convert("P")
            image.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
            image.putdata(each.ravel().tolist())
            image.save(path / f"{number:05d}.png")
        return path
    write_frames(path, inside * (255 if form == "jpg" else 1), 24, f"{{:05d}}.{form}")
    return path


@pytest.mark.parametrize("form", ["mp4", "npy", "palette", "jpg", "png"])
def test_masks_of_any_form_are_brought_to_the_clip(folder, form):
    """By the same choice of frames, the same crop and the same size."""
    path = masks(folder, form)
    found = mask_of(path, 3, 1, 2, (24, 48), (12, 12))
    assert found.shape == (3, 12, 12) and found.dtype == bool
    for each, number in zip(found, (1, 3, 5), strict=True):
        edge = (24 + 2 * number - 12) / 2  # in the middle 24 of 48 columns, at half size
        np.testing.assert_allclose(each.sum(axis=1), min(edge, 12), atol=1)


def test_masks_that_do_not_fit_are_refused(folder):
    path = masks(folder, "png")
    with pytest.raises(UserError, match="is a mask of 24×48 for a video of 48×24"):
        mask_of(path, 3, 0, 1, (48, 24), (12, 12))
    with pytest.raises(UserError, match="has 8 frames; accepted are 5"):
        mask_of(path, 5, 0, 2, (24, 48), (12, 12))
    black = folder / "black.jpg"
    Image.fromarray(np.full((24, 48), 5, np.uint8)).save(black)
    assert not mask_of(black, 3, 0, 1, (24, 48), (12, 12)).any()
