"""The editor: controls, content, depth, batches, and what an edit depends on."""

import json
import shutil

import jax
import numpy as np
import pytest
from tiny_unet import normal

from gen1_jax.diffusion.sampler import sample_latents
from gen1_jax.diffusion.structure import blur, normalise_clip
from gen1_jax.editing import Controls, VideoEditor
from gen1_jax.errors import UserError

RNG = np.random.default_rng(0)
CLIPS = RNG.integers(0, 256, (2, 3, 16, 16, 3), np.uint8)
STEPS = 2


@pytest.fixture(scope="module")
def editor(micro_run):
    from conftest import compile_fast

    with pytest.MonkeyPatch.context() as patch:
        compile_fast(patch, micro_run)
        # Random weights would drive latents out of range, where all frames are black or white.
        loaded = VideoEditor.load(micro_run / "pipeline")
        loaded.params["unet"] = jax.tree.map(lambda x: 0.5 * x, loaded.params["unet"])
        yield loaded


def edit_batch(editor, frames=CLIPS, content=None, **controls):
    content = normal(1, len(frames), 16) if content is None else content
    return editor.edit_batch(frames, content, **{"num_steps": STEPS} | controls)


def frames_of(edits) -> np.ndarray:
    return np.stack([edit.frames for edit in edits])


def different(a, b) -> bool:
    return np.abs(np.asarray(a, float) - np.asarray(b, float)).max() > 1


# ---- controls


@pytest.mark.parametrize("level", [0, 7, np.array([0, 7])])
def test_controls_in_range(editor, level):
    controls = Controls(level, np.array([0.0, 1.5]), -2.0, STEPS)
    controls.check()
    assert frames_of(edit_batch(editor, **vars(controls))).shape == CLIPS.shape
    Controls(num_steps=1).check()
    Controls(num_steps=1000).check()


@pytest.mark.parametrize(
    ("controls", "words"),
    [
        ({"structure_level": 8}, "structure level 8"),
        ({"structure_level": -1}, "structure level -1"),
        ({"structure_level": 1.5}, "structure level 1.5"),
        ({"structure_level": np.array([0, 9])}, "structure level .*9"),
        ({"temporal_scale": float("nan")}, "temporal scale nan"),
        ({"guidance_scale": np.array([1.0, np.inf])}, "guidance scale .*inf"),
        ({"num_steps": 0}, "steps 0"),
        ({"num_steps": 1001}, "steps 1001"),
        ({"num_steps": 2.5}, "steps 2.5"),
    ],
)
def test_controls_out_of_range(editor, controls, words):
    with pytest.raises(UserError, match=words):
        Controls(**controls).check()
    with pytest.raises(UserError, match=words):
        edit_batch(editor, **controls)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"frames": CLIPS[0, ..., :2]}, "clips of .*uint8"),
        ({"frames": CLIPS[0].astype(float)}, "clips of float64"),
        ({"frames": CLIPS[0, :0]}, "clips of .*uint8"),
        ({"frames": CLIPS[0, :, :15]}, "15 x 16.*multiples of 2"),
        ({"frames": CLIPS[0].repeat(6, axis=0)}, "18 frames.*at most 16"),
        ({"depth": np.zeros((3, 8, 8))}, r"depth of \(1, 3, 8, 8\)"),
        ({"prompt": None}, "prompt or an image"),
        ({"image": CLIPS[0, 0]}, "prompt or an image"),
        ({"prompt": None, "image": CLIPS[0]}, "an image of uint8"),
        ({"prompt": " "}, "the prompt is empty"),
    ],
)
def test_wrong_arguments_are_refused(editor, arguments, words):
    arguments = {"frames": CLIPS[0], "prompt": "a red ball", "num_steps": STEPS} | arguments
    with pytest.raises(UserError, match=words):
        editor.edit(**arguments)


def test_arrays_of_other_shapes_are_the_caller_s_mistake(editor):
    with pytest.raises(AssertionError, match="shape"):
        edit_batch(editor, content=normal(1, 3, 16))
    with pytest.raises(AssertionError, match="shape"):
        editor.image_content(CLIPS)


# ---- edits


def test_an_edit_is_a_function_of_its_seed(editor):
    first = edit_batch(editor, seed=3)
    np.testing.assert_array_equal(frames_of(first), frames_of(edit_batch(editor, seed=3)))
    assert different(frames_of(first), frames_of(edit_batch(editor, seed=4)))


def test_clips_of_a_batch_do_not_know_of_each_other(editor):
    """Noise goes by the place: the clip in the first place is edited as it is alone."""
    content = normal(1, 2, 16)
    for order in ([0, 1], [1, 0]):
        together = edit_batch(editor, CLIPS[order], content[order], structure_level=2)
        alone = edit_batch(editor, CLIPS[order[:1]], content[order[:1]], structure_level=2)
        np.testing.assert_allclose(
            together[0].frames.astype(int), alone[0].frames.astype(int), atol=1
        )
        np.testing.assert_allclose(together[0].structure, alone[0].structure, atol=1e-5)


