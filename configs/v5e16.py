"""Gen-1 on Stable Diffusion 1.5 for 16 chips of TPU v5e (v5e:4x4): the paper's stages at its size.

The commands are those of configs/node.py, with `v5e16` for `node`.

    gen1 plan --config v5e16 --chips v5e:4x4

A batch is 128 clips, 8 a chip, one after another. Parameters, their average and AdamW's moments are
sharded over all 16 chips, so that all of them can train. AdamW's learning rate falls with the
square root of the batch: 1e-4 · √(128 / 1152) = 3.3e-5. The steps are the paper's, so a run sees 9
times fewer clips.

The compiler says that a step of 128 clips takes 10.2 GiB of a chip's 15.75 GiB, at least 0.60 s,
and at most 69.3 % of the chips' peak (`gen1 compile --config v5e16:blur --topology v5e:4x4`). These
are bounds, not measurements.
Result: not known; this project has not trained it.
"""

from ml_collections import ConfigDict

from gen1_jax.configs import base, node

PARTS = node.make_parts(
    node.NODE._replace(
        videos=128,  # 8 a chip
        images=1024,
        microbatches=8,  # of one clip a chip each, which stays in the chip's fast memory
        mesh={"data": -1, "fsdp": 16, "frames": 1},
        learning_rate=3.3e-5,
        captions=512,
    )
)


def get_config(part: str = "all") -> ConfigDict:
    """Returns one part's config or, for `all`, the list of parts."""
    return base.choose(PARTS, part)
