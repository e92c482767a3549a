"""Everything, laptop-sized, on the moving-shapes world: the long run.

    gen1 all --config tiny --workdir runs/tiny
    gen1 train --config tiny:video --workdir runs/tiny/video      # one part alone

Hardware: two CPU cores; the run took 81 minutes there.
Result: 64 held-out clips are recoloured by prompt with a colour accuracy of 1.000 (chance: 0.125)
and a structure correlation of 0.901 ± 0.010; docs/results.md has all measures.

`configs/demo.py` is the same run with fewer steps.
"""

from ml_collections import ConfigDict

from gen1_jax.configs import base

BUILDER = "tiny"  # size of the moving-shapes data set: 4096 training clips
SIZE = 32  # height and width of a frame, in pixels
LATENT_SIZE = SIZE // 2  # height and width of a frame's latents
NUM_FRAMES = 8  # frames of a clip
EMBEDDING = 64  # width of a CLIP embedding
CONTEXT_LENGTH = 24  # tokens of a caption
VOCABULARY = 512  # tokens that the tokenizer may learn, at most


# ---- the world and its captions


def world() -> ConfigDict:
    return base.make("world", builder=BUILDER)


def tokenizer() -> ConfigDict:
    return base.make(
        "tokenizer",
        world="../world",
        builder=BUILDER,
        vocab_size=VOCABULARY,
        context_length=CONTEXT_LENGTH,
    )


def world_data(**fields) -> dict:
    """Returns the `data` of a part that trains on the world's frames as they are."""
    data = {
        "form": "raw",
        "world": "../world",
        "builder": BUILDER,
        "tokenizer": "../tokenizer",
        "fields": ("frames",),  # of gen1_jax.batch.Batch
        "batch_size": 8,  # clips
        "image_batch_size": 32,  # images
        "image_fraction": 1.0,  # share of batches that hold images
        "num_frames": NUM_FRAMES,
        "stride": 1,  # source frames from one frame of a clip to the next
        "buckets": ((SIZE, SIZE),),  # (height, width) of frames; batches take the sizes in turn
        "num_threads": 1,  # threads of a process that read
        "num_workers": 0,  # processes that read; 0: this one
    }
    return {**data, **fields}


# ---- autoencoder, CLIP, depth


def autoencoder() -> ConfigDict:
    return base.training(
        "autoencoder",
        "autoencoder",
        model={
            "_class_name": "AutoencoderKL",
            "block_out_channels": (32, 32),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "latent_channels": 4,
            "sample_size": SIZE,
        },
        loss={"kl_weight": 1e-5},
        data=world_data(image_batch_size=8),
        optimizer={
            "learning_rate": 3e-3,
            "warmup_steps": 30,
            "final_fraction": 0.02,
            "weight_decay": 0.0,
            "b2": 0.999,
        },
        num_steps=1500,
    )


def clip() -> ConfigDict:
    tower = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_act": "quick_gelu"}
    return base.training(
        "clip",
        "contrastive",
        model={
            "model_type": "clip",
            "projection_dim": EMBEDDING,
            "text_config": {
                **tower,
                "hidden_size": 64,
                "intermediate_size": 128,
                "vocab_size": VOCABULARY,
                "max_position_embeddings": CONTEXT_LENGTH,
                # The tokenizer's own ids replace these two when training starts.
                "bos_token_id": -1,
                "eos_token_id": -1,
            },
            "vision_config": {
                **tower,
                "hidden_size": 96,
                "intermediate_size": 192,
                "image_size": SIZE,
                "patch_size": 4,
            },
        },
        data=world_data(fields=("frames", "tokens"), image_batch_size=96),
        optimizer={
            "learning_rate": 2e-3,
            "warmup_steps": 50,
            "final_fraction": 0.02,
            "weight_decay": 0.05,
            "b2": 0.999,
        },
        num_steps=1000,
    )


def depth() -> ConfigDict:
    return base.training(
        "depth",
        "depth",
        model={
            "model_type": "dpt",
            "hidden_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 192,
            "image_size": SIZE,
            "patch_size": 4,
            "backbone_out_indices": (0, 1, 2, 3),
            "reassemble_factors": (2, 1, 0.5, 0.25),
            "neck_hidden_sizes": (24, 48, 96, 96),
            "fusion_hidden_size": 32,
            "layer_norm_eps": 1e-6,
        },
        data=world_data(fields=("frames", "depth"), image_fraction=0.0, num_frames=4, batch_size=8),
        optimizer={
            "learning_rate": 2e-3,
            "warmup_steps": 50,
            "final_fraction": 0.02,
            "weight_decay": 0.01,
            "b2": 0.999,
        },
        num_steps=2000,
    )


# ---- the encoded world, and the prior


