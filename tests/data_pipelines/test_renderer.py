"""The moving-shapes renderer: determinism, truth against picture, depth against occlusion."""

import json

import numpy as np
import pytest

from gen1_jax.data_pipelines.moving_shapes import renderer, solids, vocabulary
from gen1_jax.data_pipelines.moving_shapes.renderer import render
from gen1_jax.data_pipelines.moving_shapes.shake import before_shake, draw_shake
from gen1_jax.data_pipelines.moving_shapes.vocabulary import (
    ATTRIBUTES,
    COLOURS,
    canonical_caption,
)
from gen1_jax.errors import UserError


def test_shapes_types_and_ranges():
    clip = render(3, num_frames=5, size=(48, 80))
    assert clip.frames.shape == (5, 48, 80, 3) and clip.frames.dtype == np.uint8
    assert clip.depth.shape == (5, 48, 80) and clip.depth.dtype == np.float32
    assert clip.mask.shape == (5, 48, 80) and clip.mask.dtype == bool
    assert 0 <= clip.depth.min() < clip.depth.max() <= 1
    assert json.loads(json.dumps(clip.truth)) == clip.truth


def test_same_seed_same_bytes_other_seed_other_clip():
    first, again, other = render(11), render(11), render(12)
    assert first.caption == again.caption and first.truth == again.truth
    for name in ("frames", "depth", "mask"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.frames != other.frames).any()


def test_content_and_structure_are_independent(monkeypatch):
    base, stream = render(21), renderer._stream
    with monkeypatch.context() as patch:  # the content of another seed
        patch.setattr(renderer, "_stream", lambda seed, use: stream(seed if use else 22, use))
        recoloured = render(21)
    np.testing.assert_array_equal(base.depth, recoloured.depth)
    np.testing.assert_array_equal(base.mask, recoloured.mask)
    assert (base.frames != recoloured.frames).mean() > 0.5
    for word in ("colour", "texture", "background"):
        assert recoloured.truth[word] == render(22).truth[word]


def test_every_word_is_drawn_and_named_in_the_caption():
    seen: dict[str, set] = {}
    for seed in range(150):
        clip = render(seed, num_frames=1, size=16)
        truth = clip.truth
        for key in ("colour", "shape", "texture", "motion", "background", "camera"):
            seen.setdefault(key, set()).add(truth[key])
        for key in ("colour", "shape", "motion", "background"):
            assert truth[key] in clip.caption
        assert (truth["texture"] in clip.caption) or truth["texture"] == "plain"
        assert sum(colour in clip.caption.split() for colour in COLOURS) == 1
    for key, words in {
        "colour": vocabulary.COLOURS,
        "shape": vocabulary.SHAPES,
        "texture": vocabulary.TEXTURES,
        "motion": vocabulary.MOTIONS,
        "background": vocabulary.BACKGROUNDS,
        "camera": vocabulary.CAMERAS,
    }.items():
        assert seen[key] == set(words), key


def test_the_object_is_large_enough_to_be_edited():
    areas = [render(seed, num_frames=4).mask.mean() for seed in range(1000, 1100)]
    assert np.median(areas) > 0.15 and np.quantile(areas, 0.02) > 0.1


def _places(solid: dict, height: int, width: int) -> list[tuple[int, int]]:
    """Pixels of a solid's centre in each frame."""
    return [
        (int((y + 1) * height / 2), int(x * height / 2 + width / 2))
        for x, y in zip(solid["x"], solid["y"], strict=True)
    ]


def test_what_hides_the_hero_is_nearer_and_what_it_hides_is_farther():
    nearer = farther = 0
    for seed in range(120):
        clip = render(seed)
        hero_depth = np.median(clip.depth[clip.mask])
        outside = [clip.depth[t][~m] for t, m in enumerate(clip.mask)]
        extras = clip.truth["extras"]
        if not extras:
            # With nothing but the background around it, the hero is nearest everywhere.
            assert all(
                clip.depth[t][m].min() > out.max()
                for t, (m, out) in enumerate(zip(clip.mask, outside, strict=True))
            )
            continue
        for extra in extras:
            for t, (row, column) in enumerate(_places(extra, 64, 64)):
                if not (0 <= row < 64 and 0 <= column < 64):
                    continue
                if extra["front"]:
                    assert not clip.mask[t, row, column]
                    assert clip.depth[t, row, column] > hero_depth * 0.9
                    nearer += 1
                elif clip.mask[t, row, column]:
                    assert clip.depth[t, row, column] > extra["q"][t]
                    farther += 1
    assert nearer > 50 and farther > 20


def test_hero_moves_as_the_caption_says():
    checked = 0
    for seed in range(200):
        clip = render(seed)
        if clip.truth["motion"].startswith("drifting") and clip.truth["camera"] == "still":
            rows, columns = zip(
                *(np.argwhere(m).mean(axis=0) for m in (clip.mask[0], clip.mask[-1])), strict=True
            )
            moved = {
                "left": columns[0] - columns[1],
                "right": columns[1] - columns[0],
                "up": rows[0] - rows[1],
                "down": rows[1] - rows[0],
            }
            assert max(moved, key=moved.get) == clip.truth["motion"].split()[1]
            checked += 1
    assert checked > 10


