"""`gen1 inspect` counts what ingested and encoded folders hold, and pictures it."""

import json
import shutil

import numpy as np
import pytest
from footage_files import Clips, Images, clip, image, write, write_footage
from PIL import Image

from gen1_jax.cli import main
from gen1_jax.data_pipelines.encoded.records import make_layout
from gen1_jax.data_pipelines.encoded.writer import EncodedWriter
from gen1_jax.data_pipelines.footage import records
from gen1_jax.data_pipelines.footage.inspect import open_data, pick
from gen1_jax.data_pipelines.footage.reader import open_footage
from gen1_jax.video.io import read_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_footage(tmp_path_factory.mktemp("data"))


def sections_of(folder, **options):
    return open_data(folder).summarize(**options)["sections"]


def inspect(capsys, *arguments):
    code = main(["inspect", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_numbers_of_a_folder(folder):
    sections = sections_of(folder)
    places = [(s["kind"], s["split"], s["bucket"], s["count"]) for s in sections]
    assert places == [
        ("clips", "train", None, 12),
        ("images", "train", [32, 48], 9),
        ("images", "train", [48, 32], 3),
        ("clips", "validation", None, 2),
    ]
    clips = sections[0]
    assert clips["looked_at"] == 12 and clips["damaged"] == 0
    assert clips["sizes"] == {"32x48": 12} and clips["frames"] == {"4": 12}
    # Four frames, 1/6 s apart; the last one lasts as long as the others.
    assert clips["seconds"] == {"min": 0.667, "median": 0.667, "max": 0.667}
    assert clips["hours"] == round(12 * 4 / 6 / 3600, 3)
    assert clips["captions"] == 1.0 and clips["caption_words"] == 2
    assert clips["sources"] == 12
    stored = [len(open_footage(folder).clips("train")[i]["video"]) for i in range(12)]
    assert clips["bytes"] == round(np.mean(stored))
    assert sections[2]["sizes"] == {"48x32": 3}


def test_captions_sources_and_damage_are_counted(tmp_path):
    without = [image(i, (32, 48)) | {"caption": b"", "source": b"one.jpg"} for i in range(3)]
    broken = image(9, (32, 48)) | {"image": b"\xff\xd8\xff"}
    write(Images, tmp_path, {"train_32x48": [*without, image(4, (40, 48)), broken]})
    (section,) = sections_of(tmp_path)
    assert section["count"] == section["looked_at"] == 5 and section["damaged"] == 1
    assert section["captions"] == 0.25 and section["sources"] == 2
    assert section["sizes"] == {"32x48": 3, "40x48": 1}


def test_a_clip_without_a_decoder_counts_as_damaged(tmp_path):
    unknown_codec = clip(1)
    unknown_codec["video"] = unknown_codec["video"].replace(b"avc1", b"none")
    write(Clips, tmp_path, {"train_48x32": [clip(0), unknown_codec]})
    (section,) = sections_of(tmp_path)
    assert section["count"] == 2 and section["damaged"] == 1


def test_large_folders_are_looked_into_at_random(folder):
    clips = sections_of(folder, limit=5, seed=1)[0]
    assert clips["count"] == 12 and clips["looked_at"] == 5
    assert pick(12, 5, 1) == pick(12, 5, 1) != pick(12, 5, 2)
    assert len(set(pick(1000, 100, 0))) == 100 and max(pick(1000, 100, 0)) > 900


def test_a_table_and_pictures(folder, tmp_path, capsys):
    report = {"inputs": 7, "used": 5, "dropped": {"empty file": 2}}
    folder = shutil.copytree(folder, tmp_path / "data")
    (folder / "clips/report.json").write_text(json.dumps(report))
    code, out, err = inspect(capsys, folder, "--out", tmp_path / "look", "--items", 8)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[1].split()[:3] == ["clips", "train", "12"]
    assert "images train 48x32" in out and "100 %, 2 words" in out
    assert "clips: 5 of 7 inputs used; dropped: 2 empty file" in lines
    sheet = np.asarray(Image.open(tmp_path / "look/contact_sheet.png"))
    # The greys of the items, and the paper around them.
    assert sheet.shape[0] > 300 and sheet.shape[1] > 400 and len(np.unique(sheet)) > 20
    film = read_video(tmp_path / "look/mosaic.mp4")
    assert len(film) >= 24 and film.fps == 6
    # Clips play: they get brighter by one from frame to frame, four times over.
    play = film.frames[:8].astype(int).max((1, 2, 3))
    assert play[3] > play[0] and play[4] < play[3]


def test_pictures_go_beside_the_data(folder, tmp_path, capsys, monkeypatch):
    data = shutil.copytree(folder, tmp_path / "data")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place in (data, "../data"):
        code, _, err = inspect(capsys, place, "--items", 1)
        assert code == 0, err
        shutil.rmtree(tmp_path / "data_inspect")
    monkeypatch.chdir(data)
    assert inspect(capsys, ".", "--items", 1)[0] == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"data", "data_inspect", "here"} and not list((tmp_path / "here").iterdir())


def test_a_missing_split_is_said(tmp_path, capsys):
    write(Clips, tmp_path, {"train": [clip(0)]})
    write(Images, tmp_path, {"validation_32x48": [image(0, (32, 48))]})
    report = {"inputs": 3, "used": 2, "asked": {"validation_fraction": 0.01}}
    (tmp_path / "clips" / "report.json").write_text(json.dumps(report))
    _, out, _ = inspect(capsys, tmp_path, "--no-pictures")
    assert "clips: no validation split: the draw held out none of 2 inputs" in out
    assert "larger than 0.01" in out and "images: no training split" in out


def test_pictures_are_drawn_by_seed(folder, tmp_path, capsys):
    sheets = []
    for seed in (0, 0, 1):
        out = tmp_path / str(len(sheets))
        assert inspect(capsys, folder, "--out", out, "--seed", seed, "--items", 4)[0] == 0
        sheets.append((out / "contact_sheet.png").read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


def test_json(folder, tmp_path, capsys):
    code, out, _ = inspect(capsys, folder, "--json", "--no-pictures")
    summary = json.loads(out)
    assert code == 0 and summary["sections"][0]["count"] == 12 and "pictures" not in summary
    code, out, _ = inspect(capsys, folder, "--json", "--out", tmp_path, "--split", "validation")
    assert json.loads(out)["pictures"] == [
        str(tmp_path / "contact_sheet.png"),
        str(tmp_path / "mosaic.mp4"),
    ]


def test_images_alone(tmp_path, capsys):
    data = write_footage(tmp_path / "data", clips=0)
    code, out, err = inspect(capsys, data, "--out", tmp_path / "look")
    assert code == 0, err
    assert len(read_video(tmp_path / "look/mosaic.mp4")) > 0


def test_damaged_items_are_not_shown(tmp_path, capsys):
    broken = clip(1) | {"video": b"no video"}
    write(Clips, tmp_path / "data", {"train": [clip(0), broken]})
    code, out, err = inspect(capsys, tmp_path / "data", "--out", tmp_path / "look")
    assert code == 0 and out.splitlines()[1].split()[-1] == "1"
    write(Clips, tmp_path / "none", {"train": [broken]})
    code, _, err = inspect(capsys, tmp_path / "none", "--out", tmp_path / "look")
    assert code == 2 and "no item can be shown" in err


def test_an_encoded_folder(tmp_path, capsys):
    shapes = {
        "latents": (4, 8, 12, 4),
        "latents_logvar": (4, 8, 12, 4),
        "structure": (2, 4, 8, 12, 4),
        "levels": (2,),
        "content": (4, 16),
    }
    writer = EncodedWriter(tmp_path / "clips/train", make_layout(shapes), count=5)
    rng = np.random.default_rng(0)
    writer.start()
    for shard in writer.missing():
        rows = ({n: rng.normal(size=s) for n, s in shapes.items()} for _ in writer.records(shard))
        writer.write(shard, (row | {"levels": np.array([0, 3])} for row in rows))
    writer.finish()
    code, out, err = inspect(capsys, tmp_path, "--out", tmp_path / "look")
    assert code == 0, err
    assert out.splitlines()[1].split() == [
        "clips/train", "5", f"{(4 * 8 * 12 * 4 * 2 * 4 + 4 * 16 * 2 + 8) / 1000:.1f}",
        "0.000", "float16", "4x8x12x4", "2", "no",
    ]  # fmt: skip
    assert out.splitlines()[2].startswith("no validation split: training on this folder")
    assert len(read_video(tmp_path / "look/mosaic.mp4")) >= 24


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["{films}"], "are made into one by: gen1 ingest clips"),
        (["{begun}"], "is not finished; give the same `gen1 ingest` command"),
        (["{encoded}"], "is not finished; give the same `gen1 precompute` command"),
        (["{above}"], "neither ingested nor encoded"),  # the whole tree is not searched
        (["{data}/clips"], "/clips is a part of "),
        (["{data}", "--split", "test"], "no split 'test'"),
        (["{data}", "--items", "0"], "1 or more"),
        (["{data}", "--out", "{data}/clips/1.0.0/features.json"], "features.json"),
    ],
)
def test_bad_input(folder, tmp_path, capsys, arguments, says):
    for name in ("films", "begun/.ingest_clips", "encoded/train", "above/a/b/c"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("encoded/train", "above/a/b/c"):
        (tmp_path / name / ".job.json").write_text("{}")
    places = {name: tmp_path / name for name in ("films", "begun", "encoded", "above")}
    code, _, err = inspect(capsys, *(a.format(data=folder, **places) for a in arguments))
    assert code == 2 and says in err and len(err.splitlines()) == 1


def test_a_still_clip_has_no_duration(tmp_path):
    frame = np.zeros((1, 32, 48, 3), np.uint8)
    write(Clips, tmp_path, {"train": [records.encode_clip(frame, [3.0], "", "a", 0)]})
    (section,) = sections_of(tmp_path)
    assert section["seconds"]["max"] == 0 and section["frames"] == {"1": 1}
