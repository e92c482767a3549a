"""The structure that the world knows of its clips."""

import numpy as np
import pytest

from gen1_jax.data_pipelines.moving_shapes.records import decode_clip, encode_example
from gen1_jax.data_pipelines.moving_shapes.renderer import render
from gen1_jax.data_pipelines.moving_shapes.truth_maps import draw_truth
from gen1_jax.data_pipelines.to_encode import make_structure_map
from gen1_jax.errors import UserError
from gen1_jax.video.extractors import extract_clip


@pytest.fixture(scope="module")
def clip():
    return decode_clip(encode_example(render(7), 7))


def test_the_outline_goes_round_the_object(clip):
    lines = make_structure_map("truth:edges", clip) > 0
    mask = clip["mask"]
    near = lines.copy()  # what stands before the object has the line on its own side
    inner = mask.copy()
    for axis in (1, 2):
        for step in (1, -1):
            inner &= np.roll(mask, step, axis)
            near |= np.roll(lines, step, axis)
    rim = mask & ~inner
    rim[:, [0, -1]] = rim[:, :, [0, -1]] = False  # where the picture ends, and not the object
    assert near[rim].all() and lines[inner].mean() < 0.02 and lines.mean() < 0.15


def test_each_truth_is_what_its_name_says(clip):
    depth, mask = clip["depth"], clip["mask"]
    np.testing.assert_array_equal(make_structure_map("truth:masks", clip), mask)
    np.testing.assert_array_equal(make_structure_map("truth:depth", clip), depth)
    with pytest.raises(UserError, match="truth:edges, truth:masks"):
        draw_truth("truth:flow", depth, mask)


def test_nothing_but_the_world_has_a_truth(clip):
    frames = {"frames": clip["frames"]}
    with pytest.raises(UserError, match="truth:masks, which is known of the moving-shapes world"):
        make_structure_map("truth:masks", frames)
    found = make_structure_map("canny", frames)
    np.testing.assert_array_equal(found, extract_clip("canny", clip["frames"]))
