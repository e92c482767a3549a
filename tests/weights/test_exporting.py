"""`gen1 export`: loads and edits in PyTorch alone, and comes back bit for bit."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from micro_run import load
from safetensors.numpy import load_file
from tiny_unet import drawn_params

from gen1_jax.cli import main
from gen1_jax.editing import VideoEditor
from gen1_jax.errors import UserError
from gen1_jax.files import write_json
from gen1_jax.pipeline import MODELS
from gen1_jax.training.checkpoint import Checkpoints
from gen1_jax.training.state import make_optimizer, new_state
from gen1_jax.weights.exporting import export_pipeline
from gen1_jax.weights.folder import module_from_config
from gen1_jax.weights.importing import import_pipeline
from gen1_jax.weights.naming import params_to_state_dict
from gen1_jax.weights.pipeline_index import scheduler_config

ROOT = Path(__file__).resolve().parents[2]
EDIT = {"structure_level": 2, "temporal_scale": 1.2, "guidance_scale": 2.5}
PROMPT = "a red ball over snow"
STEPS = 10
# The beginning of a script that can import neither jax nor this project.
ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jax", "jaxlib", "flax", "orbax", "gen1_jax", "data_pipelines"):
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, Refuse())
import warnings
warnings.simplefilter("ignore")
import numpy as np
import torch
from diffusers import DiffusionPipeline

torch.set_num_threads(1)

def load(folder):
    return DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
"""


def run_alone(code: str, tmp_path: Path, *arguments: str) -> str:
    pytest.importorskip("diffusers")
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", ALONE + textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def exported(micro_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "pipeline"
    export_pipeline(micro_run / "pipeline", folder)
    return folder


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


def test_the_exported_pipeline_makes_the_same_frames_alone(exported, quick, tmp_path):
    """The edit has all three branches, t_s > 0 and a prompt; the process has no jax."""
    import_pipeline(exported, tmp_path / "pipeline")
    editor = VideoEditor.load(tmp_path / "pipeline")
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (4, 16, 24, 3), np.uint8)  # not square
    steps, seed, width = editor.settings["prior"]["num_steps"], 5, editor.unet.cross_attention_dim
    edit = editor.edit(frames, prompt=PROMPT, seed=seed, num_steps=STEPS, **EDIT)

    key = jax.random.key(seed)
    noise = jax.random.normal(key, (1, 4, 8, 12, 4))[0]
    prior_noise = [
        jax.random.normal(jax.random.fold_in(key, i), (1, width))[0] for i in range(1 + steps)
    ]
    np.savez(tmp_path / "in.npz", frames=frames, noise=noise, prior_noise=np.stack(prior_noise))
    code = f"""
        given = {{k: v for k, v in np.load("in.npz").items()}}
        pipe = load(sys.argv[1])
        pipe.set_progress_bar_config(disable=True)
        options = dict(
            prompt={PROMPT!r}, num_inference_steps={STEPS}, output_type="uint8", **{EDIT!r},
            latents=torch.from_numpy(given["noise"]),
            prior_noise=torch.from_numpy(given["prior_noise"]),
        )
        edit = pipe(given["frames"], **options)
        first = torch.from_numpy(given["frames"][:1]).permute(0, 3, 1, 2)
        image = pipe.image_content(first.float())
        pipe.save_pretrained("resaved")
        again = load("resaved")(given["frames"], **options)
        assert np.array_equal(again.frames, edit.frames)
        np.savez("out.npz", frames=edit.frames, structure=edit.structure, image=image)
        print(sorted(name for name in sys.modules if name.split(".")[0] in ("jax", "gen1_jax")))
    """
    assert run_alone(code, tmp_path, exported).strip().endswith("[]")
    got = np.load(tmp_path / "out.npz")
    difference = got["frames"].astype(float) - edit.frames
    assert edit.frames.std() > 10  # there is a picture to compare
    assert 10 * np.log10(255**2 / max(np.square(difference).mean(), 1e-9)) > 50
    np.testing.assert_allclose(got["structure"], edit.structure, atol=1e-5)
    content = editor.image_content(frames[:1])
    np.testing.assert_allclose(got["image"], content, atol=1e-4)


def test_the_standard_parts_load_into_the_stock_classes(exported, tmp_path):
    code = """
        import diffusers, transformers
        from pathlib import Path

        folder = Path(sys.argv[1])
        for part, library, kind in (
            ("vae", diffusers, "AutoencoderKL"),
            ("prior", diffusers, "PriorTransformer"),
            ("image_encoder", transformers, "CLIPVisionModelWithProjection"),
            ("text_encoder", transformers, "CLIPTextModelWithProjection"),
            ("depth_estimator", transformers, "DPTForDepthEstimation"),
        ):
            cls = getattr(library, kind)
            _, info = cls.from_pretrained(folder / part, output_loading_info=True)
            print(part, sum(len(value) for value in info.values()))
        cls = diffusers.UNet2DConditionModel  # the spatial part, from the same folder
        _, info = cls.from_pretrained(folder / "unet", output_loading_info=True)
        temporal = [name for name in info.pop("unexpected_keys") if "temporal" in name]
        print("temporal", len(temporal) > 0, sum(len(value) for value in info.values()))
    """
    lines = run_alone(code, tmp_path, exported).split("\n")
    assert len(lines) == 7 and all(line.endswith(" 0") for line in lines[:-1]), lines


def test_the_module_trains_and_compiles_in_torch(exported, tmp_path):
    """It compiles to one graph, and gradient checkpointing does not change the gradients."""
    code = """
        import warnings
        unet = load(sys.argv[1]).unet
        torch.manual_seed(0)
        width = unet.config.cross_attention_dim
        sample, context = torch.randn(1, 3, 4, 8, 8, 12), torch.randn(1, 3, 1, width)
        args = (sample, torch.tensor([300]), context)

        def gradients():
            unet.zero_grad()
            unet(*args, num_video_branches=2).square().mean().backward()
            return [p.grad.clone() for p in unet.parameters() if p.grad is not None]

        plain = gradients()
        unet.enable_gradient_checkpointing()
        for a, b in zip(plain, gradients(), strict=True):
            torch.testing.assert_close(a, b)
        unet.disable_gradient_checkpointing()
        with torch.no_grad():
            want = unet(*args, num_video_branches=2)
            compiled = torch.compile(unet, backend="aot_eager", fullgraph=True)
            torch.testing.assert_close(compiled(*args, num_video_branches=2), want)
        print("trained")
    """
    assert "trained" in run_alone(code, tmp_path, exported)


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
