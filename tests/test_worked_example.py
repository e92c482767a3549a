"""docs/footage.md's worked example: its commands, from films and images to an edit.

To be quick, the last stage alone is trained, for one step, with settings that share programs with
other tests. tests/test_resolve.py takes the other stages as far as their first step.
"""

import json
import shutil

import numpy as np
import pytest
from command_line import gen1
from test_docs import ROOT, blocks_of, commands_in

from gen1_jax.config import load_saved_config
from gen1_jax.video.io import read_video

PARTS = ("unet", "footage", "encoded", "prior", "blur", "pipeline")
QUICK = (
    "encoded.batch_size=8", "encoded.levels_per_clip=2",
    "blur.num_steps=1", "blur.sample_every=0", "blur.eval_every=0", "blur.ema_decay=0.995",
    "blur.optimizer.b2=0.99", "blur.data.batch_size=2", "blur.data.image_fraction=0",
)  # fmt: skip


def test_the_worked_example(capsys, monkeypatch, tmp_path, micro_run, quick):
    pytest.importorskip("apache_beam")
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (tmp_path / "runs" / "demo").symlink_to(micro_run)
    page = (ROOT / "docs" / "footage.md").read_text()
    example = page.partition("## A worked example")[2].partition("\n## ")[0]
    printed = [c for block in blocks_of(example) for c in commands_in(block, "footage.md")]
    printed = [command for command in printed if command.words[0] == "gen1"]
    names = [command.words[1] for command in printed]
    assert names == ["world", "ingest", "ingest", "inspect", "import", "all", "edit"]
    said = {}
    for command in printed:
        words = command.words[1:]
        if words[0] == "ingest":
            words += ["--workers", "1"]
        if words[0] == "all":
            shutil.copytree(micro_run / "structure" / "model", run / "structure" / "model")
            words = [*words[: words.index("--set")], "--parts", *PARTS, "--set", *QUICK]
        code, out, err = gen1(capsys, *words)
        assert code == 0, f"{command.place}: {command.text}: {err}"
        said[words[0]] = out + err

    # ---- what the page says of it
    assert sorted(path.name for path in (run / "encoded").iterdir()) == ["clips", "images_32x32"]
    assert (run / "footage_inspect" / "contact_sheet.png").is_file()
    assert "holds an imported model" in said["all"]
    saved = load_saved_config(run / "blur")
    assert saved.model.in_channels == 12 and "like" not in saved.model
    assert saved.data.num_frames == 8 and saved.data.buckets == [[16, 16]]
    settings = json.loads((run / "pipeline" / "gen1.json").read_text())
    assert settings["size"] == [32, 32] and settings["num_frames"] == 8
    edited = read_video(tmp_path / "runs" / "mine.mp4")
    assert edited.frames.shape == (8, 32, 32, 3) and np.ptp(edited.frames) > 0
