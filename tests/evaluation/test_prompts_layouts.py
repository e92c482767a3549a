"""The public layouts: each read from small files in its form, each written for its own scripts."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import video_files
import yaml
from prompt_files import MAKERS, editboard, editverse, fatezero, put, v2vbench

from gen1_jax.errors import UserError
from gen1_jax.evaluation.prompts.clips import load_items
from gen1_jax.evaluation.prompts.reading import LAYOUTS, read_prompts
from gen1_jax.evaluation.prompts.results import LayoutResults
from gen1_jax.video.io import read_video, write_video
from gen1_jax.video.pace import Pace
from gen1_jax.video.trained import TrainedClips

TRAINED = TrainedClips(3, ((16, 16),), Pace())


EXPECTED = {  # number of rows; name, prompt, source prompt and kind of the last; folder of an edit
    "loveu-csv": (
        *(8, "videvo_480p/swans/multiple", "Both.", "Swans on a lake.", "multiple"),
        "edits/videvo_480p/swans/multiple/00000.jpg",
    ),
    "loveu-yaml": (
        *(2, "DAVIS_480p/gold-fish/object", "Several sharks swim in a tank."),
        *("Several goldfish swim in a tank.", "object"),
        "edits/DAVIS_480p/gold-fish/object/00002.jpg",
    ),
    "fatezero": (
        *(2, "attribute_bear_tiger_2", "a yellow leopard walking on the rock"),
        *("a brown bear walking on the rock", ""),
        "edits/attribute_bear_tiger_2/00000.png",
    ),
    "five": (
        *(1, "0001_bus/1_a red bus", "A red bus drives.", "A green bus drives."),
        *("color alteration", "edits/0001_bus/1_a red bus/00000.png"),
    ),
    "ivebench": (
        *(2, "cat", "A cat in anime style.", "A cat.", "Style Editing", "edits/cat/00000.png"),
    ),
    "editboard": (
        *(2, "sample/bear_panda", "a brown panda", "a brown bear", ""),
        "edits/sample/bear_panda/frame_0000.png",
    ),
    "editverse": (
        *(1, "0", "A woman with a crown.", "A woman.", "add object", "edits/0/generate.mp4"),
    ),
    "v2vbench": (
        *(2, "hike/1", "a man with a backpack hikes, pixel art", "a man with a backpack hikes"),
        *("style", "edits/hike/1/00000.png"),
    ),
}


@pytest.mark.parametrize("form", MAKERS)
def test_a_layout_is_read_and_its_results_are_written(tmp_path, form):
    prompts = read_prompts(MAKERS[form](tmp_path))
    count, name, prompt, source, kind, place = EXPECTED[form]
    assert prompts.layout is LAYOUTS[form.partition("-")[0]] and len(prompts.rows) == count
    row = prompts.rows[-1]
    assert (row.name, row.prompt, row.source_prompt, row.kind) == (name, prompt, source, kind)
    items = load_items(prompts, TRAINED)
    assert [item.frames.shape for item in items] == [(3, 16, 16, 3)] * count
    assert all(np.ptp(item.frames) > 100 for item in items)
    out = tmp_path / "out"
    results = LayoutResults(out, prompts, {"model": "m"}, lambda item, setting: setting["method"])
    setting = {"method": "gen1"}
    for item in items:
        assert results.is_missing(item, setting)
        results.write(item, setting, 255 - item.frames)
        results.write(item, setting, 255 - item.frames)  # again, over the first
        assert not results.is_missing(item, setting)
    (folder,) = results.finish()
    assert folder.parent == out / "results" and folder.name.startswith("gen1_")
    assert (folder / place).exists()
    target = prompts.layout.target(row)
    got = read_video(folder / target.edit).frames
    most = 12 if form == "editverse" else 4  # as a video it has its colours at half resolution
    assert np.abs(got.astype(int) - (255 - items[-1].frames)).mean() < most
    if target.source:  # with as many frames as the edit, so that scripts can compare them
        got = read_video(folder / target.source).frames
        assert np.abs(got.astype(int) - items[-1].frames).mean() < most
    if items[-1].mask is not None:
        got = read_video(folder / target.mask).frames[..., 0] > 0
        np.testing.assert_array_equal(got, items[-1].mask)
        assert 0.4 < got.mean() < 0.6
    # Scripts that read a list of edits can read this one, and so can we.
    for index in prompts.layout.index(prompts.rows):
        assert (folder / index).exists()
    if form not in ("fatezero", "loveu-csv", "loveu-yaml", "editverse"):
        again = read_prompts(folder / index, root=_root_of(folder, form))
        assert [r.prompt for r in again.rows] == [r.prompt for r in prompts.rows]
        assert len(load_items(again, TRAINED)) == count


def _root_of(folder: Path, form: str) -> Path:
    return folder / {"five": "data", "editboard": "."}.get(form, "sources")


def test_lists_of_results_name_the_edits(tmp_path):
    prompts = read_prompts(fatezero(tmp_path / "a"))
    (text,) = prompts.layout.index(prompts.rows).values()
    first = {"source": "a brown bear walking on the rock", "target": prompts.rows[0].prompt}
    assert yaml.safe_load(text)["attribute_bear_tiger_1"] == first
    prompts = read_prompts(editverse(tmp_path / "b"))
    assert prompts.notes[0].endswith("1 entries ask for no edit of a video, and are left out")
    (text,) = prompts.layout.index(prompts.rows).values()
    assert list(json.loads(text)) == ["0"] and json.loads(text)["0"]["type"] == "add object"
    prompts = read_prompts(editboard(tmp_path / "c"))
    (text,) = prompts.layout.index(prompts.rows).values()
    assert text.splitlines()[1].split(",")[:3] == [
        "./sources/sample/bear",
        "./edits/sample/bear_autumn",
        "./masks/sample/bear_mask",
    ]


def test_other_runs_have_other_results(tmp_path):
    prompts = read_prompts(v2vbench(tmp_path))
    item = load_items(prompts, TRAINED)[0]
    writers = [LayoutResults(tmp_path, prompts, {"model": m}, lambda *_: "seed-0") for m in "aba"]
    made = [writer.folder(item, {"method": "gen1"}) for writer in writers]
    assert made[0] == made[2] != made[1] and made[0].name.startswith("gen1_seed-0_")


def test_our_own_lines_have_results_too(tmp_path):
    write_video(tmp_path / "a.mp4", video_files.clip(4, 24, 24), 24)
    path = put(tmp_path / "p.jsonl", '{"video": "a.mp4", "prompt": "a star", "name": "../x/y"}')
    prompts = read_prompts(path)
    place = prompts.layout.target(prompts.rows[0]).edit
    assert place.startswith("edits/x-y_") and len(place) == len("edits/x-y_") + 8
    (text,) = prompts.layout.index(prompts.rows).values()
    assert text.splitlines()[1] == f"../x/y,a.mp4,a star,,,{place}"


# ---- what is refused


@pytest.mark.parametrize("form", MAKERS)
def test_a_missing_video_is_named(tmp_path, form):
    path = MAKERS[form](tmp_path / "here")
    if form == "five":
        path /= "edit_prompt"
    moved = tmp_path / "moved" / path.name
    moved.parent.mkdir()
    path.rename(moved)
    with pytest.raises(UserError, match="--root DIR names the folder where they are") as caught:
        read_prompts(moved)
    assert "\n" not in str(caught.value)
    root = tmp_path / "here" / ("data" if form == "five" else "")
    assert len(read_prompts(moved, root=root).rows) == EXPECTED[form][0]


@pytest.mark.parametrize(
    ("form", "was", "becomes"),
    [
        ("five", "0001_bus", "../data/images/0001_bus"),
        ("five", "1_a red bus", "../../../x"),
        ("ivebench", "dog_01.mp4", "/etc/hosts"),
        ("editboard", "./sample/bear,", "../sample/bear,"),
        ("editboard", "./sample/bear_autumn", "../../outside"),
        ("editverse", "videos/174008.mp4", "videos/../../x.mp4"),
        ("editverse", '"0": {', '"../../0": {'),
        ("v2vbench", "video_id: hike", "video_id: ../hike"),
        ("fatezero", "data/attribute/bear", "../attribute/bear"),
        ("loveu-yaml", "./data/loveu", "../data/loveu"),
    ],
)
def test_paths_that_lead_out_are_refused(tmp_path, form, was, becomes):
    path = MAKERS[form](tmp_path / "root")
    files = [path] if path.is_file() else [*path.rglob("*.json"), *path.rglob("*.yaml")]
    for file in files:
        assert was in file.read_text()
        file.write_text(file.read_text().replace(was, becomes))
    with pytest.raises(UserError, match="leads out of"):
        read_prompts(path)


def test_links_that_lead_out_are_refused(tmp_path):
    path = v2vbench(tmp_path / "root")
    (tmp_path / "root/frames/hike").rename(tmp_path / "hike")
    (tmp_path / "root/frames/hike").symlink_to(tmp_path / "hike")
    with pytest.raises(UserError, match="leads out of .* by a link; --root DIR names"):
        read_prompts(path)
    assert len(read_prompts(path, root=tmp_path).rows) == 2
    (tmp_path / "link").symlink_to(tmp_path / "root")  # the whole of it may be a link
    (tmp_path / "root/frames/hike").unlink()
    (tmp_path / "hike").rename(tmp_path / "root/frames/hike")
    assert len(read_prompts(tmp_path / "link/config.yaml").rows) == 2


@pytest.mark.parametrize(
    ("form", "was", "becomes", "culprit"),
    [
        ("v2vbench", "prompt: a superman with", "text: a superman with", "entry 0: prompt is miss"),
        ("v2vbench", "  edit:", "  edit: 5\n  other:", "entry 0: edit is 5; a list of prompts"),
        ("five", '"target_prompt": "A [red]', '"target_prompt": 5, "x": "A', "entry 0: 1_"),
        (
            "ivebench",
            '"target_prompt": "A cat in anime style."',
            '"x": 1',
            "entry 1: target_prompt",
        ),
        (
            "v2vbench",
            "video_id: hike",
            f"video_id: {'hike' * 99}",
            "entry 0: video: no frames/hike",
        ),
        ("fatezero", "left: 0", "left: 9", "offset is .*; videos are taken whole, so 0"),
        ("editverse", '"target_prompt": "A woman with a crown."', '"target_prompt": ""', "entry 0"),
        ("editboard", ",a brown panda", ",", "line 3: target_prompt is ''; a text is accepted"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, form, was, becomes, culprit):
    path = MAKERS[form](tmp_path)
    files = [path] if path.is_file() else [*path.rglob("*.json"), *path.rglob("*.yaml")]
    for file in files:
        assert was in file.read_text()
        file.write_text(file.read_text().replace(was, becomes))
    if form == "five":  # a number is taken as a text: its digits
        assert read_prompts(path).rows[0].prompt == "5"
        return
    with pytest.raises(UserError, match=culprit) as caught:
        read_prompts(path)
    assert "\n" not in str(caught.value)
    if EXPECTED[form][0] > 1 and form in ("ivebench", "editboard"):
        prompts = read_prompts(path, keep_going=True)
        assert len(prompts.rows) == 1 and len(prompts.left_out) == 1


def test_rows_are_plain_data(tmp_path):
    row = read_prompts(v2vbench(tmp_path)).rows[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.name = "x"


def places_of(value, at=()):
    """Every place in nested lists and mappings, as a path of keys."""
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    for key in keys:
        yield (*at, key)
        yield from places_of(value[key], (*at, key))


@pytest.mark.parametrize("form", ["loveu-yaml", "fatezero", "five", "ivebench", "editverse"])
def test_whatever_stands_where_the_error_is_one_line(tmp_path, form):
    """One value after another is lost, or becomes one of another kind."""
    path = MAKERS[form](tmp_path)
    is_json = form not in ("loveu-yaml", "fatezero")
    file = path if path.is_file() else next(path.rglob("*.json" if is_json else "*.yaml"))
    load, dump = (json.loads, json.dumps) if is_json else (yaml.safe_load, yaml.safe_dump)
    whole, refused = file.read_text(), 0
    for place in places_of(load(whole)):
        for value in (None, 5, "", "../x", "\0", "é" * 300, ["x"], {"x": 1}):
            content = load(whole)
            within = content
            for key in place[:-1]:
                within = within[key]
            within[place[-1]] = value
            file.write_text(dump(content))
            try:
                read_prompts(file)
            except UserError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 20
