"""Data sets that grow: what is there stays, what it holds already is dropped, kills do no harm."""

import importlib
import io
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from known_footage import archive, film, film_file, jpeg, read_inputs, shot
from PIL import Image

from gen1_jax import cli
from gen1_jax.data_pipelines.footage.clips import ClipSettings
from gen1_jax.data_pipelines.footage.history import notes
from gen1_jax.data_pipelines.footage.images import ImageSettings
from gen1_jax.data_pipelines.footage.ingest import ingest
from gen1_jax.data_pipelines.footage.keys import name_split
from gen1_jax.data_pipelines.footage.reader import open_footage
from gen1_jax.data_pipelines.footage.report import format_report
from gen1_jax.errors import UserError

IMAGES = ImageSettings(buckets=((32, 32),))
CLIPS = ClipSettings(size=(36, 64), num_frames=4, stride=3)


def picture(seed):
    return jpeg(shot(seed, 1, 32, 32)[0])


def recoded(data):
    """The same pixels in another file."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two folders: 24 pictures; then a third of them under other names, recoded ones, new ones."""
    root = tmp_path_factory.mktemp("sources")
    (root / "first").mkdir()
    for seed in range(24):
        (root / "first" / f"{seed}.jpg").write_bytes(picture(seed))
    more = {f"same_{seed}.jpg": picture(seed) for seed in range(8)}
    more |= {f"recoded_{seed}.png": recoded(picture(seed)) for seed in range(8, 12)}
    more |= {f"new_{seed}.jpg": picture(seed) for seed in range(24, 36)}
    (root / "more").mkdir()
    archive(root / "more" / "a.tar", more)
    return root


@pytest.fixture(scope="module")
def first(sources, tmp_path_factory):
    """The data set of the first folder alone."""
    out = tmp_path_factory.mktemp("first")
    ingest(str(sources / "first"), out, IMAGES, validation_fraction=0.3, progress=False)
    return out


def add(sources, out, **options):
    options = {"validation_fraction": 0.3, "progress": False, **options}
    return ingest(str(sources / "more"), out, IMAGES, **options)


def read(out):
    """Split -> sources of its records, in order."""
    builder = tfds.builder("images", data_dir=str(out))
    return {
        split: [record["source"].decode() for record in builder.as_data_source(split)]
        for split in sorted(builder.info.splits)
    }


def files(out):
    """Content of every file, and when each shard was written."""
    found = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items()}


@pytest.fixture(scope="module")
def grown(first, sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("grown")
    shutil.copytree(first, out, dirs_exist_ok=True)
    before, shards = read(out), files(out / "images" / "1.0.0")
    result = add(sources, out)
    return out, before, shards, result


def test_what_is_new_is_added_and_the_rest_is_left_alone(grown, sources):
    out, before, shards, result = grown
    after = read(out)
    assert set(before) == {"train_32x32", "validation_32x32"}
    added = []
    for split, names in before.items():
        assert after[split][: len(names)] == names
        added += after[split][len(names) :]
    assert sorted(added) == [f"a.tar/new_{seed}" for seed in range(24, 36)]
    now = files(out / "images" / "1.0.0")
    assert all(now[name] == data for name, data in shards.items() if "array_record" in name)
    assert len(now) > len(shards)
    footage = open_footage(out)
    assert sum(len(each) for s in footage.splits() for each in footage.images(s).values()) == 36

    report, last = result.report, result.report["rounds"][-1]
    assert result.fresh and report == json.loads((out / "images/report.json").read_text())
    assert last["dropped"] == {"there already": 8, "duplicate": 4} and last["used"] == 12
    assert (report["inputs"], report["used"], report["records"]) == (48, 36, 36)
    assert sum(each["records"] for each in report["splits"].values()) == 36
    rows = [json.loads(line) for line in (out / "images/inputs_001.jsonl").read_text().splitlines()]
    assert len(rows) == 24 and len(read_inputs(out / "images")) == 24
    assert not (out / ".ingest_images").exists()
    this, _, everything = format_report(report).partition("with what was there before:")
    assert re.search(r"inputs +24\n", this) and re.search(r"inputs +48\n", everything)
    assert format_report(report, fresh=False) == everything.strip()


def test_both_commands_are_complete(grown, sources, monkeypatch):
    out, *_ = grown
    before = files(out)
    assert not add(sources, out).fresh
    again = ingest(str(sources / "first"), out, IMAGES, validation_fraction=0.3, progress=False)
    assert not again.fresh and files(out) == before
    # Nothing but what is there: another list, and nothing to add.
    one = ingest(
        str(sources / "first" / "3.jpg"), out, IMAGES, validation_fraction=0.3, progress=False
    )
    assert not one.fresh and files(out) == before
    with pytest.raises(UserError, match="validation_fraction 0.3 then, 0.5 now"):
        add(sources, out, validation_fraction=0.5)
    assert files(out) == before


@pytest.mark.parametrize(
    "moment",
    ["ingest.make_chunk", "duplicates.write_finals", "growth.copy_shard", "growth.write_json",
     "report.write_inputs", "history.keep", "report.write_report"],
)  # fmt: skip
def test_stopped_while_it_grows(grown, first, sources, tmp_path, monkeypatch, moment):
    """The data set can be read at every moment, and ends as if nothing had happened."""
    whole, before, *_ = grown
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    place = f"gen1_jax.data_pipelines.footage.{moment}"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*_after(place, 1 if moment == "growth.write_json" else 0))
        add(sources, tmp_path)
    readable = read(tmp_path)
    switched = moment.split(".")[0] in ("report", "history")
    assert readable == (read(whole) if switched else before)
    assert add(sources, tmp_path).fresh
    assert files(tmp_path) == files(whole)


