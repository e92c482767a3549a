"""The moving-shapes renderer: determinism, truth against picture, depth against occlusion."""

import json

import numpy as np
import pytest

from gen1_jax.data_pipelines.moving_shapes import renderer, vocabulary
from gen1_jax.data_pipelines.moving_shapes.colour import colour_of
from gen1_jax.data_pipelines.moving_shapes.renderer import render
from gen1_jax.data_pipelines.moving_shapes.vocabulary import COLOURS, edit_prompt
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


def test_truth_agrees_with_the_picture():
    missed, areas = [], []
    for seed in range(1000, 1400):
        clip = render(seed, num_frames=4)
        name, distances = colour_of(clip.frames, clip.mask)
        assert min(distances, key=distances.get) == name
        if name != clip.truth["colour"]:
            missed.append((seed, name, clip.caption))
        areas.append(clip.mask.mean())
    assert len(missed) <= 2, missed  # 99.5 %
    assert np.median(areas) > 0.15 and np.quantile(areas, 0.02) > 0.1


def test_colour_survives_blur_and_noise():
    rng, right = np.random.default_rng(0), 0
    for seed in range(100):
        clip = render(seed, num_frames=2)
        frames = clip.frames.astype(np.float32)
        for axis in (1, 2):
            frames = (frames + np.roll(frames, 1, axis) + np.roll(frames, -1, axis)) / 3
        frames = np.clip(frames * 0.92 + 10 + rng.normal(0, 8, frames.shape), 0, 255)
        right += colour_of(frames.astype(np.uint8), clip.mask)[0] == clip.truth["colour"]
    assert right >= 98


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


def test_edit_prompt_changes_the_colour_alone():
    truth = render(5).truth
    before, after = edit_prompt(truth, truth["colour"]), edit_prompt(truth, "orange")
    assert after.startswith("an orange ") and before.split()[2:] == after.split()[2:]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: render(-1), "negative"),
        (lambda: render(1, num_frames=0), "at least 1 frame"),
        (lambda: render(1, size=8), "16x16"),
        (lambda: edit_prompt(render(1).truth, "mauve"), "red, orange"),
        (lambda: colour_of(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8), bool)), "empty"),
        (lambda: colour_of(np.zeros((1, 8, 8, 3), np.uint8), np.ones((2, 8, 8), bool)), "not fit"),
    ],
)
def test_bad_input_is_one_clear_line(call, says):
    with pytest.raises(UserError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
