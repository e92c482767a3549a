"""Clips of the world to edit: what is asked for, what is known, what stays the same."""

import dataclasses

import numpy as np
import pytest

from gen1_jax.data_pipelines.moving_shapes.builder import load, split_seed
from gen1_jax.data_pipelines.moving_shapes.records import decode_example
from gen1_jax.data_pipelines.moving_shapes.renderer import render
from gen1_jax.data_pipelines.moving_shapes.vocabulary import ATTRIBUTES, COLOURS, EDITS
from gen1_jax.errors import UserError
from gen1_jax.evaluation.metrics import world
from gen1_jax.evaluation.world_items import (
    attribute_labels,
    object_places,
    picture_items,
    world_clips,
    world_items,
)


@pytest.fixture(scope="module")
def folder(micro_run):
    return micro_run / "world"


def test_clips_are_those_of_the_data_set_and_go_on_after_them(folder):
    items = world_items(folder, None, "test", 10)
    stored = load(str(folder), "test", "test")
    assert len(stored) == 8 and len({item.clip for item in items}) == 10
    for item, example in zip(items, stored, strict=False):
        clip = decode_example(example)
        np.testing.assert_array_equal(item.frames, clip["frames"])
        np.testing.assert_array_equal(item.mask, clip["mask"])
        np.testing.assert_allclose(item.depth, clip["depth"], atol=1e-5)
        assert item.truth == {**clip["truth"], "seed": clip["seed"]}
        assert item.camera == ("still" if item.truth["camera"] == "still" else "moving")
    assert items[9].truth["seed"] == split_seed("test", 9)


def test_colours_asked_for_do_not_depend_on_the_number_of_clips(folder):
    rng = np.random.default_rng(3)
    items = world_items(folder, "test", "validation", 6, 3)
    for item in items:
        drawn = str(rng.choice([c for c in COLOURS if c != item.truth["colour"]]))
        assert item.wanted == {"colour": drawn} and item.kind == "object" and item.image is None
        assert drawn in item.prompt and item.truth["colour"] in item.source_prompt
    few = world_items(folder, "test", "validation", 2, 3, edits=("style", "colour"))
    assert [i.prompt for i in few[2:]] == [i.prompt for i in items[:2]]
    more = world_items(folder, "test", "validation", 4, 3, edits=("style",))
    assert [i.prompt for i in few[:2]] == [i.prompt for i in more[:2]]


def test_each_kind_of_edit_asks_for_other_values_and_says_so(folder):
    items = world_items(folder, "test", "test", 12, edits=tuple(EDITS))
    assert len({item.clip for item in items}) == len(items) == 12 * len(EDITS)
    assert len({item.video for item in items}) == 12
    kinds = ("object", "shape", "surface", "environment", "style", "far")
    for i, item in enumerate(items):
        edit = list(EDITS)[i // 12]
        assert item.kind == kinds[i // 12] and set(item.wanted) == set(EDITS[edit])
        for name, value in item.wanted.items():
            assert value != item.truth[name] and value in ATTRIBUTES[name]
            assert value in item.prompt and item.truth[name] in item.source_prompt
        for name in set(ATTRIBUTES) - set(item.wanted) - {"texture"}:
            assert item.truth[name] in item.prompt
        if edit == "shape" and item.truth["motion"] == "spinning":
            assert item.wanted["shape"] not in ("ball", "ring")
    pairs = {frozenset((i.truth["shape"], i.wanted["shape"])) for i in items if i.kind == "shape"}
    assert frozenset(("ball", "hexagon")) not in pairs and len(pairs) > 5


def test_a_clip_is_made_with_any_camera(folder):
    items = world_items(folder, "test", "test", 5, cameras=("still", "moving", "shaky"))
    assert [item.camera for item in items] == ["still"] * 5 + ["moving"] * 5 + ["shaky"] * 5
    assert len({item.clip for item in items}) == 15 and len({item.video for item in items}) == 5
    own = world_items(folder, "test", "test", 5)
    for item in own:
        same = next(i for i in items if i.video == item.video and i.camera == item.camera)
        np.testing.assert_array_equal(same.frames, item.frames)
    assert [i.prompt for i in items[:5]] == [i.prompt for i in own]


def test_pictures_show_what_is_wanted(folder):
    items = picture_items(folder, "test", "test", 2, 3)
    assert len(items) == 6 and all(item.kind == "picture" for item in items)
    shown = items[::2]
    assert len({i.wanted["colour"] for i in shown}) == len({i.wanted["shape"] for i in shown}) == 3
    number = 2**31
    for item in shown:
        while True:  # the pictures follow each other in the split
            clip = render(split_seed("test", number), size=32)
            number += 1
            if (clip.frames[4] == item.image).all():
                break
        assert item.wanted == {name: clip.truth[name] for name in ATTRIBUTES}
        assert all(value in item.prompt for value in item.wanted.values())


def test_labels_are_what_a_probe_should_read(folder):
    clips = world_clips(folder, "test", "train", 6, start=2, camera="still")
    assert clips[0].video == "train-00002" and clips[0].prompt == "" and not clips[0].wanted
    labels = attribute_labels(clips, "colour")
    assert [list(COLOURS)[label] for label in labels] == [c.truth["colour"] for c in clips]
    places = object_places(clips)
    assert places.shape == (6, 8, 2)
    checked = 0
    for clip, place in zip(clips, places, strict=True):
        if clip.truth["extras"] or clip.truth["shape"] != "ball":
            continue
        rows, columns = (np.array([np.argwhere(m).mean(0)[i] for m in clip.mask]) for i in (0, 1))
        np.testing.assert_allclose((columns + 0.5) / 16 - 1, place[:, 0], atol=0.08)
        np.testing.assert_allclose((rows + 0.5) / 16 - 1, place[:, 1], atol=0.08)
        checked += 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda f: world_items(f, "test", "test", 1, edits=("mood",)), "kind of edit 'mood'"),
        (lambda f: world_items(f, "test", "test", 1, cameras=("drone",)), "still, moving, shaky"),
        (lambda f: world_items(f, "tiny", "test", 1), "gen1 world"),
        (lambda f: world_items(f, "test", "tests", 1), "train, validation, test"),
        (lambda f: picture_items(f, "test", "test", 1, 9), "1 to 8"),
    ],
)
def test_bad_input_is_one_clear_line(folder, call, says):
    with pytest.raises(UserError, match=says) as caught:
        call(folder)
    assert "\n" not in str(caught.value)


