"""Gen-1 at the paper's sizes (arXiv 2302.03011, section 4.1): four stages on top of SD 1.5.

    gen1 import -o runs/paper \\
      --unet stable-diffusion-v1-5/stable-diffusion-v1-5/unet \\
      --vae stable-diffusion-v1-5/stable-diffusion-v1-5/vae \\
      --clip openai/clip-vit-large-patch14 --depth Intel/dpt-large \\
      --prior kakaobrain/karlo-v1-alpha/prior
    gen1 ingest clips SRC --size 256x448 --num-frames 8 --stride 4 --out runs/paper/footage
    gen1 ingest images SRC --out runs/paper/footage
    gen1 precompute --config paper:encoded --workdir runs/paper/encoded
    gen1 train --config paper:image --workdir runs/paper/image      # then video, structure, blur

Without `gen1 import --prior` the prior is trained too, on the captions of images and clips:

    gen1 train --config paper:prior --workdir runs/paper/prior

Hardware: 128 chips of TPU v5p. The compiler says, without a TPU, what a step takes of them:

    gen1 compile --config paper:blur --topology v5p:4x4x8

A step of 1152 clips takes 48.8 GiB of a chip's 95.7 GiB, and at best 87.7 % of the chip's peak
(docs/performance.md; a bound, not a measurement). `--search` finds settings for other chips.
Result: not known; this project has not trained it.

Sizes, batches and steps of the UNet's stages are the paper's. The paper does not give the
optimizer's settings; those below are Stable Diffusion's own where they are known. How a prior is
trained the paper does not say either: batch, steps and rate are unCLIP's (arXiv 2204.06125, table
3), and the network is Karlo's.
"""

from ml_collections import ConfigDict

from gen1_jax.configs import base

VIDEO_SIZE = (256, 448)  # (height, width) of frames; the paper gives width × height, 448 × 256
IMAGE_SIZES = ((320, 320), (320, 384), (384, 320), (256, 448), (448, 256))  # (height, width)
FACTOR = 8  # pixels of a latent, along each side
NUM_FRAMES = 8  # frames of a clip
STRIDE = 4  # source frames from one frame of a clip to the next
VIDEOS, IMAGES = 1152, 9216  # in a batch; 9216 = 1152 clips · 8 frames
PRIOR_BATCH = 4096  # captions in a batch of the prior

STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"


# ---- models from elsewhere


def imported(flag: str, source: str, model: dict) -> ConfigDict:
    """Returns the config of a public checkpoint, which `gen1 import` brings.

    Args:
      flag: the option of `gen1 import`.
      source: where the checkpoint is published.
      model: its network, for `gen1 compile`; training reads the checkpoint's own config.json.
    """
    # `gen1 all` checks that the part is there, and does not make it.
    made_by = f"gen1 import {flag} {source} -o RUN"
    return base.make("given", holds="model/config.json", made_by=made_by, model=model)


def imported_unet() -> ConfigDict:
    model = unet(temporal=False, structured=False)
    return imported("--unet", f"{STABLE_DIFFUSION}/unet", model)


def autoencoder() -> ConfigDict:
    model = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
        "sample_size": 512,
    }
    return imported("--vae", f"{STABLE_DIFFUSION}/vae", model)


def clip() -> ConfigDict:
    model = {
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "hidden_act": "quick_gelu",
            "vocab_size": 49408,
            "max_position_embeddings": 77,
            # As published. An eos_token_id of 2 says: the largest id ends a text.
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "hidden_act": "quick_gelu",
            "image_size": 224,
            "patch_size": 14,
        },
    }
    return imported("--clip", "openai/clip-vit-large-patch14", model)


def depth() -> ConfigDict:
    model = {
        "model_type": "dpt",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "image_size": 384,
        "patch_size": 16,
        "backbone_out_indices": (5, 11, 17, 23),
        "neck_hidden_sizes": (256, 512, 1024, 1024),
        "fusion_hidden_size": 256,
    }
    return imported("--depth", "Intel/dpt-large", model)


def tokenizer() -> ConfigDict:
    return base.make(
        "given",
        holds="tokenizer_config.json",
        made_by="gen1 import --clip openai/clip-vit-large-patch14 -o RUN",
        context_length=77,
    )


# ---- footage, and encoded footage


def footage() -> ConfigDict:
    size = "x".join(map(str, VIDEO_SIZE))
    options = f"--size {size} --num-frames {NUM_FRAMES} --stride {STRIDE}"
    made_by = f"gen1 ingest clips SRC {options} --out RUN/footage, and gen1 ingest images"
    return base.make("given", holds="clips/report.json", made_by=made_by)


def encoded() -> ConfigDict:
    """Returns the encoding of clips, to `clips`, and of images, to one folder for each size."""
    return base.encoding(
        {"form": "footage", "folder": "../footage", "size": VIDEO_SIZE},
        levels_per_clip=8,
        batch_size=16,
        num_threads=16,
        dtype="bfloat16",
    )


def encoded_data(**fields) -> dict:
    """Returns the `data` of a stage: the encoded clips and images."""

    def latent_size(size: tuple[int, int]) -> tuple[int, int]:
        return size[0] // FACTOR, size[1] // FACTOR

    return base.encoded_data(
        folder="../encoded/clips",
        image_folders=tuple(f"../encoded/images_{h}x{w}" for h, w in IMAGE_SIZES),
        num_frames=NUM_FRAMES,
        buckets=(latent_size(VIDEO_SIZE),),
        image_buckets=tuple(map(latent_size, IMAGE_SIZES)),
        num_threads=16,
        # 12.5 % of batches are images.
        **{"batch_size": VIDEOS, "image_batch_size": IMAGES, "image_fraction": 0.125, **fields},
    )


# ---- the prior

