"""What several configs share. `configs/schema.py` says what each key means, and its default.

A config calls these functions and passes only what it sets itself. A config file of your own may
do the same:

    from gen1_jax.configs import base

Paths: one that begins with `../` starts in the folder of the part that names it, so that parts
whose folders stand side by side in one run find each other. Any other relative path starts in the
folder where the command is run, and `~/` is the home folder.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from gen1_jax.configs.schema import KINDS
from gen1_jax.errors import UserError
from gen1_jax.settings import check, closest, to_dict

LEVELS = tuple(range(8))  # all structure levels t_s, from the full depth to a nearly flat one

# Parameters of a UNet that may differ from those of the stage before it; see `merge` below.
ADDS_TEMPORAL_LAYERS = {"new": ("temporal",), "dropped": (), "widened": ()}
ADDS_STRUCTURE_CHANNELS = {"new": (), "dropped": (), "widened": ("^conv_in/kernel$",)}


def choose(
    parts: Mapping[str, Callable[[], ConfigDict]],
    part: str,
    apart: Mapping[str, Callable[[], ConfigDict]] | None = None,
) -> ConfigDict:
    """Returns one part's config or, for `all`, the names of all parts in the order they run.

    Args:
      parts: the parts of a run, in order.
      part: one of them, or `all`.
      apart: parts that no run makes by itself, because each needs something of a user's own.

    Raises:
      UserError: there is no such part.
    """
    if part == "all":
        return ConfigDict({"kind": "all", "parts": tuple(parts)})
    known = {**parts, **(apart or {})}
    if part not in known:
        guess = closest(part, known)
        raise UserError(f"unknown part {part!r}; known: all, {', '.join(known)}{guess}")
    return known[part]()


def model_folders(*names: str) -> dict[str, str]:
    """Returns the model folders of the parts that a pipeline knows by these names."""
    parts = {"vae": "autoencoder", "clip": "clip", "depth": "depth", "prior": "prior"}
    return {name: f"../{parts[name]}/model" for name in names}


def make(kind: str, **fields) -> ConfigDict:
    """Returns the config of a part, checked, with the defaults of its kind.

    Args:
      kind: what the part does, by its name in `schema.KINDS`.
      **fields: values in place of the defaults; a mapping is filled with the defaults of its keys.

    Raises:
      UserError: a key is unknown or missing, or a value has the wrong type.
    """
    where = fields.get("name", kind)
    settings = to_dict(check(KINDS[kind], {"kind": kind, **fields}, str(where)))
    return ConfigDict(settings)


# ---- data


def encoding(data: dict, **fields) -> ConfigDict:
    """Returns the config of a part that encodes clips and images ahead of training.

    Args:
      data: the clips and images to encode; see gen1_jax/precompute.py.
      **fields: values in place of the defaults.
    """
    frozen = model_folders("vae", "clip", "depth")  # the encoders
    return make("encode", **{"data": data, "frozen": frozen, **fields})


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
    return make("train", name=name, objective=objective, **fields)


def stage(name: str, init_from: str, data: Mapping[str, Any], **fields) -> ConfigDict:
    """Returns the config of one of the UNet's training stages (section 4.1 of the paper).

    Args:
      name: the stage's name.
      init_from: model folder of the stage before; empty: random parameters.
      data: the part's `data`, of encoded clips and images.
      **fields: values in place of those of `training`.
    """
    if "fields" in data:  # drawn latents need their variance too
        data = {**data, "fields": ("latents_logvar", *data["fields"])}
    return training(
        name,
        "diffusion",
        init_from=init_from,
        data=data,
        frozen=model_folders("vae"),  # decodes pictures; the training data are encoded already
        # Drawn from the autoencoder's distribution, latents gave better edits than their mean did.
        # Random positions train all rows of the tables of frame positions, so that clips longer
        # than those of training can be edited. docs/results.md compares both.
        loss={"latents_drawn": True, "random_positions": True},
        **fields,
    )


def customizing(
    *, full: Mapping[str, Any], lora: Mapping[str, Any], rank: int, data: dict, **fields
) -> dict[str, Callable[[], ConfigDict]]:
    """Returns the parts that train a finished model on a subject (section 4.4 of the paper).

    `customize` trains the whole UNet, and `customize_lora` a LoRA of its attention. Half of each
    batch is of the subject, and the other half of the data of the stages. `gen1 customize` says
    where the pictures and the model are.

    Args:
      full: fields of `customize` that `customize_lora` has otherwise.
      lora: those of `customize_lora`.
      rank: of the LoRA.
      data: the parts' `data`.
      **fields: values in place of those of `stage`.
    """
    data = {**data, "subject": "../subject", "image_fraction": 1.0}
    shared = {"init_from": "../blur/model", "model": {"like": "init_from"}, "data": data, **fields}
    return {
        "customize": lambda: stage("customize", **shared, **full),
        "customize_lora": lambda: stage("customize_lora", **shared, **lora, lora={"rank": rank}),
    }


# ---- the finished pipeline


def pipeline(
    *,
    size: tuple[int, int] | None,
    num_frames: int | None,
    guidance_scale: float,
    prior_guidance_scale: float,
) -> ConfigDict:
    """Returns the config of the part that gathers the models into one folder for `gen1 edit`.

    Args:
      size: (height, width) of frames that the UNet was trained on, in pixels; None: those of the
        encoded clips.
      num_frames: frames of a clip that it was trained on; None: as the encoded clips have.
      guidance_scale: ω where a user gives none.
      prior_guidance_scale: guidance of the prior, from text to image embedding.
    """
    folders = {"unet": "../blur/model", **model_folders("vae", "clip", "depth", "prior")}
    settings = {
        "schedule": {"zero_terminal_snr": False},
        "spacing": "leading",
        "size": size,
        "num_frames": num_frames,
        "guidance_scale": guidance_scale,
        "prior": {"num_steps": 25, "guidance_scale": prior_guidance_scale},
    }
    # The pace of the clips and the sizes of images are those of the encoded data.
    data = {"form": "encoded", "folder": "../encoded"}
    return make("pipeline", folders=folders, settings=settings, data=data)
