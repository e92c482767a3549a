"""The study: what is compared, what a page and its key hold, what is drawn for whom."""

import json
import re
from collections import Counter

import av
import pytest
from command_line import contents, gen1, refused
from study_files import FPS, clip, evaluation
from video_files import encode

from gen1_jax.evaluation.records import append_records, records_path
from gen1_jax.evaluation.study.drawing import draw, mix
from gen1_jax.evaluation.study.pairs import find_pairs
from gen1_jax.video.io import read_video, write_video

# ---- what is drawn


def test_the_hash_is_the_published_one():
    # FNV-1a's own test values, behind MurmurHash3's finaliser. Of 1 that is 0x514e28b7, which is
    # MurmurHash3_x86_32 of an empty key with seed 1.
    def finalise(h):
        h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
        h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
        return h ^ h >> 16

    assert finalise(1) == 0x514E28B7
    for text, fnv in {"": 0x811C9DC5, "a": 0xE40C292C, "foobar": 0xBF9CF968}.items():
        assert mix(text) == finalise(fnv)


def a_study(pairs: int, each: int, checks: int = 2) -> dict:
    names = [f"p{number:03d}" for number in range(pairs)]
    return {
        "seed": 3,
        "each": each,
        "pairs": dict.fromkeys(names),
        "checks": {f"c{k}": None for k in range(checks)},
    }


def test_numbered_participants_judge_all_pairs_equally_often():
    study = a_study(35, 10)
    seen = Counter(p for n in range(1, 36) for p, _ in draw(study, str(n)))
    assert {seen[pair] for pair in study["pairs"]} == {10}
    assert {seen[check] for check in study["checks"]} == {35}


def test_order_and_side_differ_between_participants_and_are_balanced():
    study = a_study(40, 40)
    draws = [draw(study, f"somebody-{n}") for n in range(60)]
    assert len({tuple(shown) for shown in draws}) == 60
    for shown in draws:
        assert Counter(side for _, side in shown) == {"a": 21, "b": 21}
        assert len({pair for pair, _ in shown}) == 42
    left = Counter(pair for shown in draws for pair, side in shown if side == "a")
    assert all(12 < left[pair] < 48 for pair in study["pairs"])  # 30 ± 4.6 standard deviations
    first = Counter(pair for shown in draws for pair, _ in shown[:21])
    assert all(12 < first[pair] < 48 for pair in study["pairs"])
    assert draw(study, "somebody-7") == draws[7]
    assert draw(study | {"seed": 4}, "somebody-7") != draws[7]


# ---- what is compared


def test_pairs_are_the_first_method_s_against_each_rival_s(tmp_path):
    results = evaluation(tmp_path, ("sdedit-video", "gen1", "outputs"))
    pairs, notes = find_pairs(results)
    assert [tuple(pair.edits) for pair in pairs[::3]] == [
        ("gen1", "sdedit-video"),
        ("gen1", "outputs"),
    ]
    assert len(pairs) == 6 and not notes
    assert all(path.exists() for p in pairs for path in (p.source, *p.edits.values()))
    chosen, _ = find_pairs(results, ("outputs", "gen1"))
    assert {tuple(pair.edits) for pair in chosen} == {("outputs", "gen1")}


def test_one_setting_of_each_method_is_shown(tmp_path):
    results = evaluation(tmp_path, captions=("a red ball",))
    record = json.loads((tmp_path / "records.jsonl").read_text().splitlines()[0])
    write_video(tmp_path / "videos/clip-0/smooth.mp4", clip(40), FPS)
    more = record | {"temporal_scale": 2.0, "output": "videos/clip-0/smooth.mp4"}
    append_records(records_path(tmp_path), [more])
    (pair,), notes = find_pairs(results)
    assert pair.edits["gen1"].name == "gen1.mp4"
    assert notes == [
        "gen1: temporal_scale 1.0, seed 0; 1 other settings are left out (--where chooses)"
    ]
    (pair,), _ = find_pairs(results, where=["gen1:temporal_scale=2"])
    assert pair.edits["gen1"].name == "smooth.mp4"
    assert pair.edits["sdedit-video"].name == "sdedit-video.mp4"