def test_an_attribute_is_replaced_and_all_else_stays():
    base = render(5)
    own = {name: base.truth[name] for name in ATTRIBUTES}
    for clip in (render(5, changes=own), render(5, camera=base.truth["camera"])):
        assert clip.caption == base.caption and clip.truth == base.truth
        for name in ("frames", "depth", "mask"):
            np.testing.assert_array_equal(getattr(clip, name), getattr(base, name))
    for name, values in ATTRIBUTES.items():
        value = next(v for v in values if v != own[name])
        clip = render(5, changes={name: value})
        assert {n: clip.truth[n] for n in ATTRIBUTES} == own | {name: value}
        assert (value in clip.caption) == (value != "plain")
        assert (clip.frames != base.frames).any()
        assert (clip.depth == base.depth).all() == (name != "shape")
        if name in ("colour", "texture"):
            away = ~base.mask
            away &= np.abs(clip.frames.astype(int) - base.frames).max(-1) > 0
            assert away.mean() < 0.05  # the mixed pixels of the edge
    without = render(5, has_hero=False)
    assert not without.mask.any() and (without.depth <= base.depth).all()


def test_another_shape_has_the_same_place_and_area():
    for seed in range(12):
        base = render(seed, size=128, num_frames=2, camera="still")
        for shape in ("ball", "triangle", "ring"):
            clip = render(seed, size=128, num_frames=2, camera="still", changes={"shape": shape})
            hero, other = clip.truth["hero"], base.truth["hero"]
            assert all(hero[name] == other[name] for name in ("x", "y", "angle"))
            ratio = solids.unit_area(shape) / solids.unit_area(other["shape"])
            areas = np.array(hero["radius"]) ** 2 * ratio
            np.testing.assert_allclose(areas, np.array(other["radius"]) ** 2, rtol=1e-4)
    assert solids.overlap("box", "box") == 1 and 0.85 < solids.overlap("ball", "hexagon") < 1
    assert solids.overlap("ring", "ball") == solids.overlap("ball", "ring") < 0.7


def test_a_shaking_camera_moves_the_whole_picture():
    """Undoing the shake gives the picture of the camera that stands still."""
    for seed in (3, 4, 8):
        still, shaky = (render(seed, size=64, camera=camera) for camera in ("still", "shaky"))
        assert shaky.truth["camera"] == "shaky" and shaky.caption == still.caption
        shake = draw_shake(renderer._stream(seed, 2), 8)
        steady, seen = still.truth["hero"], shaky.truth["hero"]
        seen = [np.array(seen[k], np.float32)[:, None, None] for k in ("x", "y")]
        for path, back in zip(("x", "y"), before_shake(shake, *seen), strict=True):
            np.testing.assert_allclose(back.ravel(), steady[path], atol=1e-4)
        axis = (np.arange(64, dtype=np.float32) + 0.5) / 32 - 1
        where = before_shake(shake, axis[None, None], axis[None, :, None])
        for n in range(8):  # nearest pixels of the still picture
            x, y = (path[n] for path in where)
            columns, rows = (np.rint((p + 1) * 32 - 0.5).astype(int) for p in (x, y))
            inside = (columns >= 1) & (columns < 63) & (rows >= 1) & (rows < 63)
            moved = still.depth[n][rows.clip(0, 63), columns.clip(0, 63)]
            difference = np.abs(moved - shaky.depth[n])[inside]
            assert np.median(difference) < 0.01 and (difference > 0.1).mean() < 0.04


def test_a_shake_is_small_smooth_and_does_not_depend_on_the_number_of_frames():
    for seed in range(20):
        few, many = (draw_shake(np.random.default_rng(seed), n) for n in (8, 57))
        for name, most in (("x", 0.14), ("y", 0.14), ("roll", 0.05)):
            np.testing.assert_allclose(many[name][::8], few[name], atol=1e-6)
            assert 0.3 * most < np.abs(few[name]).max() <= most * 1.01
            # A wave of 2.5 cycles turns by 16 degrees from one of 57 frames to the next.
            assert np.abs(np.diff(many[name])).max() < 0.35 * 2 * most
    one = draw_shake(np.random.default_rng(0), 1)
    assert all(path.shape == (1,) for path in one.values())


def test_a_canonical_caption_changes_with_its_attributes_alone():
    truth = {**render(5).truth, "texture": "plain"}
    before, after = canonical_caption(truth), canonical_caption({**truth, "colour": "orange"})
    assert after.startswith("an orange ") and before.split()[2:] == after.split()[2:]
    assert "plain" not in before and "plain" in canonical_caption(truth, say_plain=True)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: render(-1), "negative"),
        (lambda: render(1, num_frames=0), "at least 1 frame"),
        (lambda: render(1, size=8), "16x16"),
        (lambda: render(1, changes={"colour": "mauve"}), "'mauve'; one of: red, orange"),
        (lambda: render(1, changes={"motion": "spinning"}), "one of: colour, texture"),
        (lambda: render(1, camera="drone"), "zoom out, shaky"),
    ],
)
def test_bad_input_is_one_clear_line(call, says):
    with pytest.raises(UserError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
