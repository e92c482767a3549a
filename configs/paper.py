"""Gen-1 at the paper's sizes (arXiv 2302.03011, section 4.1): four stages on top of SD 1.5.

    gen1 import -o runs/paper \\
      --unet stable-diffusion-v1-5/stable-diffusion-v1-5/unet \\
      --vae stable-diffusion-v1-5/stable-diffusion-v1-5/vae \\
      --clip openai/clip-vit-large-patch14 --depth Intel/dpt-large \\
      --prior kakaobrain/karlo-v1-alpha/prior
    gen1 train --config paper:image --workdir runs/paper/image      # then video, structure, blur

and, before any of it, without an accelerator: does it fit, and how fast can it be?

    gen1 compile --config paper:blur --topology v5p:4x4x8

The UNet's stages read encoded clips and images, which are made of your own before:

    gen1 ingest clips SRC --size 256x448 --num-frames 8 --stride 4 --out runs/paper/footage
    gen1 ingest images SRC --out runs/paper/footage
    gen1 precompute --config paper:encoded --workdir runs/paper/encoded

Sizes, batches and steps are the paper's; it does not give the optimizer's settings, which are here
those of Stable Diffusion's own training where known.
"""

from ml_collections import ConfigDict

from gen1_jax.configs import tiny

PARTS = (
    "unet", "autoencoder", "clip", "depth", "prior", "tokenizer", "footage", "encoded",
    "image", "video", "structure", "blur", "pipeline",
)  # fmt: skip

# Of frames, (height, width). The paper gives width × height: 448 × 256 is wide.
VIDEO_SIZE = (256, 448)
IMAGE_SIZES = ((320, 320), (320, 384), (384, 320), (256, 448), (448, 256))
FACTOR = 8  # pixels to a latent, along each side
NUM_FRAMES = 8  # of a clip
STRIDE = 4  # source frames from one frame to the next
VIDEOS, IMAGES = 1152, 9216  # in a batch; 9216 = 1152 · 8 frames
LEVELS = tuple(range(8))  # t_s

_SD = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def get_config(part: str = "all") -> ConfigDict:
    """One part's config, or (`all`) the list of parts."""
    if part == "all":
        return ConfigDict({"kind": "all", "parts": PARTS})
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}; known: all, {', '.join(PARTS)}")
    return globals()[f"_{part}"]()


# ---------------------------------------------------------------- what comes from elsewhere


def _imported(flag: str, source: str, model: dict) -> ConfigDict:
    return ConfigDict(
        {
            "kind": "given",  # checked, not made
            "holds": "model/config.json",
            "made_by": f"gen1 import {flag} {source} -o RUN",
            "model": model,  # as in the checkpoint's own config.json, which counts
        }
    )


def _unet() -> ConfigDict:
    return _imported("--unet", f"{_SD}/unet", _network(temporal=False, structured=False))


def _autoencoder() -> ConfigDict:
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
    return _imported("--vae", f"{_SD}/vae", model)


def _clip() -> ConfigDict:
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
            "bos_token_id": 0,  # so published; 2 stands for "the largest id ends a text"
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
    return _imported("--clip", "openai/clip-vit-large-patch14", model)


def _depth() -> ConfigDict:
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
    return _imported("--depth", "Intel/dpt-large", model)


def _prior() -> ConfigDict:
    model = {
        "_class_name": "PriorTransformer",
        "num_attention_heads": 32,
        "attention_head_dim": 64,
        "num_layers": 20,
        "embedding_dim": 768,
        "num_embeddings": 77,
        "additional_embeddings": 4,
    }
    return _imported("--prior", "kakaobrain/karlo-v1-alpha/prior", model)


def _tokenizer() -> ConfigDict:
    return ConfigDict(
        {
            "kind": "given",
            "holds": "tokenizer_config.json",
            "made_by": "gen1 import --clip openai/clip-vit-large-patch14 -o RUN",
            "context_length": 77,
        }
    )


def _footage() -> ConfigDict:
    size = "x".join(map(str, VIDEO_SIZE))
    options = f"--size {size} --num-frames {NUM_FRAMES} --stride {STRIDE}"
    return ConfigDict(
        {
            "kind": "given",
            "holds": "clips/report.json",
            "made_by": f"gen1 ingest clips SRC {options} --out RUN/footage, and gen1 ingest images",
        }
    )


