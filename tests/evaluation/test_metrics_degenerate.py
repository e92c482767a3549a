"""Clips in which there is little to measure: a number or NaN for each, and never a warning."""

import itertools

import numpy as np
import pytest

from gen1_jax.evaluation.metrics import colour, drift, motion, similarity, structure, world
from gen1_jax.video.flow import estimate_flow

RNG = np.random.default_rng(0)
PICTURES = {
    "noise": lambda shape: RNG.integers(0, 256, shape, np.uint8),
    "constant": lambda shape: np.full(shape, 7, np.uint8),
    "white": lambda shape: np.full(shape, 255, np.uint8),
}
MASKS = {"empty": np.zeros, "full": np.ones, "noise": lambda shape: RNG.random(shape) < 0.5}


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 9), (1, 16, 16), (3, 12, 16)])
def test_every_measure_gives_a_number_or_nan(size):
    shape = (2, *size)
    for (output, source), mask in itertools.product(
        itertools.product(PICTURES.values(), repeat=2), MASKS.values()
    ):
        frames, clip, where = output((*shape, 3)), source((*shape, 3)), mask(shape).astype(bool)
        flows = estimate_flow(frames), estimate_flow(clip)
        depth, true = frames[..., 0] / 255, clip[..., 0] / 255
        found = {
            "warp error": motion.warp_error(frames, flows[1]),
            "motion fidelity": motion.motion_fidelity(*flows),
            "motion error": motion.motion_error(*flows),
            "embedding drift": drift.embedding_drift(frames[..., 0, 0, :], clip[..., 0, 0, :], 1),
            "colour drift": drift.colour_drift(frames, clip, 1),
            "flicker": colour.flicker(frames, clip),
            "mask iou": world.mask_iou(frames[..., 0] > 128, where),
            "path error": world.path_error(frames[..., 0] > 128, where),
            "psnr": similarity.psnr_outside(frames, clip, where),
            "ssim": similarity.ssim_outside(frames, clip, where),
            "distance": similarity.distance_outside([depth[:, :, ::2]], where),
            "structure error": structure.structure_error(depth, true),
            "structure correlation": structure.structure_correlation(depth, true),
            "depth error": structure.depth_abs_rel(depth, true),
            "depth accuracy": structure.depth_accuracy(depth, true),
        }
        for name, values in found.items():
            assert values.shape == (2,) and values.dtype == np.float64, name
            assert not np.isinf(values).any(), name
