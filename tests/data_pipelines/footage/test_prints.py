"""Prints: near-copies match, look-alikes of every kind do not, nor do prints without detail."""

import sys
from pathlib import Path

import numpy as np
import pytest

from gen1_jax.data_pipelines.footage.prints import (
    CLIP_FRAMES,
    are_same,
    has_detail,
    hash_clip,
    hash_image,
)

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))
from lookalikes import COPIES, KINDS, RED_AND_BLUE, make_clip, make_kind, make_scene


@pytest.fixture(scope="module")
def scenes():
    random = np.random.default_rng(11)
    return [make_scene(random) for _ in range(12)]


def hashed(pictures):
    return np.stack([hash_image(np.asarray(picture)) for picture in pictures])


@pytest.mark.parametrize("name", COPIES)
def test_copies_match(scenes, name):
    random = np.random.default_rng(12)
    copies = hashed([COPIES[name](scene, random) for scene in scenes])
    assert has_detail(hashed(scenes)).all()
    assert are_same(hashed(scenes), copies).sum() >= 11
    assert not are_same(hashed(scenes), np.roll(copies, 1, axis=0)).any()


@pytest.mark.parametrize("kind", [*KINDS, RED_AND_BLUE])
def test_look_alikes_do_not_match(kind):
    prints = hashed(make_kind(kind, 24, np.random.default_rng(13)))
    one, other = np.triu_indices(24, 1)
    assert not are_same(prints[one], prints[other]).any()


def test_pictures_without_detail_match_nothing():
    sparse = ("plain colours", "one line of text", "a bird in a sky", "gradients", "night skies")
    for kind in sparse:
        prints = hashed(make_kind(kind, 4, np.random.default_rng(14)))
        assert not has_detail(prints).any(), kind
        assert not are_same(prints, prints).any(), kind


def test_frames_of_clips_match_in_one_direction():
    random = np.random.default_rng(15)
    clip = np.stack([np.asarray(frame) for frame in make_clip(random)])
    rows = hash_clip(clip)[None]
    assert rows.shape == (1, CLIP_FRAMES) and rows["frame"].tolist() == [list(range(CLIP_FRAMES))]
    assert rows["digest"][0, 0].all() and not rows["digest"][0, 1:].any()
    assert are_same(rows, hash_clip(clip[:, :, ::-1])[None])[0]
    half = np.concatenate([clip[:4], clip[4:, :, ::-1]])
    assert not are_same(rows, hash_clip(half)[None])[0]
    other = np.stack([np.asarray(frame) for frame in make_clip(random)])
    assert not are_same(rows, hash_clip(np.concatenate([clip[:4], other[4:]]))[None])[0]
    blank = np.concatenate([np.zeros_like(clip[:2]), clip[2:]])  # it begins in black
    assert are_same(hash_clip(blank)[None], hash_clip(blank[:, :, ::-1])[None])[0]
    black = np.zeros_like(clip)
    assert not are_same(hash_clip(black)[None], hash_clip(black)[None])[0]
