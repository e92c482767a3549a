"""Everything, laptop-sized, on the moving-shapes world: the long run.

    gen1 all --config tiny --workdir runs/tiny

Meant for two CPU cores in under two hours; docs/results.md has what was measured. A part alone:

    gen1 train --config tiny:video --workdir runs/tiny/video

`get_config(part)` gives one part's ConfigDict. Paths are relative to the part's own folder, so
parts that share a parent folder find each other. `configs/demo.py` is the same with fewer steps.
"""

from ml_collections import ConfigDict

# In the order in which `gen1 all` runs them.
PARTS = (
    "world", "tokenizer", "autoencoder", "clip", "depth", "encoded", "prior",
    "image", "video", "structure", "blur", "pipeline", "evaluation",
)  # fmt: skip

SIZE = 32  # pixels, height and width of a frame
NUM_FRAMES = 8  # frames of a clip
CONTENT = 64  # width of a CLIP embedding
CONTEXT_LENGTH = 24  # tokens of a caption
VOCABULARY = 512  # tokenizer size at most


def get_config(part: str = "all") -> ConfigDict:
    """One part's config, or (`all`) the list of parts."""
    if part == "all":
        return ConfigDict({"kind": "all", "parts": PARTS})
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}; known: all, {', '.join(PARTS)}")
    return globals()[f"_{part}"]()


# ---------------------------------------------------------------- data


def _world() -> ConfigDict:
    return ConfigDict({"kind": "world", "builder": "tiny"})  # a moving_shapes configuration


def _tokenizer() -> ConfigDict:
    return ConfigDict(
        {
            "kind": "tokenizer",
            "world": "../world",  # whose training captions are read
            "builder": "tiny",
            "vocab_size": VOCABULARY,
            "context_length": CONTEXT_LENGTH,
        }
    )


def _encoded() -> ConfigDict:
    return ConfigDict(
        {
            "kind": "encode",
            "data": {"form": "raw", "world": "../world", "builder": "tiny"},
            "tokenizer": "../tokenizer",  # of captions; empty: none are stored
            "frozen": frozen("vae", "clip", "depth"),
            "splits": ("train", "validation"),
            "levels_per_clip": 2,  # t_s = 0 and this many less one at random; 8 stores all
            "precision": "float16",  # that is stored; or float32
            "records_per_shard": 1024,  # done anew where a job was killed
            "batch_size": 16,  # clips that a device encodes together
            "num_threads": 1,  # that decode
            "dtype": "float32",  # compute type
            "seed": 0,
        }
    )


# ---------------------------------------------------------------- models


def frozen(*names: str) -> dict[str, str]:
    folders = {"vae": "autoencoder", "clip": "clip", "depth": "depth", "prior": "prior"}
    return {name: f"../{folders[name]}/model" for name in names}


def training(name: str, objective: str, **fields) -> ConfigDict:
    """The fields that every trained part has."""
    config = {
        "kind": "train",
        "name": name,
        "objective": objective,  # a name in gen1_jax/training/objectives.py
        "loss": {},  # that objective's settings
        "model": {},  # as in the public config.json
        "init_from": "",  # model folder to start from; empty: random
        # Patterns of the parameters that may differ from init_from's.
        "merge": {"new": (), "dropped": (), "widened": ()},
        "frozen": {},  # folders of the frozen networks that the loss uses
        "data": {},  # see data_pipelines/sources.py
        "optimizer": {
            "learning_rate": 1e-3,  # highest, after warm-up
            "warmup_steps": 50,
            "final_fraction": 0.05,  # of the rate, at the end of the cosine
            "weight_decay": 0.01,  # on matrices and kernels
            "b1": 0.9,
            "b2": 0.99,
            "clip_norm": 1.0,  # of the whole gradient
        },
        "num_steps": 1000,
        "ema_decay": 0.995,  # of the moving average that is saved and sampled from
        "dtype": "float32",  # compute type; bfloat16 on accelerators
        # Devices along each axis; -1: what is left. `frames` splits a clip, for editing alone.
        "mesh": {"data": -1, "fsdp": 1, "frames": 1},
        # (Axis of a parameter, axis of the mesh): where parameters and optimiser are split; the
        # first that divides. `out` and `in` are a kernel's channels.
        "sharding": (("out", "fsdp"), ("in", "fsdp")),
        "split_from": 2**14,  # elements of a parameter; smaller ones are on every device
        "microbatches": 1,  # parts of a batch that are computed one after another
        "remat": "none",  # of a UNet: what the backward pass keeps; gen1_jax/models/unet.py
        "seed": 0,
        "log_every": 10,  # steps
        "sample_every": 500,  # steps between pictures; 0: none
        "checkpoint_every": 500,  # steps
        "keep_checkpoints": 2,
    }
    return ConfigDict({**config, **fields})


def _raw(**fields) -> dict:
    data = {
        "form": "raw",
        "world": "../world",
        "builder": "tiny",
        "tokenizer": "../tokenizer",
        "fields": ("frames",),  # of gen1_jax.batch.Batch
        "batch_size": 8,  # clips
        "image_batch_size": 32,  # images
        "image_fraction": 1.0,  # of batches that are images
        "num_frames": NUM_FRAMES,
        "stride": 1,  # source frames from one frame to the next
        "buckets": ((SIZE, SIZE),),  # (height, width) of batches, in turn
        "num_threads": 1,  # readers
        "num_workers": 0,  # reader processes
    }
    return {**data, **fields}


def _autoencoder() -> ConfigDict:
    return training(
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
        data=_raw(image_batch_size=8),
        optimizer={
            "learning_rate": 3e-3,
            "warmup_steps": 30,
            "final_fraction": 0.02,
            "weight_decay": 0.0,
        },
        num_steps=1500,
    )


