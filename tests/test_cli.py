"""The command line: what works, and that bad input is one line, exit code 2 and no files."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import video_files
from PIL import Image

from gen1_jax import cli, editing
from gen1_jax.editing import VideoEditor
from gen1_jax.video.io import read_video, write_video

CONFIG = Path(__file__).parent / "micro.py"


def gen1(capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `gen1 ARGUMENTS`, in this process."""
    capsys.readouterr()
    with warnings.catch_warnings():
        # As in a process of its own, where a warning is a note and no error.
        warnings.simplefilter("default")
        code = cli.main([str(a) for a in arguments])
    return code, *capsys.readouterr()


def refused(capsys, *arguments, words: str) -> str:
    code, _, err = gen1(capsys, *arguments)
    lines = err.strip().splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith("gen1: "), err
    assert re.search(words, lines[0]), lines[0]
    return lines[0]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with the bytes of files."""
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in paths}


# ------------------------------------------------------------------------------------- gen1 edit


@pytest.fixture(scope="module")
def shared_editor(micro_run):
    from conftest import compile_fast

    with pytest.MonkeyPatch.context() as patch:
        compile_fast(patch, micro_run)
        return VideoEditor.load(micro_run / "pipeline")


@pytest.fixture
def edit(shared_editor, micro_run, monkeypatch, quick, capsys, tmp_path):
    """`gen1 edit` in tmp_path, of the micro pipeline, which is loaded once a module."""
    load = VideoEditor.load

    def load_shared(folder, dtype=None, mesh=None):
        return shared_editor if Path(folder) == micro_run / "pipeline" else load(folder, dtype)

    monkeypatch.setattr(editing.VideoEditor, "load", load_shared)
    monkeypatch.chdir(tmp_path)

    def edit(source, *arguments, model=micro_run / "pipeline", words=None):
        command = ["edit", source, "--model", model, *arguments]
        if "--steps" not in arguments:
            command += ["--steps", "1"]
        if "--prompt" not in arguments and "--image" not in arguments:
            command += ["--prompt", "a red ball"]
        if words is None:
            code, out, err = gen1(capsys, *command)
            assert code == 0 and "Traceback" not in err, err
            return out, err
        before = contents(tmp_path)
        line = refused(capsys, *command, words=words)
        assert contents(tmp_path) == before
        return line

    return edit


@pytest.fixture
def clip(tmp_path) -> Path:
    path = tmp_path / "clip.mp4"
    write_video(path, video_files.clip(8), 12)
    return path


def test_an_edit_writes_what_it_says(edit, clip, tmp_path):
    out, err = edit(clip, "-o", "new.mp4", "--frames", "3", "--save-structure", "depth.gif")
    assert not err and "new.mp4, depth.gif, new_preview.mp4" in out
    made = read_video(tmp_path / "new.mp4")
    assert made.frames.shape == (3, 32, 32, 3) and made.fps == 12
    assert len(read_video(tmp_path / "depth.gif")) == 3
    preview = read_video(tmp_path / "new_preview.mp4")
    assert len(preview) == 3 and preview.frames.shape[2] > 3 * preview.frames.shape[1] / 2


def test_an_edit_like_a_picture(edit, clip, tmp_path):
    Image.fromarray(video_files.clip(1)[0]).save(tmp_path / "look.png")
    edit(clip, "--image", "look.png", "-o", "frames", "--frames", "3", "--no-preview")
    assert [p.name for p in sorted((tmp_path / "frames").iterdir())] == [
        f"0000{i}.png" for i in range(3)
    ]


def still(folder: Path) -> Path:
    Image.fromarray(video_files.clip(1)[0]).save(folder / "still.png")
    return folder / "still.png"


def one_frame(folder: Path) -> Path:
    write_video(folder / "one.mp4", video_files.clip(1), 8)
    return folder / "one.mp4"


def odd(folder: Path) -> Path:
    write_video(folder / "odd.gif", video_files.clip(3, 33, 47), 10)
    return folder / "odd.gif"


def alpha(folder: Path) -> Path:
    (folder / "alpha").mkdir()
    for i, frame in enumerate(video_files.clip(3)):
        image = Image.fromarray(frame).convert("RGBA")
        image.putalpha(Image.fromarray(frame[..., 0]))
        image.save(folder / "alpha" / f"{i}.png")
    return folder / "alpha"


def grey(folder: Path) -> Path:
    (folder / "grey").mkdir()
    for i, frame in enumerate(video_files.clip(3)):
        Image.fromarray(frame).convert("L").save(folder / "grey" / f"{i}.png")
    return folder / "grey"


def variable(folder: Path) -> Path:
    ticks = [0, 40, 60, 180, 240, 300]
    return video_files.encode(folder / "vfr.mp4", video_files.clip(6), ticks=ticks)


def rotated(folder: Path) -> Path:
    path = folder / "rotated.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to see it upright
    Image.fromarray(video_files.clip(1)[0]).save(path, exif=exif)
    return path


@pytest.mark.parametrize("make", [still, one_frame, odd, alpha, grey, variable, rotated])
def test_all_kinds_of_input_are_edited(edit, tmp_path, make):
    """What a user would expect: as many frames as there are, up to the model's own number."""
    source = make(tmp_path)
    edit(source, "-o", "out.gif", "--no-preview")
    made = read_video(tmp_path / "out.gif")
    expected = read_video(source)
    assert made.frames.shape[1:] == (32, 32, 3)
    if len(expected) < 4:  # equal frames of a GIF are merged
        assert 1 <= len(made) <= len(expected)


