"""`gen1 export`: what it writes, what comes back bit for bit, and what goes wrong."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from micro_run import load
from safetensors.numpy import load_file
from tiny_unet import drawn_params

from gen1_jax.cli import main
from gen1_jax.errors import UserError
from gen1_jax.files import write_json
from gen1_jax.pipeline import MODELS
from gen1_jax.training.checkpoint import Checkpoints
from gen1_jax.training.state import make_optimizer, new_state
from gen1_jax.weights.exporting import export_pipeline, model_card
from gen1_jax.weights.folder import module_from_config
from gen1_jax.weights.importing import import_pipeline
from gen1_jax.weights.naming import params_to_state_dict
from gen1_jax.weights.pipeline_index import scheduler_config

ROOT = Path(__file__).resolve().parents[2]


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    return {
        name: array
        for file in sorted(folder.glob("*.safetensors"))
        for name, array in load_file(file).items()
    }


def assert_same_bits(got: dict, want: dict) -> None:
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape, name
        assert got[name].tobytes() == array.tobytes(), name


def test_what_was_exported_comes_back_bit_for_bit(micro_run, exported, tmp_path):
    import_pipeline(exported, tmp_path / "pipeline")
    for name in MODELS:
        original = micro_run / "pipeline" / name
        assert_same_bits(tensors_of(tmp_path / "pipeline" / name), tensors_of(original))
    export_pipeline(tmp_path / "pipeline", tmp_path / "again")
    for folder in (path.parent for path in exported.rglob("*.safetensors")):
        again = tmp_path / "again" / folder.name
        assert_same_bits(tensors_of(again), tensors_of(folder))
        assert (again / "config.json").read_text() == (folder / "config.json").read_text()
    for name in ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json"):
        assert (tmp_path / "again" / name).read_text() == (exported / name).read_text()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_and_shards(micro_run, exported, tmp_path, dtype):
    size = 4_000
    export_pipeline(micro_run / "pipeline", tmp_path / "half", dtype=dtype, max_shard_bytes=size)
    shards = sorted((tmp_path / "half" / "unet").glob("*.safetensors"))
    assert len(shards) > 1 and len(shards) < 510
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    want = {name: x.astype(kind) for name, x in tensors_of(exported / "unet").items()}
    assert_same_bits(tensors_of(tmp_path / "half" / "unet"), want)
    import_pipeline(tmp_path / "half", tmp_path / "back")
    want = {name: x.astype(np.float32) for name, x in want.items()}
    assert_same_bits(tensors_of(tmp_path / "back" / "unet"), want)


def write_run(folder: Path, config, step: int = 2) -> dict[str, dict]:
    """Writes a run with one checkpoint, whose average and weights were drawn; returns the two."""
    module = module_from_config(config.model.to_dict())
    drawn = {"ema": drawn_params(module, 1), "raw": drawn_params(module, 2)}
    optimizer = make_optimizer(num_steps=config.num_steps, **config.optimizer)
    state = new_state(optimizer, drawn["raw"]).replace(ema=drawn["ema"], step=jnp.int32(step))
    Checkpoints(folder / "checkpoints").save_now(step, state, {})
    write_json(folder / "config.json", config.to_dict())
    return {which: params_to_state_dict(params) for which, params in drawn.items()}


def test_weights_of_a_checkpoint(micro_run, tmp_path, capsys):
    """A run that is not finished gives its average, or the weights themselves."""
    run, pipeline = tmp_path / "blur", micro_run / "pipeline"
    drawn = write_run(run, load(micro_run, "blur"))
    for which, want in drawn.items():
        output = tmp_path / which
        arguments = ["export", pipeline, "-o", output, "--run", run, "--weights", which]
        assert main([*map(str, arguments)]) == 0
        assert_same_bits(tensors_of(output / "unet"), want)
        assert "at step 2" in (output / "README.md").read_text()
    capsys.readouterr()
    error = fails(capsys, "export", pipeline, "-o", tmp_path / "x", "--weights", "raw")
    assert "--run" in error
    error = fails(capsys, "export", pipeline, "-o", tmp_path / "x", "--run", tmp_path)
    assert f"config.json in {tmp_path}" in error
    write_run(tmp_path / "prior", load(micro_run, "prior"))
    error = fails(capsys, "export", pipeline, "-o", tmp_path / "x", "--run", tmp_path / "prior")
    assert "PriorTransformer" in error and not (tmp_path / "x").exists()


def test_the_schedule_is_written_as_diffusers_reads_it():
    settings = {"schedule": {"zero_terminal_snr": True}, "spacing": "trailing"}
    config = scheduler_config(settings)
    assert config["rescale_betas_zero_snr"] and config["timestep_spacing"] == "trailing"
    assert config["prediction_type"] == "v_prediction" and not config["set_alpha_to_one"]


@pytest.mark.parametrize(
    ("pace", "taken", "words"),
    [
        ({}, "[:8]", "fps=8) 32 x 48. The"),
        ({"stride": 1, "frame_rate": 12.0}, "[:8]", "fps=12) 32 x 48, each frame of a video of 12"),
        ({"stride": 4, "frame_rate": 30.0}, "[:32:4]", "fps=8) every 4th frame of a video of 30"),
        ({"stride": 2}, "[:16:2]", "fps=8) 48, every 2nd frame of a video. The"),
    ],
)
def test_the_card_takes_frames_at_the_pace_of_training(pace, taken, words):
    settings = {"size": (32, 48), "num_frames": 8, "guidance_scale": 2.0} | pace
    card = " ".join(model_card(settings, {"unet": 1}, "float32", "its own").split())
    fps, _, said = words.partition(" ")
    assert f'load_video("clip.mp4"){taken} edit' in card and fps in card and said in card


# ---- what goes wrong


def fails(capsys, *arguments) -> str:
    assert main([*map(str, arguments)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("gen1: ")
    return error


def test_bad_arguments(micro_run, tmp_path, capsys):
    pipeline = micro_run / "pipeline"
    error = fails(capsys, "export", tmp_path / "none", "-o", tmp_path / "x")
    assert "no pipeline folder" in error
    error = fails(capsys, "export", pipeline, "-o", tmp_path / "x", "--max-shard-size", "big")
    assert "--max-shard-size big" in error
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    error = fails(capsys, "export", pipeline, "-o", tmp_path / "full")
    assert "--overwrite" in error
    error = fails(capsys, "export", pipeline, "-o", tmp_path / "full", "--overwrite")
    assert "will not replace" in error
    assert [file.name for file in tmp_path.iterdir()] == ["full"]


def test_a_damaged_part_leaves_no_half_export(micro_run, tmp_path):
    shutil.copytree(micro_run / "pipeline", tmp_path / "pipeline")
    file = tmp_path / "pipeline" / "prior" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=file.name):
        export_pipeline(tmp_path / "pipeline", tmp_path / "out")
    shutil.rmtree(tmp_path / "pipeline" / "prior")
    with pytest.raises(UserError, match="no prior"):
        export_pipeline(tmp_path / "pipeline", tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["pipeline"]


def test_a_full_disk_leaves_the_earlier_export(micro_run, exported, tmp_path):
    """The operating system really refuses to let a file grow beyond a limit."""
    shutil.copytree(exported, tmp_path / "out")
    code = """
        import resource, signal, sys
        from gen1_jax.cli import main
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        sys.exit(main(sys.argv[1:]))
    """
    arguments = ["export", micro_run / "pipeline", "-o", tmp_path / "out", "--overwrite"]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert re.match("gen1: cannot write .*out: ", done.stderr.strip().splitlines()[-1])
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    for folder in (path.parent for path in exported.rglob("*.safetensors")):
        assert_same_bits(tensors_of(tmp_path / "out" / folder.name), tensors_of(folder))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "model_index.json",
            {"_class_name": "StableDiffusionPipeline"},
            "import --unet .*/in/unet",
        ),
        ("model_index.json", {"size": None}, "size"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "linear"}, "scaled_linear"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": None}, "num_train"),
    ],
)
def test_another_pipeline_is_not_taken_in(exported, tmp_path, file, change, message):
    shutil.copytree(exported, tmp_path / "in")
    content = json.loads((tmp_path / "in" / file).read_text()) | change
    content = {name: value for name, value in content.items() if value is not None}
    (tmp_path / "in" / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        import_pipeline(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
