"""The editor: controls, content, depth, batches, and what an edit depends on."""

import copy
import dataclasses
import re

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_unet import normal

from gen1_jax.controls import Controls
from gen1_jax.diffusion.structure import blur, normalise_clip
from gen1_jax.editing import VideoEditor
from gen1_jax.editing.structure import check_extractor
from gen1_jax.errors import UserError
from gen1_jax.structure_settings import DepthSettings, StructureRecipe
from gen1_jax.video.extractors import extract_clip
from gen1_jax.video.io import read_video, write_video
from gen1_jax.video.maps import write_map

RNG = np.random.default_rng(0)
CLIPS = RNG.integers(0, 256, (2, 3, 16, 16, 3), np.uint8)
STEPS = 2


@pytest.fixture(scope="module")
def editor(steady_editor):
    return steady_editor


def edit_batch(editor, frames=CLIPS, content=None, **controls):
    content = normal(1, len(frames), 16) if content is None else content
    return editor.edit_batch(frames, content, **{"steps": STEPS} | controls)


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
    Controls(steps=1).check()
    Controls(steps=1000).check()


# ---- edits


def test_an_edit_is_a_function_of_its_seed(editor):
    first = edit_batch(editor, seed=3)
    np.testing.assert_array_equal(frames_of(first), frames_of(edit_batch(editor, seed=3)))
    assert different(frames_of(first), frames_of(edit_batch(editor, seed=4)))


def test_clips_of_a_batch_do_not_know_of_each_other(editor):
    """Noise goes by the seed of a clip: in whichever place it is edited as it is alone."""
    content, seeds = normal(1, 2, 16), np.array([5, 6])
    alone = [
        edit_batch(editor, CLIPS[[i]], content[[i]], structure_level=2, seed=seeds[i])[0]
        for i in range(2)
    ]
    for order in ([0, 1], [1, 0]):
        settings = {"structure_level": 2, "seed": seeds[order]}
        together = edit_batch(editor, CLIPS[order], content[order], **settings)
        for edit, i in zip(together, order, strict=True):
            expected = alone[i].frames.astype(int)
            np.testing.assert_allclose(edit.frames.astype(int), expected, atol=1)
            np.testing.assert_allclose(edit.structure, alone[i].structure, atol=1e-5)
    same = edit_batch(editor, CLIPS[[0, 0]], content[[0, 0]], seed=3)
    assert not different(same[0].frames, same[1].frames)


def test_prompts_of_a_list_do_not_know_of_each_other(editor):
    prompts, seeds = ["a red ball", "a blue cube"], [5, 6]
    together = editor.text_content(prompts[::-1], seeds[::-1])[::-1]
    for i in range(2):
        alone = editor.text_content(prompts[i : i + 1], seeds[i])
        np.testing.assert_allclose(together[i], alone[0], atol=1e-5)
    with pytest.raises(UserError, match=r"seed of \[3\]"):
        editor.text_content(prompts, [1, 2, 3])


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


def test_content_of_prompts_and_pictures(editor, tmp_path):
    clip = {"frames": CLIPS[0], "steps": STEPS, "seed": 2}
    prompted = editor.edit(prompt="a red ball", **clip)
    assert prompted.frames.shape == CLIPS[0].shape and prompted.frames.dtype == np.uint8
    content = editor.text_content(["a red ball"], seed=2)
    by_hand = edit_batch(editor, CLIPS[:1], content, seed=2)[0]
    assert not different(prompted.frames, by_hand.frames)
    # A picture of any size, in any form; its middle square counts.
    picture = RNG.integers(0, 256, (21, 40, 3), np.uint8)
    image = Image.fromarray(picture)
    image.save(tmp_path / "look.png")
    content = editor.image_content(picture[None])
    by_hand = edit_batch(editor, CLIPS[:1], content, seed=2)[0]
    for given in (picture, image, tmp_path / "look.png", str(tmp_path / "look.png")):
        with pytest.warns(
            UserWarning, match="21×40 .*cropped to its middle 21×21, 48 % cut off → .*CLIP"
        ):
            pictured = editor.edit(image=given, **clip)
        assert not different(pictured.frames, by_hand.frames)


def test_quantiles_bound_the_estimate_and_no_users_map(editor, monkeypatch):
    recipe = StructureRecipe(depth=DepthSettings(range=(0.1, 0.8)))
    conditioner = dataclasses.replace(editor.conditioner, recipe=recipe)
    monkeypatch.setattr(editor, "conditioner", conditioner)
    clip = {"frames": CLIPS[0], "prompt": "a red ball", "steps": STEPS}
    edit = editor.edit(**clip)
    estimated = np.asarray(editor.estimate_depth(CLIPS[:1]))
    low, high = np.quantile(estimated, recipe.depth.range)
    expected = 2 * (estimated[0].clip(low, high) - low) / (high - low) - 1
    np.testing.assert_allclose(edit.structure, expected, atol=1e-5)
    again = editor.edit(structure=edit.structure, **clip)
    np.testing.assert_allclose(again.structure, edit.structure, atol=1e-6)
    mask = np.zeros((3, 16, 16))
    mask[:, 3, 4:6] = 1  # fewer pixels than the quantiles leave
    np.testing.assert_array_equal(editor.edit(structure=mask, **clip).structure, 2 * mask - 1)


