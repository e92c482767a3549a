"""Warp error, agreement of motion, and drift, by hand."""

import numpy as np

from gen1_jax.evaluation.metrics.drift import colour_drift, embedding_drift
from gen1_jax.evaluation.metrics.motion import motion_error, motion_fidelity, warp_error
from gen1_jax.video.flow import Flow, estimate_flow, find_occluded
from gen1_jax.video.pixels import rgb_to_lab

RNG = np.random.default_rng(0)


def flow_of(forward: np.ndarray) -> Flow:
    """A flow `[b n-1 h w 2]` that leads back where it came from."""
    forward = np.asarray(forward, np.float32)
    return Flow(forward, -forward, find_occluded(forward, -forward))


def moving(x: float, y: float, b: int = 1) -> Flow:
    return flow_of(np.broadcast_to(np.float32([x, y]), (b, 2, 8, 8, 2)))


# ---- warp error


def test_warp_error_follows_the_source():
    """A pattern that moves as the source does has none; brightness that changes has its square."""
    wide = RNG.integers(0, 200, (1, 8, 12, 3), np.uint8)
    output = np.stack([wide[:, :, 2 - i : 10 - i] for i in range(3)], axis=1)
    source = moving(1, 0)
    np.testing.assert_allclose(warp_error(output, source), [0], atol=1e-12)
    output[:, 2] += 51  # 0.2; one of two pairs
    np.testing.assert_allclose(warp_error(output, source), [0.04 / 2], rtol=1e-5)
    assert warp_error(output, moving(0, 0))[0] > 0.02


def test_warp_error_leaves_out_what_is_hidden_or_at_an_edge():
    forward = np.zeros((1, 1, 8, 8, 2))
    forward[0, 0, 5, 5] = (2.5, 0)  # inside, but nothing leads back from there
    source = Flow(
        forward.astype(np.float32), 0 * forward.astype(np.float32), np.zeros((1, 1, 8, 8), bool)
    )
    source.occluded[0, 0, 1, 1] = True
    output = np.zeros((1, 2, 8, 8, 3), np.uint8)
    output[0, 0, 1, 1] = output[0, 0, 4, 5] = output[0, 0, 5, 4] = 255  # hidden, above, left
    np.testing.assert_array_equal(warp_error(output, source), [0])
    source.occluded[:] = True
    assert np.isnan(warp_error(output, source)[0])
    assert np.isnan(warp_error(output[:, :1], estimate_flow(output[:, :1]))[0])


# ---- agreement of motion


def test_motion_of_the_same_and_of_other_directions():
    source = moving(2, 0)
    for output, cosine, error in [
        (moving(2, 0), 1, 0),
        (moving(4, 0), 1, 1),
        (moving(-2, 0), -1, 2),
        (moving(0, 2), 0, np.sqrt(2)),
        (moving(2, 2), np.sqrt(0.5), 1),
        (moving(0, 0), 0, 1),
        (moving(0.25, 0), 0.5, 0.875),  # slower than what counts as motion
    ]:
        np.testing.assert_allclose(motion_fidelity(output, source), [cosine], rtol=1e-6)
        np.testing.assert_allclose(motion_error(output, source), [error], rtol=1e-6)


def test_motion_is_weighed_by_the_sources_speed():
    ours, theirs = np.zeros((2, 1, 1, 8, 16, 2))
    theirs[..., 2:6, 2:4, 1], theirs[..., 2:6, 8:10, 1] = 1, 3
    ours[..., 2:6, 2:4, 1], ours[..., 2:6, 8:10, 1] = 1, -3
    source = Flow(theirs, -theirs, np.zeros((1, 1, 8, 16), bool))
    output = flow_of(ours)
    np.testing.assert_allclose(motion_fidelity(output, source), [(1 - 3) / 4], rtol=1e-6)
    np.testing.assert_allclose(motion_error(output, source), [6 / 4], rtol=1e-6)
    source.occluded[..., 8:] = True
    np.testing.assert_allclose(motion_fidelity(output, source), [1], rtol=1e-6)


def test_motion_of_a_still_source_is_undefined():
    for source in (moving(0, 0), moving(0.3, 0), estimate_flow(np.zeros((1, 1, 8, 8, 3), "u1"))):
        output = flow_of(np.ones(source.forward.shape))
        assert np.isnan(motion_fidelity(output, source)[0])
        assert np.isnan(motion_error(output, source)[0])


# ---- drift


def test_embedding_drift_by_hand():
    angles = np.concatenate([np.zeros(3), [1.0], np.full(3, np.pi / 3)])
    turning = np.stack([np.cos(angles), np.sin(angles)], axis=-1)[None] * 5
    still = np.ones((1, 7, 2))
    np.testing.assert_allclose(embedding_drift(turning, still, window=3), [0.5])
    np.testing.assert_allclose(embedding_drift(turning, turning, window=3), [0], atol=1e-12)
    assert np.isnan(embedding_drift(turning, still, window=4)[0])
    assert np.isfinite(embedding_drift(0 * turning, still, window=3)).all()


def test_colour_drift_by_hand():
    grey = np.full((1, 16, 4, 4, 3), 100, np.uint8)
    paling = grey.copy()
    paling[:, 8:] = 120
    step = np.diff(rgb_to_lab([[100] * 3, [120] * 3])[:, 0])[0]
    np.testing.assert_allclose(colour_drift(paling, grey), [step], rtol=1e-6)
    np.testing.assert_allclose(colour_drift(paling, paling), [0], atol=1e-12)
    checked = paling.copy()  # the same colours in another place are none
    checked[:, :8, :2], checked[:, 8:, :2] = 120, 100
    np.testing.assert_allclose(colour_drift(checked, grey), [0], atol=1e-9)
    assert np.isnan(colour_drift(paling[:, :15], grey[:, :15])[0])
