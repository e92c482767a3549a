"""`gen1 evaluate`: a prompt file and the world are measured; what cannot be is refused."""

import json
from pathlib import Path

import pytest
import video_files
from command_line import contents, gen1, refused

from gen1_jax.pipeline import read_settings
from gen1_jax.video.io import read_video, write_video


@pytest.fixture
def prompt_file(tmp_path) -> Path:
    write_video(tmp_path / "a.mp4", video_files.clip(8, 32, 32), 8)
    entries = [{"video": "a.mp4", "prompt": p} for p in ("a red ball", "a blue cube", "a star")]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    return path


def evaluate(capsys, pipeline, *arguments):
    command = ("evaluate", "--model", pipeline, "--steps", "1", "--no-progress", *arguments)
    return gen1(capsys, *command)


def test_a_prompt_file_is_evaluated(capsys, pipeline, prompt_file, tmp_path):
    out = tmp_path / "out"
    with prompt_file.open("a") as file:
        file.write('{"video": "lost.mp4", "prompt": "a star"}\n')
    command = ["--prompts", prompt_file, "-o", out, "--frames", "3", "--batch-size", "2"]
    command += ["--structure-level", "7", "0", "--keep-going", "--write-results"]
    code, text, err = evaluate(capsys, pipeline, *command)
    assert code == 0, err
    assert "frame consistency" in text and ": frames 1 to 3 of 8 (--start, " in text
    assert "(and 2 more clips likewise)" in text
    names = {"records.jsonl", "table.md", "metrics.json", "videos", "results"}
    names |= {"trends.png", "trade_off.png"}
    assert {p.name for p in out.iterdir()} == names
    metrics = json.loads((out / "metrics.json").read_text())
    (left_out,) = metrics["left_out"]
    assert "jsonl, line 5: " in left_out and "lost.mp4: no such file" in left_out
    assert left_out in text and left_out in (out / "table.md").read_text()
    assert [s["structure_level"] for s in metrics["settings"]] == [7, 0]
    assert metrics["settings"][0]["frame_consistency"]["mean"] == metrics["frame_consistency"]
    assert "colour_accuracy" not in metrics | metrics["settings"][0]
    assert len((out / "records.jsonl").read_text().splitlines()) == 6

    # Results are there in the form of the prompts' layout, with a list of them.
    for folder in (out / "results").iterdir():
        listed = (folder / "edits.csv").read_text().splitlines()
        assert len(listed) == 4 and "a.mp4,a red ball" in listed[1]
        assert (folder / listed[1].rpartition(",")[2] / "00002.png").exists()
    assert len(list((out / "results").iterdir())) == 2

    # Each edit has a video; one that is lost is made again, and no other.
    folders = sorted((out / "videos").iterdir())
    videos = {Path(p.parent.name[:-9]) / p.name for p in out.rglob("*.mp4")}
    guidance = read_settings(pipeline)["guidance_scale"]
    names = [
        f"temporal-scale-1_structure-level-{t}_guidance-scale-{guidance:g}_seed-0.mp4"
        for t in (0, 7)
    ]
    asked = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    clips = {f"{r['clip']}_{r['prompt']}".translate(str.maketrans(".# ", "---")) for r in asked}
    assert len(clips) == 3
    assert videos == {Path(clip) / name for clip in clips for name in (*names, "source.mp4")}
    assert read_video(folders[0] / names[0]).frames.shape == (3, 32, 32, 3)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    lost = folders[2] / names[1]
    lost.unlink()
    code, _, err = evaluate(capsys, pipeline, *command)
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    assert code == 0 and {p for p in after if after[p] != before[p]} == {lost}, err
    assert len((out / "records.jsonl").read_text().splitlines()) == 6

    # Other frames of the same videos are edits of their own.
    code, _, err = evaluate(capsys, pipeline, *command, "--stride", "2")
    assert code == 0 and len((out / "records.jsonl").read_text().splitlines()) == 12, err
    assert len(list((out / "videos").iterdir())) == 6 and lost.exists()


