"""Gen-1 on Stable Diffusion 1.5 for one node of 8 GPUs with 80 GB: the paper's stages at its size.

    gen1 import -o runs/node \\
      --unet stable-diffusion-v1-5/stable-diffusion-v1-5/unet \\
      --vae stable-diffusion-v1-5/stable-diffusion-v1-5/vae \\
      --clip openai/clip-vit-large-patch14 --depth Intel/dpt-large \\
      --prior kakaobrain/karlo-v1-alpha/prior
    gen1 ingest clips SRC --size 256x448 --num-frames 8 --stride 4 --out runs/node/footage
    gen1 ingest images SRC --out runs/node/footage
    gen1 precompute --config node:encoded --workdir runs/node/encoded
    gen1 train --config node:image --workdir runs/node/image      # then video, structure, blur
    # Without --prior above: gen1 train --config node:prior --workdir runs/node/prior
    gen1 plan --config node --chips h100:8                        # what all of it takes

Other machines: `gpu24` (one GPU of 24 GB) and `v5e16` (16 chips of TPU v5e) are made of this file.
docs/scale.md compares them, and says what the compilers report for each.

A batch is 256 clips, where the paper's is 1152. AdamW's learning rate falls with the square root of
the batch: 1e-4 · √(256 / 1152) = 5e-5 keeps the noise of an update what it is at the paper's batch.
The steps are the paper's, so a run sees 4.5 times fewer clips.

The compiler says that a step of 256 clips takes 45.0 GiB of the 74.5 GiB that a program gets of an
H100, without cuDNN's work space, and at least 0.95 s (`gen1 compile --config node:blur --topology
h100:8`; bounds, not measurements). Set XLA_CLIENT_MEM_FRACTION=0.95.
Result: not known; this project has not trained it.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from gen1_jax.configs import base, paper

TEMPORAL_LAYERS = ("temporal",)


class Recipe(NamedTuple):
    """What differs from machine to machine.

    Attributes:
      size: (height, width) of clips, in pixels.
      image_sizes: (height, width) of images, in pixels.
      videos: clips in a batch.
      images: images in a batch.
      microbatches: parts of a batch, computed one after another.
      mesh: devices along each axis.
      learning_rate: of each stage.
      steps: length of each stage.
      trains: patterns of the parameters that a stage trains; a stage that is absent trains all.
      warmup_steps: of every stage.
      ema_decay: of every stage.
      prediction_type: what the network predicts.
      remat: what the backward pass computes again.
      reduce_once: the type in which gradients are reduced once a step, or "no".
      captions: captions in a batch of the prior.
      prior_steps: length of the prior's training.
      prior_layers: heads of 64 channels, and layers, of the prior.
    """

    size: tuple[int, int]
    image_sizes: tuple[tuple[int, int], ...]
    videos: int
    images: int
    microbatches: int
    mesh: dict[str, int]
    learning_rate: float
    steps: Mapping[str, int]
    trains: Mapping[str, tuple[str, ...]] = {}
    warmup_steps: int = 1000
    ema_decay: float = 0.9998
    prediction_type: str = "v_prediction"
    remat: str = "none"
    reduce_once: str = "no"
    captions: int = 1024
    prior_steps: int = 600_000
    prior_layers: tuple[int, int] = (32, 20)


NODE = Recipe(
    size=paper.VIDEO_SIZE,
    image_sizes=paper.IMAGE_SIZES,
    videos=256,  # 32 a GPU
    images=2048,  # as many frames as a batch of clips has
    microbatches=8,
    mesh={"data": -1, "fsdp": 8, "frames": 1},
    learning_rate=5e-5,
    steps={"image": 15_000, "video": 75_000, "structure": 25_000, "blur": 10_000},
)


def make_parts(recipe: Recipe) -> dict[str, Callable[[], ConfigDict]]:
    """Returns the parts of a config, in the order in which they are imported, made and trained."""

    def footage() -> ConfigDict:
        frames = f"--num-frames {paper.NUM_FRAMES} --stride {paper.STRIDE}"
        buckets = "" if recipe.image_sizes == paper.IMAGE_SIZES else " --buckets"
        sizes = [f" {h}x{w}" for h, w in recipe.image_sizes] if buckets else []
        return base.make(
            "given",
            holds="clips/report.json",
            made_by=(
                f"gen1 ingest clips SRC --size {recipe.size[0]}x{recipe.size[1]} {frames} "
                f"--out RUN/footage, and gen1 ingest images SRC{buckets}{''.join(sizes)} "
                "--out RUN/footage"
            ),
        )

    def encoded() -> ConfigDict:
        return base.encoding(
            {"form": "footage", "folder": "../footage", "size": recipe.size},
            levels_per_clip=8,
            batch_size=8,
            num_threads=8,
            dtype="bfloat16",
        )

    def data(**fields) -> dict:
        def latent_size(size: tuple[int, int]) -> tuple[int, int]:
            return size[0] // paper.FACTOR, size[1] // paper.FACTOR

        return base.encoded_data(
            folder="../encoded/clips",
            image_folders=tuple(f"../encoded/images_{h}x{w}" for h, w in recipe.image_sizes),
            num_frames=paper.NUM_FRAMES,
            buckets=(latent_size(recipe.size),),
            image_buckets=tuple(map(latent_size, recipe.image_sizes)),
            num_threads=8,
            **{
                **{"batch_size": recipe.videos, "image_batch_size": recipe.images},
                **{"image_fraction": 0.125, **fields},
            },
        )

    def prior() -> ConfigDict:
        """Returns the paper's, at another batch; AdamW's rate falls with the batch's root."""
        config = paper.prior()
        heads, layers = recipe.prior_layers
        config.model.num_attention_heads, config.model.num_layers = heads, layers
        batch = {"batch_size": recipe.captions, "image_batch_size": recipe.captions}
        fields = ("content", "tokens")
        config.data = ConfigDict(data(fields=fields, image_fraction=0.75, **batch))
        config.optimizer.learning_rate *= (recipe.captions / paper.PRIOR_BATCH) ** 0.5
        config.num_steps, config.mesh = recipe.prior_steps, ConfigDict(recipe.mesh)
        return config

    def stage(name: str, before: str, **fields) -> ConfigDict:
        config = base.stage(
            name,
            f"../{before}/model",
            trains=recipe.trains.get(name, ()),
            num_steps=recipe.steps[name],
            optimizer={
                "learning_rate": recipe.learning_rate,
                "warmup_steps": recipe.warmup_steps,
                "final_fraction": 1.0,  # the rate stays constant: the next stage goes on
                "weight_decay": 0.01,
                "b1": 0.9,
                "b2": 0.999,
                "clip_norm": 1.0,
            },
            ema_decay=recipe.ema_decay,
            dtype="bfloat16",  # trained parameters, their average and moments stay float32
            mesh=recipe.mesh,
            microbatches=recipe.microbatches,
            remat=recipe.remat,
            reduce_once=recipe.reduce_once,
            log_every=50,
            sample_every=2500,
            eval_every=2500,
            eval_batches=2,
            checkpoint_every=1000,
            keep_checkpoints=2,
            **fields,
        )
        config.loss.prediction_type = recipe.prediction_type
        return config

    def image() -> ConfigDict:
        return stage(
            "image",
            "unet",
            model=paper.unet(temporal=False, structured=False),
            data=data(fields=("latents", "content"), image_fraction=1.0),
        )

    def video() -> ConfigDict:
        # An image skips the temporal layers: where they train alone, images would train nothing.
        temporal_alone = recipe.trains.get("video") == TEMPORAL_LAYERS
        return stage(
            "video",
            "image",
            merge=base.ADDS_TEMPORAL_LAYERS,
            model=paper.unet(temporal=True, structured=False),
            data=data(
                fields=("latents", "content"), image_fraction=0.0 if temporal_alone else 0.125
            ),
        )

    def structure() -> ConfigDict:
        return stage(
            "structure",
            "video",
            merge=base.ADDS_STRUCTURE_CHANNELS,
            model=paper.unet(temporal=True, structured=True),
            data=data(levels=(0,)),
        )

    def blur() -> ConfigDict:
        return stage(
            "blur",
            "structure",
            model=paper.unet(temporal=True, structured=True),
            data=data(levels=base.LEVELS),
        )

    def pipeline() -> ConfigDict:
        config = base.pipeline(
            size=recipe.size,
            num_frames=paper.NUM_FRAMES,
            guidance_scale=7.5,
            prior_guidance_scale=4.0,  # Karlo's own
        )
        if recipe.prediction_type != "v_prediction":
            config.settings.schedule.prediction_type = recipe.prediction_type
        return config

    given = ("unet", "autoencoder", "clip", "depth", "tokenizer")
    made = (footage, encoded, prior, image, video, structure, blur, pipeline)
    return {name: paper.PARTS[name] for name in given} | {part.__name__: part for part in made}


PARTS = make_parts(NODE)


def get_config(part: str = "all") -> ConfigDict:
    """Returns one part's config or, for `all`, the list of parts."""
    return base.choose(PARTS, part)