def test_a_users_map_takes_the_place_of_the_estimate(editor, tmp_path):
    depth = RNG.random((3, 16, 16))
    clip = {"frames": CLIPS[0], "prompt": "a red ball", "steps": STEPS, "structure_level": 1}
    edit = editor.edit(structure=depth, **clip)
    expected = blur(normalise_clip(depth[None]), np.array([1]))[0]
    np.testing.assert_allclose(edit.structure, expected, atol=1e-5)
    plain = editor.edit(**clip)
    assert different(edit.frames, plain.frames)
    estimated = np.asarray(editor._depth(editor.params, CLIPS[:1]))[0]
    clip["num_steps"] = clip.pop("steps")  # the names of earlier releases
    np.testing.assert_allclose(
        editor.edit(depth=estimated, **clip).frames.astype(int), plain.frames.astype(int), atol=1
    )


def test_frames_of_all_kinds(editor, tmp_path):
    """A file is read as the model was trained, and a warning says what is left out of it."""
    write_video(tmp_path / "clip", CLIPS[0], 12)
    options = {"prompt": "a red ball", "steps": STEPS}
    expected = editor.edit(CLIPS[0], **options)
    np.testing.assert_array_equal(expected.source, CLIPS[0])
    pictures = [Image.fromarray(frame) for frame in CLIPS[0]]
    for given in (pictures, read_video(tmp_path / "clip"), jax.numpy.asarray(CLIPS[0])):
        np.testing.assert_array_equal(editor.edit(given, **options).frames, expected.frames)
    longer = np.stack([np.asarray(image.resize((24, 18))) for image in (*pictures, pictures[0])])
    write_video(tmp_path / "longer.gif", longer, 10)
    with pytest.MonkeyPatch.context() as patch:
        trained = {"size": [16, 16], "sizes": None, "num_frames": 3}
        patch.setattr(editor, "settings", editor.settings | trained)
        edit = editor.edit(str(tmp_path / "clip"), **options)  # nothing is left out
        np.testing.assert_array_equal(edit.frames, expected.frames)
        said = (
            r"longer.gif: 18×24 \(height × width\) cropped to its middle 18×18, 25 % cut off → "
            r"16×16, the size of this model; editor.open\(path, start="
        )
        with pytest.warns(UserWarning, match=said):
            edit = editor.edit(tmp_path / "longer.gif", **options)
        assert edit.frames.shape == (4, 16, 16, 3) and edit.fps == 10
        # At the pace of training, and padded: the program sees a square, the caller none of it.
        patch.setattr(editor, "settings", editor.settings | {"stride": 2, "frame_rate": 20})
        write_video(tmp_path / "many", longer[[0, 1, 2, 3, 0, 1]], 24)
        video = editor.read(tmp_path / "many", fit="pad")
        assert video.frames.shape == CLIPS[0].shape
        edit = editor.edit(video, **options, structure=longer[[0, 1, 2, 3, 0, 1], ..., 0])
    assert edit.fps == 12 and edit.frames.shape == edit.source.shape == (3, 12, 16, 3)
    np.testing.assert_array_equal(edit.source, video.frames[:, 2:14])
    assert edit.structure.shape == (3, 12, 16)


@pytest.mark.filterwarnings("ignore:structure map. has colours")
def test_a_kind_that_is_extracted_is_as_if_it_were_given(editor):
    """Also where a model takes it only because it is told to; colours count by their brightness."""
    options = {"prompt": "a red ball", "steps": STEPS, "any_structure": True}
    for kind in ("canny", "segments"):
        own = editor.edit(CLIPS[0], structure_kind=kind, **options)
        maps = extract_clip(kind, CLIPS[0])
        given = editor.edit(CLIPS[0], structure=maps, structure_kind=kind, **options)
        assert own.structure.std() > 0.1
        np.testing.assert_allclose(own.structure, given.structure, atol=1e-5)
        assert not different(own.frames, given.frames)
    with pytest.raises(UserError, match="trained on version 2 of canny, and .* extracts version 1"):
        check_extractor("canny", 2)