def test_the_world_is_evaluated_against_its_truth(capsys, micro_run, pipeline, tmp_path):
    """The size of the world is the one that the folder holds."""
    command = ["--world", micro_run / "world", "--clips", "3", "--no-videos"]
    command += ["-o", tmp_path / "out"]
    code, text, err = evaluate(capsys, pipeline, *command)
    assert code == 0, err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(metrics) == [
        *("colour_accuracy", "structure_correlation", "frame_consistency", "prompt_consistency"),
        "measures",
        "settings",
    ]
    (setting,) = metrics.pop("settings")
    assert setting["records"] == 3 and "mask_iou" in setting
    assert "colour accuracy" in text
    assert "mask iou" in (tmp_path / "out" / "table.md").read_text()
    assert not (tmp_path / "out" / "videos").exists()


@pytest.mark.parametrize(
    ("line", "culprit"),
    [
        ("{", "line 2: .*'{'"),
        ('["a.mp4"]', "line 2: "),
        ('{"video": "a.mp4"}', "line 2: "),
        ('{"video": "a.mp4", "prompt": " "}', "line 2: .*prompt"),
        ('{"video": 5, "prompt": "a"}', "line 2: .*video"),
        ('{"video": "none.mp4", "prompt": "a"}', "line 2: .*none.mp4"),
    ],
)
def test_wrong_prompt_files_are_refused(capsys, pipeline, prompt_file, tmp_path, line, culprit):
    good = prompt_file.read_text().splitlines()[0]
    prompt_file.write_text(f"{good}\n{line}\n")
    command = ("evaluate", "--model", pipeline, "--prompts", prompt_file)
    refused(capsys, *command, "-o", tmp_path / "out", culprit=f"prompts.jsonl, {culprit}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--prompts", "empty.jsonl"], "empty.jsonl"),
        (["--world", "nowhere", "--builder", "test"], "nowhere"),
        (["--world", "WORLD", "--builder", "test", "--edits", "mood"], "style, far"),
        (["--prompts", "one.jsonl", "--camera", "shaky"], "--camera goes with --world"),
        (["--world", "WORLD", "--builder", "test", "--clips", "0"], "--clips 0"),
        (["--world", "WORLD", "--builder", "test", "--frames", "3"], "--frames"),
        (["--world", "WORLD", "--size", "8x8"], "--size goes with --prompts"),
        (["--prompts", "one.jsonl", "--clips", "3"], "--clips goes with --world"),
        (["--prompts", "one.jsonl", "--start", "-1"], "--start -1; 0 or more"),
        (["--prompts", "one.jsonl", "--size", "9x9"], "--size 9x9"),
        (["--prompts", "one.jsonl", "--frames", "99"], "--frames 99; this model takes at most"),
        (["--world", "WORLD", "--method", "gen2"], "no method 'gen2'; did you mean 'gen1'"),
        (["--world", "WORLD", "--metrics", "fliker"], "no measure 'fliker'; did you mean"),
        (["--world", "WORLD", "--metrics", "lpips_vgg_outside"], "needs --lpips FOLDER, with VGG"),
        (["--world", "WORLD", "--lpips", "nowhere"], "--lpips nowhere: a folder with safetensors"),
        (["--world", "WORLD", "--strength", "0"], "--strength 0; above 0, up to 1"),
        (["--world", "WORLD", "--save-videos", "0"], "--save-videos 0; .*--no-videos"),
        (["--world", "WORLD", "--seed", "0", "-1"], "--seed -1"),
        (["--world", "WORLD", "--structure-level", "0", "9"], "structure level"),
        (["--world", "WORLD", "--temporal-scale", "nan"], "temporal scale"),
        (["--world", "WORLD", "--batch-size", "0"], "--batch-size 0"),
        (["--world", "WORLD", "--steps", "0"], "steps 0"),
        (["--world", "WORLD", "--seed", "-3"], "--seed -3"),
        ([], "--prompts --world"),
        (["--prompts", "one.jsonl", "-o", "empty.jsonl"], "--output empty.jsonl"),
    ],
)
def test_wrong_evaluations_are_refused(
    capsys, pipeline, micro_run, monkeypatch, tmp_path, arguments, culprit
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    write_video(tmp_path / "a.mp4", video_files.clip(8), 8)
    (tmp_path / "one.jsonl").write_text('{"video": "a.mp4", "prompt": "a"}')
    arguments = [micro_run / "world" if a == "WORLD" else a for a in arguments]
    before = contents(tmp_path)
    command = ("evaluate", "-o", "out", "--model", pipeline, *arguments)
    refused(capsys, *command, culprit=culprit)
    assert contents(tmp_path) == before
