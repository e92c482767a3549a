"""An exported pipeline in PyTorch alone: tests/exported_job.py uses it, in one process for all."""

import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from gen1_jax.diffusion.structure import normalise_clip
from gen1_jax.editing import VideoEditor
from gen1_jax.editing.whole import WholeEditor
from gen1_jax.structure_settings import DepthSettings, StructureRecipe
from gen1_jax.video.io import resize_frame
from gen1_jax.weights.importing import import_pipeline

ROOT = Path(__file__).resolve().parents[2]
CHECKS = (
    "the_edit", "frames_alone", "every_form_of_a_video", "batches", "conventions", "refusals",
    "every_scheduler", "masks", "offloading", "saving", "variants_and_types", "stock_classes",
    "training_and_compiling",
)  # fmt: skip
PROMPT = "a red ball over snow"
EDIT = {"structure_level": 2, "temporal_scale": 1.2, "guidance_scale": 2.5}
STEPS, SEED = 10, 5
WINDOWS = {
    "consecutive": {"window": 4, "overlap": 2, "negative_prompt": "a blue box"},
    "apart": {"window": 4, "overlap": 1, "window_stride": 2},
}
FILM_MASK = np.zeros((9, 16, 24), bool)
FILM_MASK[:, 4:11, 8:15] = True
SCHEDULERS = {"dpm++": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler"}
DEPTH = DepthSettings(resizing="minimal", range=(0.1, 0.9))  # other than the micro pipeline's


@pytest.fixture(scope="module")
def alone(micro_run, exported, tmp_path_factory):
    """The working folder of tests/exported_job.py, after it has run."""
    folder = tmp_path_factory.mktemp("alone")
    rng = np.random.default_rng(3)
    portrait = rng.integers(0, 256, (4, 40, 28, 3), np.uint8)
    settings = json.loads((micro_run / "pipeline" / "gen1.json").read_text())
    width = json.loads((micro_run / "pipeline" / "unet" / "config.json").read_text())
    width, key = width["cross_attention_dim"], jax.random.key(SEED)
    prior_noise = [
        jax.random.normal(jax.random.fold_in(key, i), (1, width))[0]
        for i in range(1 + settings["prior"]["num_steps"])
    ]
    np.savez(
        folder / "in.npz",
        frames=rng.integers(0, 256, (4, 16, 24, 3), np.uint8),  # not square
        portrait=portrait,
        fitted=np.stack([resize_frame(frame, (16, 24)) for frame in portrait]),
        padded=np.stack([resize_frame(frame, (16, 24), "pad") for frame in portrait]),
        latents=jax.random.normal(key, (1, 4, 8, 12, 4))[0],
        film=rng.integers(0, 256, (9, 16, 24, 3), np.uint8),  # longer than the clips of training
        film_latents=jax.random.normal(key, (9, 8, 12, 4)),
        film_mask=FILM_MASK,
        windows=json.dumps(WINDOWS),
        schedulers=json.dumps(SCHEDULERS),
        prior_noise=np.stack(prior_noise),
        options=json.dumps({**EDIT, "num_inference_steps": STEPS}),
        depth=json.dumps(StructureRecipe(depth=DEPTH).to_json()["depth"]),
    )
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "exported_job.py", exported],
        cwd=folder,
        env=os.environ | {"HF_MODULES_CACHE": str(folder / "modules")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("check", CHECKS)
def test_in_pytorch_alone(alone, check):
    outcomes = json.loads((alone / "checks.json").read_text())
    assert list(outcomes) == list(CHECKS)
    assert not outcomes[check], outcomes[check]


def test_the_exported_pipeline_makes_the_same_frames_alone(alone, exported, quick, tmp_path):
    """The edit has all three branches, t_s > 0 and a prompt; the process has no jax."""
    import_pipeline(exported, tmp_path / "pipeline")
    editor = VideoEditor.load(tmp_path / "pipeline")
    given, got = np.load(alone / "in.npz"), np.load(alone / "out.npz")
    frames = given["frames"]
    edit = editor.edit(frames, prompt=PROMPT, seed=SEED, steps=STEPS, **EDIT)
    assert edit.frames.std() > 10  # there is a picture to compare
    difference = got["frames"].astype(float) - edit.frames
    assert 10 * np.log10(255**2 / max(np.square(difference).mean(), 1e-9)) > 50
    np.testing.assert_allclose(got["structure"], edit.structure, atol=1e-5)
    for name, windows in WINDOWS.items():
        film = editor.edit(given["film"], prompt=PROMPT, seed=SEED, steps=2, **EDIT, **windows)
        assert film.frames.std() > 10
        assert np.abs(got[name].astype(int) - film.frames).max() <= 2  # of 255
        np.testing.assert_allclose(got[f"{name}_structure"], film.structure, atol=1e-5)
    options = {"mask": FILM_MASK, "feather": 2, "invert_mask": True} | WINDOWS["apart"]
    film = editor.edit(given["film"], prompt=PROMPT, seed=SEED, steps=2, **EDIT, **options)
    assert np.abs(got["masked"].astype(int) - film.frames).max() <= 2
    np.testing.assert_array_equal(film.frames[:, 6:9, 10:13], given["film"][:, 6:9, 10:13])
    for solver in SCHEDULERS:
        solved = editor.edit(frames, prompt=PROMPT, seed=SEED, steps=STEPS, solver=solver, **EDIT)
        assert np.abs(solved.frames.astype(int) - edit.frames).max() > 5
        assert np.abs(got[solver].astype(int) - solved.frames).max() <= 1  # of 255
    # A model of structure in colours, which may have none.
    recipe = dataclasses.replace(editor.conditioner.recipe, extractor="segments")
    coloured = copy.copy(editor)
    coloured.settings = editor.settings | {"structure_drop_rate": 0.1}
    coloured.conditioner = dataclasses.replace(editor.conditioner, recipe=recipe)
    sampler = editor._whole._sampler  # whose programs are compiled
    coloured._whole = WholeEditor(coloured.conditioner, sampler, editor.mesh)
    options = {"prompt": PROMPT, "seed": SEED, "steps": 2, **EDIT}
    for name, own in {
        "colours": {"structure": frames[::-1]},
        "none": {"no_structure": True, "structure_level": 0},
    }.items():
        edit = coloured.edit(frames, **options | own)
        assert np.abs(got[name].astype(int) - edit.frames).max() <= 2  # of 255
        np.testing.assert_allclose(got[f"{name}_structure"], edit.structure, atol=1e-5)
    encoders = dataclasses.replace(editor.conditioner, recipe=StructureRecipe(depth=DEPTH))
    depth = encoders.structure_map(
        frames[None], encoders.estimate_depth(editor.params, frames[None])
    )
    np.testing.assert_allclose(got["other"], normalise_clip(depth)[0], atol=1e-5)
    np.testing.assert_allclose(got["image"], editor.image_content(frames[:1]), atol=1e-4)