def test_a_truncated_video_is_edited_with_a_note(edit, tmp_path):
    whole = tmp_path / "whole.mp4"  # its index comes first; of noise every frame takes as much
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), np.uint8)
    write_video(whole, noise, 8)
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    # Enough is left for eight frames; all sixteen are not.
    edit(tmp_path / "cut.mp4", "-o", "out.mp4", "--no-preview")
    line = edit(tmp_path / "cut.mp4", "--frames", "16", "-o", "b.mp4", words="cut.mp4")
    assert "asked" in line
    (tmp_path / "stub.mp4").write_bytes(data[: len(data) // 3])
    _, err = edit(tmp_path / "stub.mp4", "-o", "c.mp4", "--no-preview")
    assert err.startswith("gen1: note: ") and "lost" in err and len(err.splitlines()) == 1
    (tmp_path / "nothing.mp4").write_bytes(data[:200])
    edit(tmp_path / "nothing.mp4", "-o", "d.mp4", words="nothing.mp4: has no video")


def test_a_long_prompt_is_cut_with_a_note(edit, clip):
    _, err = edit(clip, "--prompt", "a red ball " * 40, "--frames", "3", "--no-preview")
    assert err.startswith("gen1: note: ") and "longer" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("text.mp4", b"not a video at all", "text.mp4: not a video"),
        ("empty.mp4", b"", "empty.mp4"),
        ("missing.mp4", None, "no such file"),
    ],
)
def test_inputs_that_are_no_videos_are_refused(edit, tmp_path, name, data, words):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    edit(tmp_path / name, words=words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", ""], "--prompt is empty"),
        (["--prompt", "  \n"], "--prompt is empty"),
        (["--prompt", "a", "--image", "b.png"], "not allowed with"),
        (["--image", "nowhere.png"], "nowhere.png: no such file"),
        (["--structure-level", "8"], "structure level 8; whole numbers 0 to 7"),
        (["--structure-level", "-1"], "structure level -1; whole numbers 0 to 7"),
        (["--structure-level", "1.5"], "structure-level: invalid int value: '1.5'"),
        (["--temporal-scale", "nan"], "a finite number is accepted"),
        (["--guidance-scale", "inf"], "a finite number is accepted"),
        (["--guidance-scale", "much"], "guidance-scale: invalid float"),
        (["--steps", "0"], "steps 0; whole numbers 1 to 1000"),
        (["--steps", "1001"], "1 to 1000"),
        (["--seed", "-1"], "--seed -1; 0 to"),
        (["--seed", "1" + "0" * 30], "0 to"),
        (["--frames", "0"], "--frames 0; 1 or more"),
        (["--frames", "9"], "has 8 frames; 9 .*asked"),
        (["--frames", "17"], "at most 16"),
        (["--start", "8"], "8 frames"),
        (["--stride", "0"], "stride"),
        (["--size", "32"], "HEIGHTxWIDTH"),
        (["--size", "0x32"], "HEIGHTxWIDTH"),
        (["--size", "33x32"], "multiples of 2"),
        (["-o", "out.avi"], "cannot write .avi"),
        (["-o", "clip.mp4", "--overwrite"], "must be different"),
        (["-o", "a.mp4", "--save-structure", "a.mp4"], "must be different"),
        (["-o", "/proc/none/out.mp4"], "cannot be made"),
        (["--no-such-option"], "unrecognized arguments.*gen1.*--help"),
    ],
)
def test_wrong_arguments_are_refused(edit, clip, arguments, words):
    edit(clip, *arguments, words=words)


