"""Many videos from a prompt file: each whole or not there, gone on with, errors counted."""

import json

import numpy as np
import video_files
from command_line import contents, gen1, refused

from gen1_jax.video.io import read_video, write_video


def test_a_folder_is_edited_row_by_row(pipeline, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips" / "in").mkdir(parents=True)
    write_video(tmp_path / "clips" / "a.mp4", video_files.clip(3), 12)
    write_video(tmp_path / "clips" / "in" / "b.mp4", video_files.clip(3)[::-1], 12)
    (tmp_path / "clips" / "text.mp4").write_text("no video")
    write_video(tmp_path / "outside.mp4", video_files.clip(3), 12)
    rows = [
        {"video": "a.mp4", "prompt": "a red ball", "seed": 3},
        {"video": "in/b.mp4", "prompt": "a blue box", "name": "mine", "frames": 2, "mood": 1},
        {"video": "text.mp4", "prompt": "a red ball"},
        {"video": "../outside.mp4", "prompt": "a red ball"},
        {"video": "none.mp4", "prompt": "a red ball"},
        {"video": "a.mp4", "prompt": "a red ball", "structure_level": "many", "name": "x"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["edit", "clips", "--prompts", "rows.jsonl", "--model", pipeline, "--steps", "1"]
    command += ["-o", "edits"]
    code, out, err = gen1(capsys, *command)
    assert code == 2 and "4 of 6 edits failed; edits/report*.jsonl says why" in err
    assert "rows.jsonl: not used: mood" in out and "6 edits: 2 made, 4 failed" in out
    lines = (tmp_path / "edits" / "report.jsonl").read_text().splitlines()
    *report, last = [json.loads(line) for line in lines]
    assert last == {"ended": True}
    assert sorted(row["status"] for row in report) == ["failed"] * 4 + ["made"] * 2
    errors = " ".join(row.get("error", "") for row in report)
    for words in (
        "none.mp4: no such",
        "text.mp4: not a video",
        "leads out of clips",
        "'many'; a wh",
    ):
        assert words in errors
    made = sorted(path.name for path in (tmp_path / "edits").glob("*.mp4"))
    assert len(made) == 2 and made[0].startswith("a_") and made[1] == "mine.mp4"
    assert len(read_video(tmp_path / "edits" / "mine.mp4")) == 2
    # The same command makes nothing again; a changed row is made anew.
    before = contents(tmp_path / "edits")
    _, out, _ = gen1(capsys, *command)
    assert "2 there, 4 failed" in out
    after = contents(tmp_path / "edits")
    assert {k: v for k, v in before.items() if "report" not in str(k)} == {
        k: v for k, v in after.items() if "report" not in str(k)
    }
    first = read_video(tmp_path / "edits" / "mine.mp4").frames
    (tmp_path / "edits" / made[0]).unlink()
    rows[1]["prompt"] = "a green ring"
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows[:2])))
    code, out, _ = gen1(capsys, *command)
    assert code == 0 and "2 edits: 2 made" in out
    assert not np.array_equal(first, read_video(tmp_path / "edits" / "mine.mp4").frames)


def test_wrong_folders_are_refused(pipeline, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"video": "a.mp4", "prompt": "a"}\n')
    command = ["edit", "clips", "--prompts", "rows.jsonl", "--model", pipeline]
    for more, culprit in (
        (["-o", "edits", "--prompt", "b"], "--prompt is for one video; with --prompts the file"),
        (["-o", "edits.mp4"], "--output edits.mp4: with --prompts it is a folder"),
        (["-o", "edits"], "a.mp4: no such file"),  # no video at all
    ):
        refused(capsys, *command, *more, culprit=culprit)
    refused(capsys, "edit", "rows.jsonl", *command[2:], culprit="it is the folder of the videos")
    one = ["edit", "clips", "--prompt", "a", "--model", pipeline, "--processes", "2"]
    refused(capsys, *one, culprit="--processes shares out the videos of --prompts")
