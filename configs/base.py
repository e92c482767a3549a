"""The fields that several configs share, each with its meaning and its default.

A config calls these functions and passes only what it sets itself. A config file of your own may
do the same:

    from gen1_jax.configs import base

A path that begins with `../` starts in the folder of the part that names it. Parts whose folders
stand side by side in one run therefore find each other.
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

LEVELS = tuple(range(8))  # all structure levels t_s, from the full depth to a nearly flat one

# Parameters of a UNet that may differ from those of the stage before it; see `merge` below.
ADDS_TEMPORAL_LAYERS = {"new": ("temporal",), "dropped": (), "widened": ()}
ADDS_STRUCTURE_CHANNELS = {"new": (), "dropped": (), "widened": ("^conv_in/kernel$",)}


def choose(parts: Mapping[str, Callable[[], ConfigDict]], part: str) -> ConfigDict:
    """Returns one part's config or, for `all`, the names of all parts in the order they run.

    Raises:
      ValueError: there is no such part.
    """
    if part == "all":
        return ConfigDict({"kind": "all", "parts": tuple(parts)})
    if part not in parts:
        raise ValueError(f"unknown part {part!r}; known: all, {', '.join(parts)}")
    return parts[part]()


def model_folders(*names: str) -> dict[str, str]:
    """Returns the model folders of the parts that a pipeline knows by these names."""
    parts = {"vae": "autoencoder", "clip": "clip", "depth": "depth", "prior": "prior"}
    return {name: f"../{parts[name]}/model" for name in names}


# ---- data


def encoding(data: dict, **fields) -> ConfigDict:
    """Returns the config of a part that encodes clips and images ahead of training.

    Args:
      data: the clips and images to encode; see gen1_jax/precompute.py.
      **fields: values in place of the defaults.
    """
    config = {
        "kind": "encode",
        "data": data,
        "tokenizer": "../tokenizer",  # turns captions into tokens; empty: no tokens are stored
        "frozen": model_folders("vae", "clip", "depth"),  # the encoders
        "splits": ("train", "validation"),
        # Structure levels stored for a clip: level 0 and, at random, this many less one; 8: all.
        "levels_per_clip": 2,
        "precision": "float16",  # of the stored numbers; or float32
        "records_per_shard": 1024,  # a job that was stopped encodes at most this many again
        "batch_size": 16,  # clips that a device encodes together
        "num_threads": 1,  # threads that decode video
        "dtype": "float32",  # compute type; bfloat16 on accelerators
        "seed": 0,  # of the random structure levels
    }
    return ConfigDict({**config, **fields})


def encoded_data(*, num_frames: int, buckets: tuple, **fields) -> dict:
    """Returns the `data` of a part that trains on encoded clips and images.

    Args:
      num_frames: frames of an encoded clip.
      buckets: (height, width) of the clips' latents, one pair for each size.
      **fields: values in place of the defaults.
    """
    data = {
        "form": "encoded",
        "folder": "../encoded",  # encoded clips
        "image_folders": (),  # encoded images, a folder for each size; empty: the clips' frames
        "fields": ("latents", "structure", "structure_level", "content"),  # of gen1_jax.batch.Batch
        "num_frames": num_frames,
        "buckets": buckets,
        "image_buckets": (),  # (height, width) of the latents in image_folders
        "levels": LEVELS,  # structure levels that are drawn from
        "batch_size": 8,  # clips
        "image_batch_size": 64,  # images
        "image_fraction": 0.125,  # share of batches that hold images
        "num_threads": 1,  # threads of a process that read
        "num_workers": 0,  # processes that read; 0: this one
    }
    return {**data, **fields}


# ---- training


def training(name: str, objective: str, **fields) -> ConfigDict:
    """Returns the config of a trained part.

    Args:
      name: the part's name.
      objective: the loss, by its name in gen1_jax/training/objectives.py.
      **fields: values in place of the defaults.
    """
    config = {
        "kind": "train",
        "name": name,
        "objective": objective,
        "loss": {},  # settings of the objective
        "model": {},  # the network, in the terms of the public config.json
        "init_from": "",  # model folder that training starts from; empty: random parameters
        # Parameters that may differ from those in init_from, as patterns of their names: the new
        # ones, those that are dropped, and those whose input channels grow (by zeros).
        "merge": {"new": (), "dropped": (), "widened": ()},
        "frozen": {},  # model folders of the encoders that the loss or the pictures need
        "data": {},  # see data_pipelines/sources.py
        "optimizer": {
            "learning_rate": 1e-3,  # after the warm-up, where it is highest
            "warmup_steps": 50,  # steps in which the rate rises from zero
            "final_fraction": 0.05,  # the rate's cosine ends at this share of its highest value
            "weight_decay": 0.01,  # of matrices and convolution kernels; biases have none
            "b1": 0.9,  # AdamW's decay of the gradient's average
            "b2": 0.99,  # AdamW's decay of the squared gradient's average
            "clip_norm": 1.0,  # a gradient of a larger norm is scaled down to it
        },
        "num_steps": 1000,
        "ema_decay": 0.995,  # of the parameters' moving average, which is saved and sampled from
        "dtype": "float32",  # compute type; bfloat16 on accelerators
        # Devices along each axis of the mesh; -1: all that are left. `data` and `fsdp` shard the
        # batch, `fsdp` the parameters too. `frames` shards a clip: for editing, 1 in training.
        "mesh": {"data": -1, "fsdp": 1, "frames": 1},
        # Rules (axis of a kernel, axis of the mesh) that shard parameters and optimizer state. The
        # first rule whose mesh axis divides the kernel's axis holds. `out` and `in` are channels.
        "sharding": (("out", "fsdp"), ("in", "fsdp")),
        "split_from": 2**14,  # a parameter of fewer elements is whole on every device
        "microbatches": 1,  # parts of a batch, computed one after another to save memory
        # The UNet's backward pass computes this again to save memory: none, products (all but
        # matrix products and convolutions) or layer (everything inside a layer).
        "remat": "none",
        "seed": 0,  # of parameters, data order, noise and dropout
        "log_every": 10,  # steps
        "sample_every": 500,  # steps from one picture to the next; 0: no pictures
        "eval_every": 1000,  # steps from one held-out loss to the next, and at the end; 0: never
        "eval_batches": 8,  # batches of the validation split, of videos and of images
        "checkpoint_every": 500,  # steps
        "keep_checkpoints": 2,  # the newest
    }
    return ConfigDict({**config, **fields})


def stage(name: str, init_from: str, **fields) -> ConfigDict:
    """Returns the config of one of the UNet's training stages (section 4.1 of the paper).

    Args:
      name: the stage's name.
      init_from: model folder of the stage before; empty: random parameters.
      **fields: values in place of those of `training`.
    """
    return training(
        name,
        "diffusion",
        init_from=init_from,
        frozen=model_folders("vae"),  # decodes pictures; the training data are encoded already
        # Whether latents are drawn from the autoencoder's distribution or are its mean. True needs
        # latents_logvar among data.fields.
        loss={"latents_drawn": False},
        **fields,
    )


# ---- the finished pipeline


def pipeline(
    *,
    size: tuple[int, int],
    num_frames: int,
    guidance_scale: float,
    prior_guidance_scale: float,
) -> ConfigDict:
    """Returns the config of the part that gathers the models into one folder for `gen1 edit`.

    Args:
      size: (height, width) of frames that the UNet was trained on, in pixels.
      num_frames: frames of a clip that it was trained on.
      guidance_scale: ω where a user gives none.
      prior_guidance_scale: guidance of the prior, from text to image embedding.
    """
    return ConfigDict(
        {
            "kind": "pipeline",
            "folders": {
                "unet": "../blur/model",
                **model_folders("vae", "clip", "depth", "prior"),
            },
            "tokenizer": "../tokenizer",
            # Written to gen1.json, where `gen1 edit` reads them.
            "settings": {
                "schedule": {"zero_terminal_snr": False},  # noise schedule; diffusion/process.py
                "spacing": "leading",  # of DDIM's timesteps
                "size": size,
                "num_frames": num_frames,
                "guidance_scale": guidance_scale,
                "prior": {"num_steps": 25, "guidance_scale": prior_guidance_scale},
            },
        }
    )