def test_an_output_that_exists_is_kept(edit, clip, tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"mine")
    edit(clip, words="out.mp4: exists already")
    (tmp_path / "new_preview.mp4").write_bytes(b"mine")
    edit(clip, "-o", "new.mp4", words="new_preview.mp4: exists already")
    edit(clip, "--overwrite", "--frames", "3", "--no-preview")
    assert len(read_video(tmp_path / "out.mp4")) == 3


def test_models_that_are_none_are_refused(edit, clip, micro_run, tmp_path):
    edit(clip, model=tmp_path / "nowhere", words="nowhere is no pipeline folder")
    edit(clip, model=clip, words="clip.mp4 is no pipeline folder")
    edit(clip, model=micro_run / "blur" / "model", words="no readable gen1.json")
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    for path in (micro_run / "pipeline").iterdir():
        (pipeline / path.name).symlink_to(path)
    (pipeline / "unet").unlink()
    edit(clip, model=pipeline, words="unet")
    (pipeline / "unet").symlink_to(micro_run / "autoencoder" / "model")
    edit(clip, model=pipeline, words="unet holds AutoencoderKL; unet must be VideoUNet")


# ------------------------------------------------------------------------------------- configs


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--config", "huge:video"], "no config 'huge'; accepted: demo, "),
        (["train", "--config", "nowhere.py:video"], "no config file nowhere.py"),
        (["train", "--config", f"{__file__}:video"], "has no get_config"),
        (["train", "--config", "tiny:vidoe"], "unknown part 'vidoe'; known: all, world"),
        (["train", "--config", "tiny"], "this part is not trained"),
        (["train", "--config", "tiny:world"], "this part is not trained"),
        (["precompute", "--config", "tiny:video"], "encodes nothing"),
        (["all", "--config", "tiny:video"], "a whole config"),
        (["all", "--config", "tiny", "--parts", "video", "vidoe"], "vidoe: no such part; known: "),
        (["train", "--config", "tiny:video", "--set", "num_step=3"], "keys: .*num_steps"),
        (["train", "--config", "tiny:video", "--set", "loss.kl=3"], "keys: .*loss.latents_drawn"),
        (["train", "--config", "tiny:video", "--set", "num_steps=many"], "another type"),
        (["train", "--config", "tiny:video", "--set", "num_steps=1.5"], "another type"),
        (["train", "--config", "tiny:video", "--set", "num_steps"], "key.path=value"),
        (["train", "--config", "tiny:video", "--set", "num_steps=0"], "1 or more"),
        (["train", "--config", "tiny:video"], "no model folder"),
        (["train", "--config", "tiny:autoencoder"], "no moving_shapes"),
        (["world", "--builder", "vast"], "unknown moving_shapes config 'vast'"),
        (["guess"], "invalid choice: 'guess'"),
    ],
)
def test_wrong_configs_are_refused(capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    if arguments[0] != "guess":
        arguments = [*arguments[:1], "--workdir", "w", *arguments[1:], "--no-progress"]
    refused(capsys, *arguments, words=words)
    assert not contents(tmp_path)


def test_a_config_that_cannot_be_loaded_is_refused(capsys, tmp_path):
    (tmp_path / "mine.py").write_text("def get_config(:\n")
    command = ("train", "--workdir", tmp_path / "w", "--config")
    refused(capsys, *command, f"{tmp_path}/mine.py:a", words="cannot be loaded: SyntaxError")


def test_a_workdir_that_is_a_file_is_refused(capsys, tmp_path):
    (tmp_path / "w").write_text("mine")
    for part in ("world", "all"):
        command = (part, "--workdir", tmp_path / "w")
        command += ("--builder", "test") if part == "world" else ("--config", CONFIG)
        refused(capsys, *command, "--no-progress", words="w.* is a file|cannot write")
    assert (tmp_path / "w").read_text() == "mine"


def test_a_stage_by_its_command(capsys, micro_run, quick, tmp_path):
    """`gen1 train` from the model of the stage before, to a model folder; a second time at once."""
    folder = micro_run / "video_again"
    command = ("train", "--config", f"{CONFIG}:video", "--workdir", folder, "--no-progress")
    command += ("--set", "sample_every=1000", "data.image_fraction=0.0")
    code, out, err = gen1(capsys, *command)
    assert code == 0, err
    assert "temporal" in out and (folder / "model" / "config.json").exists()
    assert {p.name for p in folder.iterdir()} == {
        *("config.json", "checkpoints", "logs", "samples", "model", "finished.json")
    }
    before = contents(folder)
    assert gen1(capsys, *command) == (0, "", "") and contents(folder) == before
    command = (*command, "block_out_channels=1")
    refused(capsys, *command, words="unknown key|no such key")
    refused(capsys, *command[:-1], "num_steps=9", "model.layers_per_block=2", words="another model")


# ------------------------------------------------------------------------------------- evaluate


@pytest.fixture
def prompt_file(tmp_path) -> Path:
    write_video(tmp_path / "a.mp4", video_files.clip(8, 32, 32), 8)
    entries = [{"video": "a.mp4", "prompt": p} for p in ("a red ball", "a blue cube", "a star")]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    return path


def evaluate(capsys, model, *arguments):
    command = ("evaluate", "--model", model, "--steps", "1", "--no-progress", *arguments)
    return gen1(capsys, *command)


def test_a_prompt_file_is_evaluated(capsys, micro_run, quick, prompt_file, tmp_path):
    out = tmp_path / "out"
    command = ["--prompts", prompt_file, "-o", out, "--frames", "3", "--batch-size", "2"]
    command += ["--structure-level", "0", "7"]
    code, text, err = evaluate(capsys, micro_run / "pipeline", *command)
    assert code == 0, err
    assert "frame consistency" in text
    names = {"records.jsonl", "table.md", "metrics.json", "trends.png"}
    assert {p.name for p in out.iterdir()} == names
    metrics = json.loads((out / "metrics.json").read_text())
    assert {"frame_consistency", "prompt_consistency"} <= metrics.keys()
    assert "colour_accuracy" not in metrics and all(0 <= v <= 1 for v in metrics.values())
    assert len((out / "records.jsonl").read_text().splitlines()) == 6


def test_the_world_is_evaluated_against_its_truth(capsys, micro_run, quick, tmp_path):
    command = ["--world", micro_run / "world", "--builder", "test", "--clips", "3"]
    command += ["-o", tmp_path / "out"]
    code, text, err = evaluate(capsys, micro_run / "pipeline", *command)
    assert code == 0, err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(metrics) == [
        *("colour_accuracy", "structure_correlation", "frame_consistency", "prompt_consistency")
    ]
    assert all(0 <= value <= 1 for value in metrics.values()) and "mask iou" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: .*is accepted, not '{'"),
        ('["a.mp4"]', "line 2: .*is accepted"),
        ('{"video": "a.mp4"}', "line 2: .*is accepted"),
        ('{"video": "a.mp4", "prompt": " "}', "line 2: video and prompt must be texts"),
        ('{"video": 5, "prompt": "a"}', "line 2: video and prompt must be texts"),
        ('{"video": "none.mp4", "prompt": "a"}', "line 2: .*none.mp4: no such file"),
    ],
)
def test_wrong_prompt_files_are_refused(
    edit, capsys, micro_run, prompt_file, tmp_path, line, words
):
    good = prompt_file.read_text().splitlines()[0]
    prompt_file.write_text(f"{good}\n{line}\n")
    command = ("evaluate", "--model", micro_run / "pipeline", "--prompts", prompt_file)
    refused(capsys, *command, "-o", tmp_path / "out", words=f"prompts.jsonl, {words}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["--prompts", "empty.jsonl"], "holds no prompts"),
        (["--world", "nowhere", "--builder", "test"], "no moving_shapes/test under nowhere"),
        (["--world", "WORLD", "--builder", "test", "--clips", "99"], "99 clips asked"),
        (["--world", "WORLD", "--builder", "test", "--clips", "0"], "--clips 0; 1 or more"),
        (["--world", "WORLD", "--builder", "test", "--frames", "3"], "go with --prompts"),
        (["--world", "WORLD", "--structure-level", "0", "9"], "0 to 7"),
        (["--world", "WORLD", "--temporal-scale", "nan"], "a finite number"),
        (["--world", "WORLD", "--batch-size", "0"], "1 or more"),
        (["--world", "WORLD", "--steps", "0"], "1 to 1000"),
        (["--world", "WORLD", "--seed", "-3"], "--seed -3"),
        ([], "one of the arguments --prompts --world is required"),
        (["--prompts", "one.jsonl", "-o", "empty.jsonl"], "--output empty.jsonl cannot be made"),
    ],
)
def test_wrong_evaluations_are_refused(edit, capsys, micro_run, tmp_path, arguments, words):
    (tmp_path / "empty.jsonl").write_text("\n")
    write_video(tmp_path / "a.mp4", video_files.clip(8), 8)
    (tmp_path / "one.jsonl").write_text('{"video": "a.mp4", "prompt": "a"}')
    arguments = [micro_run / "world" if a == "WORLD" else a for a in arguments]
    before = contents(tmp_path)
    command = ("evaluate", "-o", "out", "--model", micro_run / "pipeline", *arguments)
    refused(capsys, *command, words=words)
    assert contents(tmp_path) == before


