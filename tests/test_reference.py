"""Imported public checkpoints edit as public classes do; reference_edit.py puts these together."""

import jax
import numpy as np
import pytest
from tiny_unet import quick_jit

from gen1_jax import cli
from gen1_jax.config import load_config
from gen1_jax.editing import VideoEditor
from gen1_jax.workflow import run_part

STEPS, SEED, N = 3, 5, 3
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (20, 27, 3), np.uint8)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The reference, and the editor of the pipeline that was made of the same files."""
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("reference_edit")
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("public")
    models = reference.make_models()
    reference.save(models, root)
    run = root / "run"
    flags = [x for name in (*models, "tokenizer") for x in (f"--{name}", str(root / name))]
    assert cli.main(["import", *flags, "-o", str(run), "--no-progress"]) == 0
    steps, guidance = reference.PRIOR.values()
    config = load_config(
        "own:pipeline",
        (
            "folders.unet=../unet/model",
            "settings.size=(32,48)",
            f"settings.num_frames={N}",
            f"settings.prior.num_steps={steps}",
            f"settings.prior.guidance_scale={guidance}",
        ),
    )
    with config.unlocked():
        config.data = None
    run_part(config, run / "pipeline", progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", quick_jit)
        editor = VideoEditor.load(run / "pipeline")
    return reference.Reference(models, root / "tokenizer"), editor


def noise_of(seed: int, *shape: int) -> np.ndarray:
    return np.array(jax.random.normal(jax.random.key(seed), shape))


def prior_noise(seed: int, steps: int, width: int) -> np.ndarray:
    """The first noise of the prior, and that of each of its steps."""
    keys = (jax.random.fold_in(jax.random.key(seed), i) for i in range(1 + steps))
    return np.concatenate([np.asarray(jax.random.normal(key, (1, width))) for key in keys])


def psnr(got: np.ndarray, want: np.ndarray) -> float:
    error = np.square(got.astype(float) - want).mean()
    return 10 * np.log10(255**2 / max(error, 1e-9))


@pytest.mark.filterwarnings("ignore:.* which is what CLIP sees")
def test_an_edit_is_that_of_public_classes(both):
    """The clip is upright, and the pipeline's own size is not."""
    (reference, editor), size = both, (48, 32)
    smooth = RNG.normal(size=(N, size[0] // 8, size[1] // 8, 3)).repeat(8, 1).repeat(8, 2)
    frames = (127 + 50 * smooth).clip(0, 255).astype(np.uint8)
    noise = noise_of(SEED, N, size[0] // 2, size[1] // 2, 4)
    edits = []
    for content, level, temporal in (("a red ball", 1, 1.3), (PICTURE, 0, 0.6)):
        controls = {"structure_level": level, "temporal_scale": temporal, "guidance_scale": 2.5}
        given, drawn = {"image": content}, {}
        if isinstance(content, str):
            given = {"prompt": content}
            steps = editor.settings["prior"]["num_steps"]
            width = editor.conditioner.clip.projection_dim
            drawn = {"prior_noise": prior_noise(SEED, steps, width)}
        options = {"steps": STEPS, **given, **controls}
        want, structure = reference.edit(frames, noise=noise, **drawn, **options)
        edit = editor.edit(frames, seed=SEED, **options)
        np.testing.assert_allclose(edit.structure, structure, atol=1e-3)
        assert psnr(edit.frames, want) >= 50  # measured: 86 or more
        assert want.std() > 10 and np.isin(want, (0, 255)).mean() < 0.3
        edits.append(want)
    assert psnr(*edits) < 30  # contents, levels and ω_t act