def test_other_systems_come_as_folders_of_videos(tmp_path):
    results, other = evaluation(tmp_path / "results", ("gen1",)), tmp_path / "others"
    write_video(other / "clip-0.gif", clip(90), FPS)
    write_video(other / "clip-2.mp4", clip(90), FPS)
    pairs, notes = find_pairs(results, folders={"tokenflow": other})
    assert [pair.edits["tokenflow"].name for pair in pairs] == ["clip-0.gif", "clip-2.mp4"]
    assert notes == ["1 clips have no edit of both gen1 and tokenflow"]


# ---- what is written


def test_a_page_tells_no_method_and_its_key_tells_all(tmp_path, capsys):
    results, folder = evaluation(tmp_path / "results"), tmp_path / "study"
    code, out, _ = gen1(capsys, "study", "make", results, "-o", folder, "--pairs", 2)
    assert code == 0 and "3 pairs, gen1 against sdedit-video" in out
    assert "each participant judges 2, and 3 checks" in out
    assert sorted(path.name for path in folder.iterdir()) == ["key.json", "page"]
    page = (folder / "page/index.html").read_text()
    names = [path.name for path in (folder / "page/videos").iterdir()]
    assert all(re.fullmatch(r"[0-9a-f]{12}\.mp4", name) for name in names)
    assert not re.search("sdedit|films|clip-", page) and "gen1" not in page.replace(
        "gen1-study", ""
    )
    key = json.loads((folder / "key.json").read_text())
    for entry in key["pairs"].values():
        assert {entry["a"], entry["b"]} == {"gen1", "sdedit-video"} and entry["video"]
    assert {check["right"] for check in key["checks"].values()} <= {"a", "b"}
    first = contents(folder)
    gen1(capsys, "study", "make", results, "-o", folder, "--pairs", 2, "--overwrite")
    assert contents(folder) == first


def test_texts_cannot_leave_their_place(tmp_path, capsys):
    evil = '</script><img src=x onerror=alert(1)> {{script}} <!-- \u2028 & "'
    results, folder = evaluation(tmp_path / "results", captions=(evil,)), tmp_path / "study"
    code, _, err = gen1(
        capsys, "study", "make", results, "-o", folder, "--checks", 1, "--title", evil
    )
    assert code == 0, err
    page = (folder / "page/index.html").read_text()
    assert page.count("<img") == 0 and page.count("</script>") == 2
    data = re.search(r'id="study">(.*?)</script>', page, flags=re.S)[1]
    assert json.loads(data)["pairs"][0]["caption"] == evil.strip()
    # No address but those of its own videos, which the policy holds too.
    assert not re.search(r"https?:|//[a-z]", page.replace("http-equiv", ""))
    assert "default-src &#x27;none&#x27;" in page


def test_videos_are_made_playable_and_lose_their_description(tmp_path, capsys):
    results, other = evaluation(tmp_path / "results", ("gen1",)), tmp_path / "others"
    other.mkdir()
    encode(other / "clip-0.mkv", clip(90), codec="mpeg4", fps=FPS)
    write_video(other / "clip-1.gif", clip(120), FPS)
    with av.open(str(other / "clip-2.mp4"), "w") as container:
        container.metadata["comment"] = "made by tokenflow"
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in clip(150):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    folder = tmp_path / "study"
    code, _, err = gen1(
        capsys, "study", "make", results, "-o", folder, "--folder", f"tokenflow={other}"
    )
    assert code == 0, err
    key = json.loads((folder / "key.json").read_text())
    page = (folder / "page/index.html").read_text()
    shown = json.loads(re.search(r'id="study">(.*?)</script>', page, flags=re.S)[1])
    for pair in shown["pairs"]:
        entry = key["pairs"][pair["id"]]
        path = folder / "page/videos" / pair["a" if entry["a"] == "tokenflow" else "b"]
        assert b"tokenflow" not in path.read_bytes()
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
            assert float(stream.average_rate) == pytest.approx(FPS, rel=0.05)
        shade = 90 + 30 * int(entry["clip"][-1])
        assert abs(int(read_video(path).frames[0, 40, 60, 0]) - shade) < 12
    kept = read_video(other / "clip-2.mp4").frames
    assert any(
        (read_video(path).frames.shape == kept.shape and (read_video(path).frames == kept).all())
        for path in (folder / "page/videos").iterdir()
    )