def _after(place, calls):
    """Returns a place and a function for it that stops after some calls of the first one."""
    parts = place.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            owner = importlib.import_module(".".join(parts[:cut]))
            break
        except ImportError:
            continue
    for name in parts[cut:-1]:
        owner = getattr(owner, name)
    first, left = getattr(owner, parts[-1]), [calls]

    def stop(*arguments, **options):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return first(*arguments, **options)

    return place, stop


def test_an_ingest_that_was_begun_is_not_forgotten(first, sources, tmp_path, monkeypatch):
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*_after("gen1_jax.data_pipelines.footage.growth.copy_shard", 0))
        add(sources, tmp_path)
    with pytest.raises(UserError, match=r"was begun with other settings: .*\.ingest_images"):
        ingest(str(sources / "first" / "1.jpg"), tmp_path, IMAGES, validation_fraction=0.3)
    # Once its records are in, it must be ended: without its work folder they would be unknown.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*_after("gen1_jax.data_pipelines.footage.report.write_inputs", 0))
        add(sources, tmp_path)
    shutil.rmtree(tmp_path / ".ingest_images")
    with pytest.raises(UserError, match="holds 36 records, and its report counts 24"):
        add(sources, tmp_path)
    assert not (tmp_path / ".ingest_images").exists()


def test_duplicates_of_other_data_sets_and_of_clips(first, sources, tmp_path, capsys):
    """`--against` another folder; and images that are frames of clips in the same folder."""
    command = ["ingest", "images", str(sources / "more"), "--buckets", "32x32", "--no-progress"]
    command += ["--workers", "1", "--out", str(tmp_path / "new")]
    assert cli.main([*command, "--against", str(first)]) == 0
    capsys.readouterr()
    report = json.loads((tmp_path / "new/images/report.json").read_text())
    assert report["used"] == 12 and report["dropped"] == {"duplicate": 12}
    assert cli.main([*command, "--against", str(sources)]) == 2
    assert "accepted: a folder that" in capsys.readouterr().err

    frames = shot(5, 10, 72, 128)
    (tmp_path / "films").mkdir()
    film_file(tmp_path / "films" / "a.mp4", 0, frames)
    (tmp_path / "pictures").mkdir()
    for name, frame in (("frame", frames[0]), ("other", shot(6, 1, 72, 128)[0])):
        (tmp_path / "pictures" / f"{name}.jpg").write_bytes(jpeg(frame))
    ingest(str(tmp_path / "films"), tmp_path / "both", CLIPS, progress=False)
    wide = ImageSettings(buckets=((36, 64),))
    result = ingest(str(tmp_path / "pictures"), tmp_path / "both", wide, progress=False)
    rows = read_inputs(tmp_path / "both" / "images")
    assert {name: row["reason"] for name, row in rows.items()} == {
        "frame.jpg": "duplicate",
        "other.jpg": None,
    }
    assert result.report["records"] == 1
    assert not notes(tmp_path / "both", "images")
    assert "clips before images" in notes(tmp_path / "both", "clips")[0]
    shutil.rmtree(tmp_path / "both/clips/history")  # as an earlier version left it
    assert "have no prints" in notes(tmp_path / "both", "images")[0]


def test_films_that_repeat_one_another_are_in_one_split(tmp_path):
    """Recoded films with a scene more: it may not be held out while the others are trained on."""
    root, later = tmp_path / "in", tmp_path / "later"
    root.mkdir()
    later.mkdir()
    for seed in range(3):
        frames = film(seed, (11, 11))
        film_file(root / f"{seed}.mp4", 0, frames)
        for name, extra in ((root / f"again_{seed}.mp4", 5000), (later / f"{seed}.mp4", 6000)):
            longer = np.concatenate([frames, shot(extra + seed, 11)])
            film_file(name, 0, longer, options={"crf": "24"})

    def made(source, out):
        ingest(str(source), tmp_path / out, CLIPS, validation_fraction=0.5, progress=False)
        return tmp_path / out / "clips"

    rows = read_inputs(made(root, "out"))
    for seed in range(3):
        first, again = rows[f"{seed}.mp4"], rows[f"again_{seed}.mp4"]
        assert (first["kept"], again["kept"]) == (2, 1)
        expected = name_split(min(first["content"], again["content"]), 0.5)
        assert first["split"] == again["split"] == expected
    by_content = {row["content"]: row["split"] for row in rows.values()}
    footage = open_footage(tmp_path / "out")
    stored = {
        footage.clips(split)[index]["source"].decode(): split
        for split in footage.splits()
        for index in range(len(footage.clips(split)))
    }
    assert stored == {name: row["split"] for name, row in rows.items()}
    # The order of the inputs does not matter.
    for seed in range(3):
        (root / f"{seed}.mp4").rename(root / f"z_{seed}.mp4")
    others = read_inputs(made(root, "two")).values()
    assert {row["content"]: row["split"] for row in others} == by_content
    # Later films join the split of those that are there.
    lines = (made(later, "out") / "inputs_001.jsonl").read_text().splitlines()
    assert len(lines) == 3
    for row in map(json.loads, lines):
        assert row["kept"] == 1 and row["split"] == rows[row["path"]]["split"]
