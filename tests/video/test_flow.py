"""Optical flow against known translations, and the rules about what it hides."""

import numpy as np
import pytest
from scipy.ndimage import zoom

from gen1_jax.video.flow import estimate_flow, find_motion_edges, find_occluded, warp

RNG = np.random.default_rng(0)


def texture(side: int) -> np.ndarray:
    """A smooth random picture, `[side side 3]` uint8."""
    coarse = RNG.uniform(0, 255, (-(-side // 6), -(-side // 6), 3))
    return zoom(coarse, (6, 6, 1), order=3)[:side, :side].clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("side", [32, 64, 160])  # refined at full size, full size, half size
def test_flow_of_a_translation(side):
    big = texture(side + 12)
    at = [(6, 6), (4, 7), (6, 6)]  # a window that moves by (y, x), so the picture moves back
    clip = np.stack([big[y : y + side, x : x + side] for y, x in at])[None]
    flow = estimate_flow(clip)
    assert flow.forward.shape == flow.backward.shape == (1, 2, side, side, 2)
    seen = ~flow.occluded[0, 0]
    for found, moved in ((flow.forward[0, 0], (-1, 2)), (flow.backward[0, 1], (-1, 2))):
        off = np.linalg.norm(found - moved, axis=-1)
        assert np.median(off[seen]) < 0.05 and np.quantile(off[seen], 0.95) < 0.5
    # Two rows and a column leave the frame, and little else is hidden.
    gone = np.zeros((side, side), bool)
    gone[-2:], gone[:, 0] = True, True
    assert (flow.occluded[0, 0] == gone).mean() > 0.95
    brought, inside = warp(clip[:, 1:2], flow.forward[:, :1])
    error = np.abs(brought[0, 0] - clip[0, 0])[seen]
    assert np.median(error) < 2 and inside[0, 0][seen].all()
    again = estimate_flow(clip)
    np.testing.assert_array_equal(again.forward, flow.forward)


@pytest.mark.parametrize("size", [(1, 1), (7, 8), (8, 200), (9, 11), (15, 40)])
def test_flow_of_frames_too_small_for_dis(size):
    """DIS crashes the process, or refuses, where a side is below its patch."""
    clip = RNG.integers(0, 256, (1, 2, *size, 3), np.uint8)
    flow = estimate_flow(clip)
    assert flow.forward.shape == (1, 1, *size, 2) and np.isfinite(flow.forward).all()


def test_flow_of_small_frames_is_in_their_own_pixels():
    big = texture(30)
    clip = np.stack([big[5:17, 5:17], big[5:17, 4:16]])[None]
    assert np.median(estimate_flow(clip).forward[..., 0]) == pytest.approx(1, abs=0.1)


def test_flow_of_what_does_not_move():
    still = np.repeat(texture(32)[None, None], 3, axis=1)
    for clip in (still, np.full((1, 3, 32, 32, 3), 7, np.uint8)):
        flow = estimate_flow(clip)
        assert np.abs(flow.forward).max() < 0.01 and not flow.occluded.any()
    one = estimate_flow(still[:, :1])
    assert one.forward.shape == (1, 0, 32, 32, 2) and one.occluded.shape == (1, 0, 32, 32)


def test_occlusion_by_hand():
    """|w + w'|² against 0.01 (|w|² + |w'|²) + 0.5, and leaving the frame."""
    forward, backward = np.zeros((2, 8, 8, 2), np.float32)
    backward[2, 2] = (0.7, 0)  # 0.49 < 0.0049 + 0.5
    backward[4, 4] = (0.72, 0)  # 0.5184 > 0.005184 + 0.5
    forward[6, 6] = (3, 0)
    occluded = find_occluded(forward, backward)
    assert {tuple(place) for place in np.argwhere(occluded)} == {(4, 4), (6, 6)}


def test_motion_edges_by_hand():
    """|∇w|² against 0.01 |w|² + 0.002."""
    flow = np.zeros((6, 6, 2), np.float32)
    flow[:, 3:] = (2, 0)  # 4 > 0.002 beside it
    flow[:, 3:, 1] = np.linspace(0, 0.5, 6)[:, None]  # 0.01 < 0.042
    edges = find_motion_edges(flow)
    assert edges[:, 2].all() and edges.sum() == 6


def test_warp_interpolates():
    picture = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    flow = np.zeros((1, 4, 4, 2), np.float32)
    flow[..., 0], flow[..., 1] = 0.5, 1
    moved, inside = warp(picture, flow)
    np.testing.assert_allclose(moved[0, :3, :3, 0], picture[0, 1:, :3, 0] + 0.5)
    assert inside[0, :3, :3].all() and inside.sum() == 9
    assert moved[0, 3, 3, 0] == 15  # the nearest edge