MESH = {"data": -1, "fsdp": 8, "frames": 1}  # for 128 chips of v5p


def prior(embedding_dim: int = 768) -> ConfigDict:
    """Returns the training of a prior, which is skipped if `gen1 import` brought one.

    CLIP's text tower runs in the training step, on the captions' tokens. The mean and deviation of
    the image embeddings are measured before the first step.

    Args:
      embedding_dim: width of CLIP's image embeddings.
    """
    return base.training(
        "prior",
        "prior",
        model={
            "_class_name": "PriorTransformer",
            "num_attention_heads": 32,
            "attention_head_dim": 64,
            "num_layers": 20,
            "embedding_dim": embedding_dim,
            "num_embeddings": 77,
            "additional_embeddings": 4,
        },
        frozen=base.model_folders("clip"),
        # Chosen: three in four batches hold captioned images, of which there are more.
        data=encoded_data(
            fields=("content", "tokens"),
            batch_size=PRIOR_BATCH,
            image_batch_size=PRIOR_BATCH,
            image_fraction=0.75,
        ),
        optimizer={
            "learning_rate": 1.1e-4,
            "warmup_steps": 1000,  # chosen
            "final_fraction": 1.0,
            "weight_decay": 0.06,
            "b1": 0.9,
            "b2": 0.96,
            "clip_norm": 1.0,  # chosen
        },
        num_steps=600_000,
        ema_decay=0.9999,
        dtype="bfloat16",
        mesh=MESH,
        log_every=50,
        sample_every=10_000,
        eval_every=10_000,
        eval_batches=2,
        checkpoint_every=2000,
        keep_checkpoints=2,
    )


# ---- the UNet's four stages


def unet(temporal: bool, structured: bool) -> dict:
    """Returns Stable Diffusion 1.5's UNet, with or without our temporal and structure layers."""
    return {
        "_class_name": "VideoUNet" if temporal else "UNet2DConditionModel",
        "sample_size": 64,
        "in_channels": 12 if structured else 4,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 768,  # width of a CLIP ViT-L/14 image embedding
        "attention_head_dim": 8,  # number of heads, as in the files of Stable Diffusion 1.x
        "norm_num_groups": 32,
        **({"max_frames": 32} if temporal else {}),
    }


def optimizer(learning_rate: float, warmup_steps: int = 1000) -> dict:
    return {
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
        "final_fraction": 1.0,  # the rate stays constant: the next stage goes on
        "weight_decay": 0.01,
        "b1": 0.9,
        "b2": 0.999,
        "clip_norm": 1.0,
    }


def stage(name: str, init_from: str, **fields) -> ConfigDict:
    """Returns the config of a stage, with the settings that all four share."""
    return base.stage(
        name,
        init_from,
        optimizer=optimizer(1e-4),
        ema_decay=0.9998,  # the average spans a tenth of the stage so far, at most 5,000 steps
        dtype="bfloat16",  # parameters, their average and AdamW's moments stay float32
        mesh=MESH,
        log_every=50,
        sample_every=2500,
        eval_every=2500,
        eval_batches=2,
        checkpoint_every=1000,
        keep_checkpoints=3,
        **fields,
    )


def image() -> ConfigDict:
    """Returns the stage in which SD 1.5 learns to read CLIP image embeddings and to predict v."""
    return stage(
        "image",
        init_from="../unet/model",
        model=unet(temporal=False, structured=False),
        data=encoded_data(fields=("latents", "content"), image_fraction=1.0),
        num_steps=15_000,
    )


def video() -> ConfigDict:
    return stage(
        "video",
        init_from="../image/model",
        merge=base.ADDS_TEMPORAL_LAYERS,
        model=unet(temporal=True, structured=False),
        data=encoded_data(fields=("latents", "content")),
        num_steps=75_000,
    )


def structure() -> ConfigDict:
    return stage(
        "structure",
        init_from="../video/model",
        merge=base.ADDS_STRUCTURE_CHANNELS,
        model=unet(temporal=True, structured=True),
        data=encoded_data(levels=(0,)),
        num_steps=25_000,
    )


def blur() -> ConfigDict:
    return stage(
        "blur",
        init_from="../structure/model",
        model=unet(temporal=True, structured=True),
        data=encoded_data(levels=base.LEVELS),
        num_steps=10_000,
    )


# ---- the finished pipeline


def pipeline() -> ConfigDict:
    return base.pipeline(
        size=VIDEO_SIZE,
        num_frames=NUM_FRAMES,
        guidance_scale=7.5,
        prior_guidance_scale=4.0,  # Karlo's own
    )


# In the order in which they are imported, made and trained.
PARTS = {
    "unet": imported_unet,
    "autoencoder": autoencoder,
    "clip": clip,
    "depth": depth,
    "tokenizer": tokenizer,
    "footage": footage,
    "encoded": encoded,
    "prior": prior,
    "image": image,
    "video": video,
    "structure": structure,
    "blur": blur,
    "pipeline": pipeline,
}


# `gen1 customize` makes these, of pictures of your own. The paper says the share of the subject, a
# half, and the order of the steps; batch and rates are chosen, for one accelerator.
CUSTOMIZING = base.customizing(
    data=encoded_data(levels=base.LEVELS, image_batch_size=32),
    num_steps=500,
    sample_every=100,
    eval_every=100,
    checkpoint_every=100,
    ema_decay=0.98,
    dtype="bfloat16",
    full={"optimizer": optimizer(1e-5, warmup_steps=50)},
    lora={"optimizer": optimizer(1e-4, warmup_steps=50)},
    rank=16,
)


def get_config(part: str = "all") -> ConfigDict:
    """Returns one part's config or, for `all`, the list of parts."""
    return base.choose(PARTS, part, CUSTOMIZING)
