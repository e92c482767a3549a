"""Content of several pictures and prompts, and over time: mixtures keep their length and order."""

import numpy as np
import pytest

from gen1_jax.editing.content import blend, of_windows, over_time, read_prompts, slerp, to_length
from gen1_jax.editing.events import Stages
from gen1_jax.errors import UserError
from gen1_jax.video.streams import Stream

A, B, C = to_length(np.random.default_rng(0).normal(size=(3, 16)))


def angle(a, b) -> float:
    return float(np.arccos(np.clip(a @ b / 16, -1, 1)))


@pytest.mark.parametrize("how", ["slerp", "mean"])
def test_mixtures_are_contents_again(how):
    mixed = blend(np.stack([A, B, C]), [1, 2, 1], how)
    assert np.linalg.norm(mixed) == pytest.approx(4)
    np.testing.assert_allclose(blend(np.stack([A, B]), [0, 3], how), B, atol=1e-9)
    np.testing.assert_allclose(blend(np.stack([A, B]), [1, 0], how), A, atol=1e-9)
    halves = blend(np.stack([A, B]), [1, 1], how)
    assert angle(A, halves) == pytest.approx(angle(halves, B))


def test_slerp_goes_along_the_arc_evenly():
    whole = angle(A, B)
    for share in (0.1, 0.25, 0.9):
        assert angle(A, slerp(A, B, share)) == pytest.approx(share * whole)
    assert angle(A, slerp(A, -A, 0.5)) >= 0  # no arc is the shortest; a number comes all the same
    np.testing.assert_allclose(slerp(A, A, 0.3), A)


def test_prompts_hold_from_their_time_on():
    assert read_prompts("a red ball") == {0.0: "a red ball"}
    assert read_prompts(["0s: a red ball", "2.5s: a blue one"]) == {
        0.0: "a red ball", 2.5: "a blue one",
    }  # fmt: skip
    assert read_prompts("1s: a: b") == {1.0: "a: b"}
    times = np.arange(40) / 10
    found = over_time({0.0: A, 2.0: B}, times, transition=1.0)
    np.testing.assert_allclose(found[:21], np.stack([A] * 21), atol=1e-9)
    np.testing.assert_allclose(found[30:], np.stack([B] * 10), atol=1e-9)
    angles = [angle(A, each) for each in found]
    assert np.all(np.diff(angles[20:31]) > 0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 4)
    cut = over_time({0.0: A, 2.0: B}, times, transition=0)
    np.testing.assert_allclose(cut[20], B, atol=1e-9)
    windows = of_windows(found, np.array([[0, 1], [25, 26]]))
    np.testing.assert_array_equal(of_windows(A, np.zeros((3, 2), int)), np.stack([A] * 3))
    np.testing.assert_allclose(windows[0], A, atol=1e-9)
    assert angle(A, found[25]) < angle(A, windows[1]) < angle(A, found[26])
    for wrong in ({}, {"a": "b"}, {float("nan"): "a"}, [], 3):
        with pytest.raises(UserError):
            read_prompts(wrong)


def test_stages_say_how_far_they_are():
    events = []
    stages = Stages(events.append)
    with stages("sampling", 4) as advance:
        advance(1)
        advance(3)
    watched = stages.watch("decoding", Stream.of(np.zeros((3, 2))))
    assert len(list(watched)) == 3 and len(list(watched)) == 3
    told = [(event.stage, event.done, event.total) for event in events]
    assert told[:3] == [("sampling", 0, 4), ("sampling", 1, 4), ("sampling", 4, 4)]
    assert told[3:] == [("decoding", i, 3) for i in range(4)] * 2
    assert events[0].left is None and events[2].left == 0
    assert events[1].left == pytest.approx(3 * events[1].seconds)
    assert stages.seconds.keys() == {"sampling", "decoding"}
