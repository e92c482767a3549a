"""Gen-1 on Stable Diffusion 1.5 for one GPU of 24 GB: 256×256 pixels, few of the layers trained.

The commands are those of configs/node.py, with `gpu24` for `node` and

    gen1 ingest clips SRC --size 256x256 --num-frames 8 --stride 4 --out runs/gpu24/footage
    gen1 ingest images SRC --buckets 256x256 --out runs/gpu24/footage
    gen1 plan --config gpu24 --chips rtx4090:1

All 1.2 billion parameters with their gradients, averages and two moments would take 24 GB alone,
20 bytes each. Each stage therefore trains the layers that it is about, and leaves the others as
Stable Diffusion has them:

- image: cross-attention, which learns to read image embeddings in place of texts;
- video: the new temporal layers;
- structure, blur: temporal layers, and the first layers, which read the structure.

The network goes on predicting noise, as Stable Diffusion was trained to: to learn to predict v all
layers would have to change. A batch is 16 clips, one after another. The learning rate stays the
paper's, although the batch is small: the layers that it could damage are not trained.

The compiler says that a step of the video stage takes 18.3 GiB of the 22.4 GiB that a program gets
of an RTX 4090, without cuDNN's work space, and at least 0.93 s (`gen1 compile --config gpu24:video
--topology rtx4090:1`; bounds, not measurements). Set XLA_CLIENT_MEM_FRACTION=0.95.
Result: not known; this project has not trained it.
"""

from ml_collections import ConfigDict

from gen1_jax.configs import base, node

STRUCTURE_LAYERS = ("temporal", "^conv_in/", "^down_blocks_0/")

PARTS = node.make_parts(
    node.Recipe(
        size=(256, 256),
        image_sizes=((256, 256),),
        videos=16,
        images=128,
        microbatches=16,
        mesh={"data": -1, "fsdp": 1, "frames": 1},
        learning_rate=1e-4,
        steps={"image": 5_000, "video": 30_000, "structure": 15_000, "blur": 10_000},
        trains={
            "image": ("attn2",),
            "video": node.TEMPORAL_LAYERS,
            "structure": STRUCTURE_LAYERS,
            "blur": STRUCTURE_LAYERS,
        },
        captions=256,
        prior_steps=100_000,
        prior_layers=(16, 10),  # Karlo's 32 and 20 need more than 24 GB
        warmup_steps=500,
        ema_decay=0.999,
        prediction_type="epsilon",
    )
)


def get_config(part: str = "all") -> ConfigDict:
    """Returns one part's config or, for `all`, the list of parts."""
    return base.choose(PARTS, part)