def test_each_clip_of_a_batch_has_its_own_controls(editor):
    """One clip at two settings in a batch, each as in a batch where both have it."""
    both = {
        "structure_level": np.array([0, 7]),
        "temporal_scale": np.array([1.0, 1.5]),
        "guidance_scale": np.array([1.0, 5.0]),
    }
    mixed = edit_batch(editor, **both)
    for i in range(2):
        single = {name: values[i] for name, values in both.items()}
        expected = edit_batch(editor, **single)[i]
        np.testing.assert_allclose(mixed[i].frames.astype(int), expected.frames.astype(int), atol=1)
    for name in both:
        plain = {n: v[0] for n, v in both.items()}
        changed = edit_batch(editor, **plain | {name: both[name][1]})
        assert different(frames_of(changed), frames_of(edit_batch(editor, **plain))), name


def test_the_models_own_guidance_is_the_default(editor):
    own = editor.settings["guidance_scale"]
    explicit = frames_of(edit_batch(editor, guidance_scale=own))
    np.testing.assert_array_equal(frames_of(edit_batch(editor)), explicit)


def test_content_of_prompts_and_pictures(editor):
    clip = {"frames": CLIPS[0], "num_steps": STEPS, "seed": 2}
    prompted = editor.edit(prompt="a red ball", **clip)
    assert prompted.frames.shape == CLIPS[0].shape and prompted.frames.dtype == np.uint8
    content = editor.text_content(["a red ball"], seed=2)
    by_hand = edit_batch(editor, CLIPS[:1], content, seed=2)[0]
    np.testing.assert_array_equal(prompted.frames, by_hand.frames)
    # A picture of any size.
    picture = RNG.integers(0, 256, (21, 40, 3), np.uint8)
    pictured = editor.edit(image=picture, **clip)
    content = editor.image_content(picture[None])
    by_hand = edit_batch(editor, CLIPS[:1], content, seed=2)[0]
    np.testing.assert_array_equal(pictured.frames, by_hand.frames)


def test_a_users_depth_takes_the_place_of_the_estimate(editor):
    depth = RNG.random((3, 16, 16))
    clip = {"frames": CLIPS[0], "prompt": "a red ball", "num_steps": STEPS, "structure_level": 1}
    edit = editor.edit(depth=depth, **clip)
    expected = blur(normalise_clip(depth[None]), np.array([1]))[0]
    np.testing.assert_allclose(edit.structure, expected, atol=1e-5)
    assert different(edit.frames, editor.edit(**clip).frames)
    estimated = np.asarray(editor._depth(editor.params, CLIPS[:1]))[0]
    same = editor.edit(depth=estimated, **clip)
    np.testing.assert_allclose(
        same.frames.astype(int), editor.edit(**clip).frames.astype(int), atol=1
    )


def test_without_time_every_frame_is_edited_alone(editor):
    """ω_t = 0 and no guidance leave the image predictions; a single frame has no others."""
    noise, structure = normal(0, 1, 3, 8, 8, 4), normal(1, 1, 3, 8, 8, 4)
    content = normal(2, 1, 16)
    level = np.array([2])

    @jax.jit
    def sample(noise, content, structure, level, temporal_scale, guidance_scale):
        return sample_latents(
            editor.unet,
            editor.params["unet"],
            editor.schedule,
            noise,
            content,
            structure,
            level,
            temporal_scale=temporal_scale,
            guidance_scale=guidance_scale,
            num_steps=STEPS,
        )

    clip = sample(noise, content, structure, level, 0.0, 0.0)
    alone = sample(
        noise.reshape(3, 1, 8, 8, 4),
        content.repeat(3, 0),
        structure.reshape(3, 1, 8, 8, 4),
        level.repeat(3),
        1.0,  # of no influence on a single frame
        0.0,
    )
    np.testing.assert_allclose(clip[0], alone[:, 0], atol=1e-4)
    in_time = sample(noise, content, structure, level, 1.0, 0.0)
    assert np.abs(in_time - clip).max() > 1e-3


# ---- loading


def test_models_have_fingerprints_of_their_own(editor, micro_run):
    loaded = VideoEditor.load(micro_run / "pipeline")
    assert loaded.fingerprint == VideoEditor.load(micro_run / "pipeline").fingerprint
    assert loaded.fingerprint != editor.fingerprint and len(editor.fingerprint) == 8


@pytest.mark.parametrize(
    ("part", "source", "words"),
    [
        ("unet", "autoencoder", "unet holds AutoencoderKL; unet must be VideoUNet"),
        ("unet", "image", "in_channels .*is 4; .* take 12"),
        ("vae", "depth", "vae must be AutoencoderKL"),
        ("prior", None, "no model folder"),
        ("tokenizer", None, "no tokenizer"),
    ],
)
def test_pipelines_of_wrong_parts_are_refused(micro_run, tmp_path, part, source, words):
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    for path in (micro_run / "pipeline").iterdir():
        (pipeline / path.name).symlink_to(path)
    (pipeline / part).unlink()
    if source:
        shutil.copytree(micro_run / source / "model", pipeline / part)
    with pytest.raises(UserError, match=words) as caught:
        VideoEditor.load(pipeline)
    assert "\n" not in str(caught.value)


def test_a_schedule_that_we_do_not_have_is_refused(micro_run, tmp_path):
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    for path in (micro_run / "pipeline").iterdir():
        (pipeline / path.name).symlink_to(path)
    settings = json.loads((pipeline / "gen1.json").read_text())
    settings["schedule"]["betas"] = 3
    (pipeline / "gen1.json").unlink()
    (pipeline / "gen1.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="gen1.json.*betas"):
        VideoEditor.load(pipeline)