def _clip() -> ConfigDict:
    tower = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_act": "quick_gelu"}
    return training(
        "clip",
        "contrastive",
        model={
            "model_type": "clip",
            "projection_dim": CONTENT,
            "text_config": {
                **tower,
                "hidden_size": 64,
                "intermediate_size": 128,
                "vocab_size": VOCABULARY,
                "max_position_embeddings": CONTEXT_LENGTH,
                "bos_token_id": -1,  # filled in from the tokenizer
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
        data=_raw(fields=("frames", "tokens"), image_batch_size=96),
        optimizer={
            "learning_rate": 2e-3,
            "warmup_steps": 50,
            "final_fraction": 0.02,
            "weight_decay": 0.05,
        },
        num_steps=1000,
    )


def _depth() -> ConfigDict:
    return training(
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
        data=_raw(fields=("frames", "depth"), image_fraction=0.0, num_frames=4, batch_size=8),
        optimizer={
            "learning_rate": 2e-3,
            "warmup_steps": 50,
            "final_fraction": 0.02,
            "weight_decay": 0.01,
        },
        num_steps=2000,
    )


def _prior() -> ConfigDict:
    return training(
        "prior",
        "prior",
        model={
            "_class_name": "PriorTransformer",
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "num_layers": 3,
            "embedding_dim": CONTENT,
            "embedding_proj_dim": CONTENT,
            "num_embeddings": CONTEXT_LENGTH,
            "additional_embeddings": 4,
        },
        frozen=frozen("clip"),
        data=encoded_data(
            fields=("content", "tokens", "latents"), image_batch_size=64, image_fraction=1.0
        ),
        num_steps=1000,
    )


# ---------------------------------------------------------------- the UNet's stages


def encoded_data(**fields) -> dict:
    data = {
        "form": "encoded",
        "folder": "../encoded",
        "image_folders": (),  # encoded images, one folder a size; none: frames of the clips
        "fields": ("latents", "structure", "structure_level", "content"),
        "num_frames": NUM_FRAMES,  # of an encoded clip
        "buckets": ((SIZE // 2, SIZE // 2),),  # (height, width) of latents: of clips
        "image_buckets": (),  # and of image_folders
        "levels": tuple(range(8)),  # permitted t_s
        "batch_size": 8,  # clips
        "image_batch_size": 64,  # images: as many frames as in a video batch
        "image_fraction": 0.125,
        "num_threads": 1,
        "num_workers": 0,
    }
    return {**data, **fields}


def unet(temporal: bool, structured: bool) -> dict:
    return {
        "_class_name": "VideoUNet" if temporal else "UNet2DConditionModel",
        "sample_size": SIZE // 2,
        "in_channels": 12 if structured else 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 64, 96),
        "layers_per_block": 1,
        "cross_attention_dim": CONTENT,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
        **({"max_frames": 16} if temporal else {}),
    }


def stage(name: str, init_from: str, num_steps: int, rate: float, **fields):
    return training(
        name,
        "diffusion",
        init_from=init_from,
        frozen=frozen("vae"),
        loss={"latents_drawn": False},  # True needs latents_logvar among data.fields
        optimizer={
            "learning_rate": rate,
            "warmup_steps": 50,
            "final_fraction": 0.1,
            "weight_decay": 0.01,
        },
        num_steps=num_steps,
        **fields,
    )


def _image() -> ConfigDict:
    return stage(
        "image", "", 500, 1e-3,
        model=unet(temporal=False, structured=False),
        data=encoded_data(fields=("latents", "content"), image_fraction=1.0),
    )  # fmt: skip


def _video() -> ConfigDict:
    return stage(
        "video", "../image/model", 350, 1e-3,
        model=unet(temporal=True, structured=False),
        merge={"new": ("temporal",), "dropped": (), "widened": ()},
        data=encoded_data(fields=("latents", "content")),
    )  # fmt: skip


def _structure() -> ConfigDict:
    return stage(
        "structure", "../video/model", 1200, 1e-3,
        model=unet(temporal=True, structured=True),
        merge={"new": (), "dropped": (), "widened": ("^conv_in/kernel$",)},
        data=encoded_data(levels=(0,)),
    )  # fmt: skip


def _blur() -> ConfigDict:
    return stage(
        "blur", "../structure/model", 1000, 5e-4,
        model=unet(temporal=True, structured=True),
        data=encoded_data(levels=tuple(range(8))),
    )  # fmt: skip


# ---------------------------------------------------------------- the finished pipeline


def _pipeline() -> ConfigDict:
    return ConfigDict(
        {
            "kind": "pipeline",
            "folders": {"unet": "../blur/model", **frozen("vae", "clip", "depth", "prior")},
            "tokenizer": "../tokenizer",
            "settings": {
                "schedule": {"zero_terminal_snr": False},  # of diffusion/process.py
                "spacing": "leading",  # of DDIM's timesteps
                "size": (SIZE, SIZE),  # frames that the model was trained on
                "num_frames": NUM_FRAMES,
                "guidance_scale": 2.0,  # ω where a user gives none
                "prior": {"num_steps": 25, "guidance_scale": 2.0},
            },
        }
    )


def _evaluation() -> ConfigDict:
    return ConfigDict(
        {
            "kind": "evaluation",
            "pipeline": "../pipeline",
            "world": "../world",
            "builder": "tiny",
            "split": "test",
            "num_clips": 64,
            # The first value of each control is shared while another control varies.
            "structure_level": (0, 3, 7),
            "temporal_scale": (1.0, 0.0, 0.5, 1.5),
            "guidance_scale": (2.0,),
            "num_steps": 20,  # DDIM
            "batch_size": 16,
            "num_pictured": 8,  # clips on the contact sheet
            "seed": 0,
        }
    )