def test_without_structure_nothing_of_the_input_is_kept(editor, monkeypatch):
    monkeypatch.setitem(editor.settings, "structure_drop_rate", 0.1)
    options = {"prompt": "a red ball", "steps": STEPS}
    none, other = (editor.edit(clip, no_structure=True, **options) for clip in CLIPS)
    assert not none.structure.any() and none.frames.std() > 1
    np.testing.assert_array_equal(none.frames, other.frames)
    assert different(none.frames, editor.edit(CLIPS[0], **options).frames)


def test_a_kept_structure_map_gives_the_same_edit(editor, tmp_path):
    """What --save-structure writes, --structure reads, in every format."""
    options = {"frames": CLIPS[0], "prompt": "a red ball", "steps": STEPS}
    first = editor.edit(**options)
    for name, most in (("map.npy", 1), ("map", 1), ("map.webp", 30)):
        write_map(tmp_path / name, first.structure, 12)
        again = editor.edit(structure=tmp_path / name, **options)
        assert np.abs(again.structure - first.structure).max() < most / 20
        assert np.abs(again.frames.astype(int) - first.frames).max() <= most


def test_one_program_serves_all_types_of_controls_and_may_be_forgotten(editor):
    edit_batch(editor)
    programs = editor._sample._cache_size()
    first = edit_batch(editor, structure_level=0, temporal_scale=1, guidance_scale=np.float64(2))
    edit_batch(editor, structure_level=np.array([0, 1]), temporal_scale=[1.0, 2.0])
    assert editor._sample._cache_size() == programs
    editor._sample.clear_cache()  # as `jax.clear_caches` does
    again = edit_batch(editor, guidance_scale=2)
    np.testing.assert_array_equal(frames_of(again), frames_of(first))


def test_per_frame_no_frame_knows_of_another(editor):
    """Another depth in the last frame changes that frame alone; at ω_t = 0 it changes them all."""
    maps = RNG.random((2, 3, 16, 16), np.float32)
    maps[:, 0, 0, :2] = 0, 1  # the range of the clip, which scales all its maps
    changed = maps.copy()
    changed[:, 2] = RNG.random((2, 16, 16))

    def differences(**controls) -> list[bool]:
        before, after = (
            frames_of(edit_batch(editor, structure=each, guidance_scale=30.0, **controls))
            for each in (maps, changed)
        )
        return [bool((before[:, i] != after[:, i]).any()) for i in range(3)]

    assert differences(per_frame=True) == [False, False, True]
    assert differences(temporal_scale=0.0) == [True, True, True]
    alone = editor.edit(CLIPS[0], prompt="a", steps=STEPS, per_frame=True)
    assert alone.frames.shape == CLIPS[0].shape
    with pytest.raises(UserError, match="temporal scale 0.5 has no effect on frames that are"):
        edit_batch(editor, per_frame=True, temporal_scale=0.5)
    with pytest.raises(UserError, match="per_frame is 1; True or False is accepted"):
        edit_batch(editor, per_frame=1)


# ---- loading


def test_in_bfloat16_the_models_compute_in_it(micro_run):
    loaded = VideoEditor.load(micro_run / "pipeline", dtype="bfloat16")
    maps, content, control = np.zeros((1, 3, 16, 16)), np.zeros((1, 16)), np.ones(1, np.float32)
    keys, level = jax.vmap(jax.random.key)(np.zeros(1, np.uint32)), np.zeros(1, np.int32)
    traced = jax.make_jaxpr(loaded._sample_fn, static_argnums=(7, 8, 9))(
        loaded.params, maps, content, keys, level, control, control, STEPS, False, "ddim"
    )
    assert [x.dtype for x in traced.out_avals] == [np.uint8, np.float32]
    products = re.findall(r":(\w+)\[[^=]*= (?:dot_general|conv_general_dilated)", str(traced))
    assert products.count("bf16") > 0.9 * len(products) > 50


def test_models_have_fingerprints_of_their_own(editor, micro_run):
    loaded = VideoEditor.load(micro_run / "pipeline")
    assert loaded.fingerprint == VideoEditor.load(micro_run / "pipeline").fingerprint
    assert loaded.fingerprint != editor.fingerprint and len(editor.fingerprint) == 16
    for part in ("unet", "prior"):  # one number of one part, and a setting
        other = copy.copy(loaded)
        other.__dict__.pop("fingerprint")
        leaves, tree = jax.tree.flatten(loaded.params[part])
        leaves[-1] = leaves[-1].at[(-1,) * leaves[-1].ndim].add(1)
        other.params = loaded.params | {part: jax.tree.unflatten(tree, leaves)}
        assert other.fingerprint != loaded.fingerprint, part
    other = copy.copy(loaded)
    other.__dict__.pop("fingerprint")
    other.settings = loaded.settings | {"spacing": "trailing"}
    assert other.fingerprint != loaded.fingerprint