def encoded() -> ConfigDict:
    return base.encoding({"form": "raw", "world": "../world", "builder": BUILDER})


def encoded_data(**fields) -> dict:
    """Returns the `data` of a part that trains on the encoded world."""
    return base.encoded_data(
        num_frames=NUM_FRAMES,
        buckets=((LATENT_SIZE, LATENT_SIZE),),
        # A batch of 64 images has as many frames as one of 8 clips of 8 frames.
        **{"batch_size": 8, "image_batch_size": 64, **fields},
    )


def prior() -> ConfigDict:
    return base.training(
        "prior",
        "prior",
        model={
            "_class_name": "PriorTransformer",
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "num_layers": 3,
            "embedding_dim": EMBEDDING,
            "embedding_proj_dim": EMBEDDING,
            "num_embeddings": CONTEXT_LENGTH,
            "additional_embeddings": 4,
        },
        frozen=base.model_folders("clip"),
        data=encoded_data(fields=("content", "tokens", "latents"), image_fraction=1.0),
        num_steps=1000,
    )


# ---- the UNet's four stages


def unet(temporal: bool, structured: bool) -> dict:
    """Returns the UNet, with or without its temporal layers and its eight structure channels."""
    return {
        "_class_name": "VideoUNet" if temporal else "UNet2DConditionModel",
        "sample_size": LATENT_SIZE,
        "in_channels": 12 if structured else 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 64, 96),
        "layers_per_block": 1,
        "cross_attention_dim": EMBEDDING,
        "attention_head_dim": 4,  # number of heads, as in the files of Stable Diffusion 1.x
        "norm_num_groups": 8,
        **({"max_frames": 16} if temporal else {}),
    }


def optimizer(learning_rate: float) -> dict:
    return {
        "learning_rate": learning_rate,
        "warmup_steps": 50,
        "final_fraction": 0.1,
        "weight_decay": 0.01,
        "b2": 0.999,
    }


def image() -> ConfigDict:
    return base.stage(
        "image",
        init_from="",
        model=unet(temporal=False, structured=False),
        data=encoded_data(fields=("latents", "content"), image_fraction=1.0),
        optimizer=optimizer(1e-3),
        num_steps=500,
    )


def video() -> ConfigDict:
    return base.stage(
        "video",
        init_from="../image/model",
        merge=base.ADDS_TEMPORAL_LAYERS,
        model=unet(temporal=True, structured=False),
        data=encoded_data(fields=("latents", "content")),
        optimizer=optimizer(1e-3),
        num_steps=350,
    )


def structure() -> ConfigDict:
    return base.stage(
        "structure",
        init_from="../video/model",
        merge=base.ADDS_STRUCTURE_CHANNELS,
        model=unet(temporal=True, structured=True),
        data=encoded_data(levels=(0,)),
        optimizer=optimizer(1e-3),
        num_steps=1200,
    )


def blur() -> ConfigDict:
    return base.stage(
        "blur",
        init_from="../structure/model",
        model=unet(temporal=True, structured=True),
        data=encoded_data(levels=base.LEVELS),
        optimizer=optimizer(5e-4),
        num_steps=1000,
    )


# ---- the pipeline and its evaluation


def pipeline() -> ConfigDict:
    return base.pipeline(
        size=(SIZE, SIZE),
        num_frames=NUM_FRAMES,
        guidance_scale=2.0,
        prior_guidance_scale=2.0,
    )


def evaluation() -> ConfigDict:
    # One control varies at a time, the others keep the first of their values.
    return base.make(
        "evaluation",
        builder=BUILDER,
        num_clips=64,
        structure_level=(0, 3, 7),
        temporal_scale=(1.0, 0.0, 0.5, 1.5),
        guidance_scale=(2.0,),
        num_steps=20,
        batch_size=16,
        num_pictured=8,
    )


# In the order in which `gen1 all` runs them.
PARTS = {
    "world": world,
    "tokenizer": tokenizer,
    "autoencoder": autoencoder,
    "clip": clip,
    "depth": depth,
    "encoded": encoded,
    "prior": prior,
    "image": image,
    "video": video,
    "structure": structure,
    "blur": blur,
    "pipeline": pipeline,
    "evaluation": evaluation,
}


# `gen1 customize` makes these, of pictures of your own.
CUSTOMIZING = base.customizing(
    data=encoded_data(levels=base.LEVELS, image_batch_size=32),
    num_steps=400,
    sample_every=100,
    eval_every=100,
    checkpoint_every=100,
    ema_decay=0.98,
    full={"optimizer": optimizer(5e-4)},
    lora={"optimizer": optimizer(5e-3)},
    rank=8,
)


def get_config(part: str = "all") -> ConfigDict:
    """Returns one part's config or, for `all`, the list of parts."""
    return base.choose(PARTS, part, CUSTOMIZING)