def _encoded() -> ConfigDict:
    """To `clips`, and to a folder for each size of image, which `_data` names."""
    config = tiny.get_config("encoded")
    config.data = {"form": "footage", "folder": "../footage", "size": VIDEO_SIZE}
    config.levels_per_clip = 8  # every t_s is stored
    config.batch_size = 16
    config.num_threads = 16
    config.dtype = "bfloat16"
    return config


# ---------------------------------------------------------------- the stages


def _network(temporal: bool, structured: bool) -> dict:
    """Stable Diffusion 1.5's UNet; with temporal layers; with structure's channels."""
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
        "attention_head_dim": 8,  # number of heads, as SD 1.x's files have it
        "norm_num_groups": 32,
        **({"max_frames": 32} if temporal else {}),
    }


def _data(**fields) -> dict:
    def latents(size: tuple[int, int]) -> tuple[int, int]:
        return size[0] // FACTOR, size[1] // FACTOR

    return {
        **tiny.encoded_data(
            folder="../encoded/clips",
            # Named by height and width: ../encoded/images_320x384
            image_folders=tuple(f"../encoded/images_{h}x{w}" for h, w in IMAGE_SIZES),
            num_frames=NUM_FRAMES,
            buckets=(latents(VIDEO_SIZE),),
            image_buckets=tuple(map(latents, IMAGE_SIZES)),
            batch_size=VIDEOS,
            image_batch_size=IMAGES,
            image_fraction=0.125,  # of batches
            num_threads=16,  # of each host
        ),
        **fields,
    }


def _stage(name: str, init_from: str, num_steps: int, **fields):
    return tiny.training(
        name,
        "diffusion",
        init_from=init_from,
        frozen=tiny.frozen("vae"),  # for pictures alone: data are encoded
        loss={"latents_drawn": False},  # True needs latents_logvar among data.fields
        optimizer={
            "learning_rate": 1e-4,
            "warmup_steps": 1000,
            "final_fraction": 1.0,  # constant: the stages follow each other
            "weight_decay": 0.01,
            "b1": 0.9,
            "b2": 0.999,
            "clip_norm": 1.0,
        },
        num_steps=num_steps,
        ema_decay=0.9999,
        dtype="bfloat16",  # parameters, their average and Adam's moments are float32
        # Of 128 chips of v5p; `gen1 compile --search` finds what fits elsewhere.
        mesh={"data": -1, "fsdp": 8, "frames": 1},
        microbatches=1,
        remat="none",
        log_every=50,
        sample_every=2500,
        checkpoint_every=1000,
        keep_checkpoints=3,
        **fields,
    )


def _image() -> ConfigDict:
    """SD 1.5 learns to read CLIP image embeddings, and to predict v."""
    return _stage(
        "image", "../unet/model", 15_000,
        model=_network(temporal=False, structured=False),
        data=_data(fields=("latents", "content"), image_fraction=1.0),
    )  # fmt: skip


def _video() -> ConfigDict:
    return _stage(
        "video", "../image/model", 75_000,
        model=_network(temporal=True, structured=False),
        merge={"new": ("temporal",), "dropped": (), "widened": ()},
        data=_data(fields=("latents", "content")),
    )  # fmt: skip


def _structure() -> ConfigDict:
    return _stage(
        "structure", "../video/model", 25_000,
        model=_network(temporal=True, structured=True),
        merge={"new": (), "dropped": (), "widened": ("^conv_in/kernel$",)},
        data=_data(levels=(0,)),
    )  # fmt: skip


def _blur() -> ConfigDict:
    return _stage(
        "blur", "../structure/model", 10_000,
        model=_network(temporal=True, structured=True),
        data=_data(levels=LEVELS),
    )  # fmt: skip


# ---------------------------------------------------------------- the finished pipeline


def _pipeline() -> ConfigDict:
    return ConfigDict(
        {
            "kind": "pipeline",
            "folders": {"unet": "../blur/model", **tiny.frozen("vae", "clip", "depth", "prior")},
            "tokenizer": "../tokenizer",
            "settings": {
                "schedule": {"zero_terminal_snr": False},
                "spacing": "leading",
                "size": VIDEO_SIZE,
                "num_frames": NUM_FRAMES,
                "guidance_scale": 7.5,
                "prior": {"num_steps": 25, "guidance_scale": 4.0},  # Karlo's own
            },
        }
    )