# ------------------------------------------------------------------------------------- processes


def process(*arguments, cwd=None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "gen1_jax.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_help_is_for_all_and_for_each(capsys):
    assert cli.main([]) == 2
    assert "edit a video with a prompt" in capsys.readouterr().out
    for command in ((), *((name,) for name in cli.COMMANDS)):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*command, "--help"])
        assert stopped.value.code == 0
        assert f"usage: {' '.join(('gen1', *command))}" in capsys.readouterr().out


def test_help_is_light():
    code = (
        "import sys; from gen1_jax import cli\n"
        "try: cli.main(['edit', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'torch', 'transformers', 'flax', 'grain', 'tensorflow_datasets'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bad_input_of_a_process(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    before = contents(tmp_path)
    for words, *arguments in (
        ("prompt is empty", "edit", "text.mp4", "--prompt", ""),
        ("unknown part", "train", "--config", "tiny:x", "--workdir", "w"),
    ):
        done = process(*arguments, cwd=tmp_path)
        assert done.returncode == 2 and not done.stdout
        assert done.stderr.count("\n") == 1 and words in done.stderr
    assert contents(tmp_path) == before


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    command = f"{sys.executable} -m gen1_jax.cli edit --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=os.environ, cwd=tmp_path
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr and done.stdout


def test_a_work_folder_that_is_an_address_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train", "--config", "tiny:video", "--workdir", "gs://bucket/runs/video"]
    refused(capsys, *command, words="gs:/bucket/runs/video is an address; a folder is accepted")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("variable", ["GEN1_PROCESSES", "SLURM_STEP_NUM_TASKS"])
@pytest.mark.parametrize("command", ["train --config tiny:video", "all --config tiny"])
def test_several_processes_do_not_run_alone(capsys, tmp_path, monkeypatch, variable, command):
    monkeypatch.setenv(variable, "4")
    command = [*command.split(), "--workdir", tmp_path / "run"]
    refused(capsys, *command, words="one of 4 processes, and would run alone.*--processes 4")
    assert not any(tmp_path.iterdir())
