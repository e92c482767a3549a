"""Your own films and images, on top of checkpoints of any size: the four stages of the paper.

    gen1 import -o runs/mine \\
      --unet stable-diffusion-v1-5/stable-diffusion-v1-5/unet \\
      --vae stable-diffusion-v1-5/stable-diffusion-v1-5/vae \\
      --clip openai/clip-vit-large-patch14 --depth Intel/dpt-large \\
      --prior kakaobrain/karlo-v1-alpha/prior
    gen1 ingest clips FILMS --size 256x448 --num-frames 8 --stride 4 --out runs/mine/footage
    gen1 ingest images IMAGES --out runs/mine/footage
    gen1 all --config own --workdir runs/mine

Hardware: what the imported models need. docs/footage.md walks through all of it with the demo's
models, on two CPU cores.
Result: depends on your films; this project has trained it on moving shapes only.

No size of a model or of the data stands here. The imported checkpoints say the widths. `gen1
ingest` sets the size, length and stride of clips, and every later part reads them from the files.
Batch sizes and steps are below; `--set data.batch_size=2 num_steps=500` changes those of one part.

Stable Diffusion 2.x goes with the CLIP whose image embeddings are as wide as its cross-attention:
1024, that of laion/CLIP-ViT-H-14-laion2B-s32B-b79K. No public prior has this width. Without
`gen1 import --prior`, the part `prior` is trained, on the captions of the footage.
"""

from ml_collections import ConfigDict

from gen1_jax.configs import base

CLIPS, IMAGES = 4, 32  # in a batch; 32 images have as many frames as 4 clips of 8 frames
# Steps of each trained part.
STEPS = {"prior": 5000, "image": 2000, "video": 5000, "structure": 3000, "blur": 2000}
LATENT_CHANNELS = 4  # of Stable Diffusion's autoencoders
# Channels of the UNet's input: noisy latents, the structure's latents, and four for its level.
STRUCTURED = 2 * LATENT_CHANNELS + 4


# ---- what comes from elsewhere


def given(holds: str, made_by: str) -> ConfigDict:
    """Returns the config of a part that a run does not make.

    Args:
      holds: the file that must be there, from the part's folder.
      made_by: the command that makes it.
    """
    return ConfigDict({"kind": "given", "holds": holds, "made_by": made_by})


def imported(flag: str) -> ConfigDict:
    """Returns the config of a model that `gen1 import` brings, of whatever size."""
    return given("model/config.json", f"gen1 import {flag} MODEL -o RUN")


def unet() -> ConfigDict:
    return imported("--unet")


def autoencoder() -> ConfigDict:
    return imported("--vae")


def clip() -> ConfigDict:
    return imported("--clip")


def depth() -> ConfigDict:
    return imported("--depth")


def tokenizer() -> ConfigDict:
    return given("tokenizer_config.json", "gen1 import --clip MODEL -o RUN")


def footage() -> ConfigDict:
    return given("clips/report.json", "gen1 ingest clips FILMS --out RUN/footage")


# ---- encoded footage, and the prior


def encoded(**fields) -> ConfigDict:
    """Returns the encoding of clips, to `clips`, and of images, to one folder for each size."""
    config = {
        "levels_per_clip": 8,  # all structure levels: a small data set is read many times
        "batch_size": 4,
        "num_threads": 2,
        "unet": "../unet/model",  # whose width is compared with CLIP's before anything is encoded
    }
    return base.encoding({"form": "footage", "folder": "../footage"}, **{**config, **fields})


def encoded_data(**fields) -> dict:
    """Returns the `data` of a part that trains on the encoded footage."""
    data = {
        "form": "encoded",
        "folder": "../encoded",  # clips, and images of every size that was ingested
        "batch_size": CLIPS,
        "image_batch_size": IMAGES,
        "image_fraction": None,  # share of batches that hold images: 0.125, or 1 without clips
    }
    return {**data, **fields}


def prior() -> ConfigDict:
    """Returns the training of a prior, which is skipped if `gen1 import` brought one."""
    return base.training(
        "prior",
        "prior",
        model={
            "_class_name": "PriorTransformer",
            "num_attention_heads": 16,
            "attention_head_dim": 64,
            "num_layers": 10,
            "embedding_dim": None,  # CLIP's projection_dim
            "num_embeddings": None,  # tokens of CLIP's text tower
        },
        frozen=base.model_folders("clip"),
        data=encoded_data(batch_size=32, image_batch_size=32),
        num_steps=STEPS["prior"],
    )


# ---- the UNet's four stages


def optimizer(learning_rate: float) -> dict:
    return {
        "learning_rate": learning_rate,
        "warmup_steps": 100,
        "final_fraction": 0.1,
        "weight_decay": 0.01,
        "b1": 0.9,
        "b2": 0.999,
        "clip_norm": 1.0,
    }


def stage(name: str, init_from: str, **fields) -> ConfigDict:
    """Returns the config of a stage, with the settings that all four share.

    Args:
      name: the stage's name.
      init_from: model folder of the stage before.
      **fields: values in place of the defaults. `model` says only what differs from init_from.
    """
    config = {
        "model": {},
        "data": encoded_data(),
        "optimizer": optimizer(1e-4),
        "num_steps": STEPS.get(name, 1000),
    }
    config |= fields
    config["model"] = {"like": "init_from", **config["model"]}
    return base.stage(name, init_from, **config)


def image() -> ConfigDict:
    """Returns the stage in which the UNet learns to read image embeddings and to predict v."""
    return stage("image", "../unet/model", data=encoded_data(image_fraction=1.0))


def video() -> ConfigDict:
    return stage(
        "video",
        "../image/model",
        merge=base.ADDS_TEMPORAL_LAYERS,
        model={"temporal": True, "max_frames": 32},  # 32: the longest clip that it can learn
    )


def structure() -> ConfigDict:
    return stage(
        "structure",
        "../video/model",
        merge=base.ADDS_STRUCTURE_CHANNELS,
        model={"in_channels": STRUCTURED},
        data=encoded_data(levels=(0,)),
    )


def blur() -> ConfigDict:
    return stage("blur", "../structure/model", data=encoded_data(levels=base.LEVELS))


# ---- the finished pipeline


def pipeline() -> ConfigDict:
    return base.pipeline(
        size=None,  # that of the encoded clips
        num_frames=None,  # that of the encoded clips
        guidance_scale=7.5,
        prior_guidance_scale=4.0,
    )


# In the order in which they are imported, made and trained.
PARTS = {
    "unet": unet,
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


# `gen1 customize` makes these, of pictures of your own. The rates are those that are usual for
# Stable Diffusion's UNet.
CUSTOMIZING = base.customizing(
    data=encoded_data(levels=base.LEVELS, image_batch_size=16),
    num_steps=500,
    sample_every=100,
    eval_every=100,
    checkpoint_every=100,
    ema_decay=0.98,
    full={"optimizer": optimizer(1e-5)},
    lora={"optimizer": optimizer(1e-4)},
    rank=16,
)


def get_config(part: str = "all") -> ConfigDict:
    """Returns one part's config or, for `all`, the list of parts."""
    return base.choose(PARTS, part, CUSTOMIZING)