# ---- the measures


def test_success_is_what_was_asked_for_without_what_was_there():
    source = {"colour": "red", "shape": "ball"}
    new = {"colour": ["blue", "blue"], "shape": ["ball", "ball"]}
    assert world.success({"colour": "blue"}, new, {"colour": "blue"}, source) == 1
    assert world.success({"colour": "blue"}, new, {"colour": "green"}, source) == 0
    old = {"colour": ["blue", "red"]}
    assert world.success({"colour": "blue"}, old, {"colour": "blue"}, source) == 0
    both = {"colour": "blue", "shape": "box"}
    assert world.success({"colour": "blue", "shape": "ball"}, new, both, source) == 0
    same = {"colour": "blue", "shape": "ball"}  # a picture may show what the clip shows already
    assert world.success(same, new, same, source) == 1
    assert np.isnan(world.success(same, new, {}, source))


def test_overlap_counts_pixels():
    wanted = np.zeros((3, 2, 10, 10), bool)
    wanted[:, :, 2:4, 2:4] = True
    found = wanted.copy()
    found[1] = np.roll(wanted[1], 3, axis=2)
    found[2, :, 4:6, 2:4] = True  # twice as high
    np.testing.assert_allclose(world.mask_iou(found, wanted), [1, 0, 0.5])


def test_path_error_is_that_of_the_largest_patch():
    wanted, found = np.zeros((2, 1, 3, 20, 20), bool)
    for i in range(3):
        wanted[0, i, 4:8, 2 + i : 6 + i] = True  # 16 pixels: size 4
        found[0, i, 4:8, 2 + 3 * i : 6 + 3 * i] = True  # 0, 2 and 4 pixels ahead
    found[0, :, 17:19, 1] = True  # a smaller patch
    np.testing.assert_allclose(world.path_error(found, wanted), [(0 + 0.5 + 1) / 3])
    found[0, 2] = False  # it is not seen
    np.testing.assert_allclose(world.path_error(found, wanted), [0.25])
    wanted[0, 1] = False  # it is hidden
    np.testing.assert_allclose(world.path_error(found, wanted), [0])
    assert np.isnan(world.path_error(0 * found, wanted)[0])


def test_what_is_asked_for_is_part_of_what_a_record_is_known_by(folder):
    one, other = world_items(folder, "test", "test", 1, edits=("colour", "shape"))
    assert one.pixels == other.pixels and one.given != other.given
    assert one.given == dataclasses.replace(one).given