def test_what_differs_or_is_left_out_is_said(tmp_path, capsys):
    results = evaluation(tmp_path / "results", ("gen1", "sdedit-video", "outputs"))
    place = results / "videos/clip-0"
    (place / "outputs.mp4").write_bytes((place / "gen1.mp4").read_bytes())
    write_video(results / "videos/clip-1/outputs.mp4", clip(9, (64, 48), 12), FPS, overwrite=True)
    record = json.loads((results / "records.jsonl").read_text().splitlines()[0])
    (results / "records-00001.jsonl").write_text(
        json.dumps(record | {"pixels": "x", "prompt": "", "clip": "c"})
        + "\n"
        + json.dumps(record | {"pixels": "y", "clip": "d", "output": None})
        + "\n"
    )
    code, out, err = gen1(capsys, "study", "make", results, "-o", tmp_path / "study")
    assert code == 0, err
    assert "1 of 11 records name no video" in out
    assert "1 pairs are left out: their two edits are equal" in out
    assert re.search("two edits of 1 pairs differ in seconds, such as 0.[28] and 0.[28] ", out)
    assert re.search(r"two edits of 1 pairs differ in shape, such as \d.\d\d:1 and", out)
    assert "1 clips have no edit of both gen1 and outputs" in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("nothing", "nothing: no records of `gen1 evaluate` there"),
        (
            "results --methods gen2",
            "no edits of method 'gen2'; did you mean 'gen1'\\?; accepted: gen1",
        ),
        ("results --methods gen1", "only method gen1 is there to be compared"),
        ("results --where strength", "NAME=VALUE is accepted, NAME of temporal_scale"),
        ("results --where seed=x", "the value is a number"),
        ("results --where seed=3", "has no such edit of gen1; seed is 0"),
        ("results --where outputs:seed=0", "no such method in .*; accepted: gen1, sdedit-video"),
        ("results --folder x", "--folder x; NAME=DIR is accepted"),
        ("results --folder x=nothing", "--folder x=nothing: no such folder"),
        ("results --folder gen1=results", "has a method of this name"),
        ("results --folder x=results", "no video is of a clip, such as clip-0.mp4"),
        ("results --pairs 0", "--pairs 0; 1 or more is accepted"),
        ("results --checks 9", "--checks 9; the study has 3 pairs to make them of"),
        ("results --most-mb 0.001", "larger than 0.001 MB; --most-mb allows more"),
        ("results/records.jsonl", "no records"),
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path, capsys, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    evaluation(tmp_path / "results")
    before = contents(tmp_path)
    refused(capsys, "study", "make", *words.split(), "-o", "study", culprit=line)
    assert contents(tmp_path) == before


def test_missing_videos_are_named(tmp_path, capsys):
    results = evaluation(tmp_path / "results")
    (results / "videos/clip-1/gen1.mp4").unlink()
    line = "1 of 6 videos of the records are not there, such as videos/clip-1/gen1.mp4; the same"
    refused(capsys, "study", "make", results, "-o", tmp_path / "study", culprit=line)
    (results / "records.jsonl").write_text(
        re.sub(r', "output": "[^"]*"', "", (results / "records.jsonl").read_text())
    )
    refused(capsys, "study", "make", results, "-o", tmp_path / "study", culprit="--no-videos")


def test_a_study_is_not_overwritten_unasked(tmp_path, capsys):
    results, folder = evaluation(tmp_path / "results"), tmp_path / "study"
    assert gen1(capsys, "study", "make", results, "-o", folder)[0] == 0
    refused(capsys, "study", "make", results, "-o", folder, culprit="exists; add --overwrite")
