"""A pipeline: the one table of its parts, its settings file `gen1.json`, and its assembling.

A pipeline folder holds one folder for each part of the table, by the part's name, and gen1.json.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gen1_jax.diffusion.structure import LEVEL_CHANNELS
from gen1_jax.errors import UserError
from gen1_jax.files import as_path, local_copy, read_json, replacing_folder, write_json

SETTINGS_FILE = "gen1.json"


class Part(NamedTuple):
    """One part of a pipeline.

    Attributes:
      name: its folder in a pipeline, its key in a config's `frozen` and `folders`, and its flag of
        `gen1 import`.
      run_folder: its folder in a run, where a model lies in `run_folder/model`.
      module: the Python module of our class.
      kind: the name of our class.
      config_kinds: what config.json may say that the model is: a `_class_name` of diffusers, or a
        `model_type` of transformers. The tokenizer has no such file.
      exported: its folders in an exported pipeline, each with the library and the class that
        model_index.json names. CLIP becomes two.
    """

    name: str
    run_folder: str
    module: str
    kind: str
    config_kinds: tuple[str, ...]
    exported: Mapping[str, tuple[str, str]]


PARTS = {
    part.name: part
    for part in (
        Part(
            "unet", "unet", "gen1_jax.models.unet", "VideoUNet",
            ("VideoUNet", "UNet2DConditionModel"),
            {"unet": ("video_unet", "VideoUNet")},
        ),
        Part(
            "vae", "autoencoder", "gen1_jax.models.autoencoder", "AutoencoderKL",
            ("AutoencoderKL",),
            {"vae": ("diffusers", "AutoencoderKL")},
        ),
        Part(
            "clip", "clip", "gen1_jax.models.clip", "CLIPModel",
            ("clip",),
            {
                "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
                "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
            },
        ),
        Part(
            "tokenizer", "tokenizer", "gen1_jax.tokenizer", "Tokenizer",
            (),
            {"tokenizer": ("transformers", "CLIPTokenizer")},
        ),
        Part(
            "depth", "depth", "gen1_jax.models.dpt", "DPTForDepthEstimation",
            ("dpt",),
            {"depth_estimator": ("transformers", "DPTForDepthEstimation")},
        ),
        Part(
            "prior", "prior", "gen1_jax.models.prior", "PriorTransformer",
            ("PriorTransformer",),
            {"prior": ("diffusers", "PriorTransformer")},
        ),
    )
}  # fmt: skip
MODELS = {name: part for name, part in PARTS.items() if part.config_kinds}
# The networks around the UNet, which are frozen while it is trained.
ENCODERS = {name: part for name, part in MODELS.items() if name != "unet"}
# Kind of model that a config.json may name → the part that such a model can be.
CONFIG_KINDS = {kind: part for part in MODELS.values() for kind in part.config_kinds}

# The keys that gen1.json must have.
SETTINGS = ("schedule", "spacing", "size", "num_frames", "guidance_scale", "prior")


def read_settings(folder: Path) -> dict[str, Any]:
    """Returns gen1.json of a pipeline folder: the schedule, and the sizes of the training clips.

    Raises:
      UserError: the folder is no pipeline, or its settings are damaged or incomplete.
    """
    path = folder / SETTINGS_FILE
    settings = read_json(path)
    if settings is None:
        if (folder / "pipeline" / SETTINGS_FILE).exists():
            raise UserError(f"{folder} is the folder of a run; give {folder / 'pipeline'}")
        if (folder / "model_index.json").exists():
            raise UserError(
                f"{folder} is a pipeline of diffusers; one that `gen1 export` wrote is taken back "
                f"by: gen1 import --pipeline {folder} -o DIR"
            )
        if folder.is_dir():
            why = f"it has no {SETTINGS_FILE}"
        else:
            why = "it is a file" if folder.exists() else "there is no such folder"
        raise UserError(
            f"{folder} is no pipeline folder: {why}; accepted: a folder that `gen1 all` makes, "
            "RUN/pipeline, or one that `gen1 import --pipeline` makes"
        )
    missing = [name for name in SETTINGS if name not in settings]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; needed: {', '.join(SETTINGS)}")
    return settings


def check_parts(folder: Path, unet: Any, conditioner: Any, tokenizer: Any) -> None:
    """Checks that the parts of a pipeline, each of which is whole, belong together.

    Args:
      folder: the pipeline folder, for messages.
      unet: the module of the UNet.
      conditioner: the modules of the encoders, a `Conditioner`.
      tokenizer: the `Tokenizer` of prompts.

    Raises:
      UserError: a width or a length of one part is not that of the others.
    """
    latents, width = conditioner.vae.latent_channels, conditioner.clip.projection_dim
    length = conditioner.clip.text_config.max_position_embeddings
    channels = 2 * latents + LEVEL_CHANNELS
    for part, what, got, wanted in (
        ("unet", "in_channels (latents, structure, level)", unet.in_channels, channels),
        ("unet", "out_channels", unet.out_channels, latents),
        ("unet", "cross_attention_dim", unet.cross_attention_dim, width),
        ("prior", "embedding_dim", conditioner.prior.embedding_dim, width),
        ("tokenizer", "context length", tokenizer.context_length, length),
    ):
        if got != wanted:
            raise UserError(
                f"{folder / part}: {what} is {got}; the other parts of the pipeline take {wanted}"
            )


def assemble(folders: Mapping[str, str | Path], settings: Mapping[str, Any], output: Path) -> None:
    """Copies finished parts into one pipeline folder, atomically.

    Args:
      folders: the folder of each part, by the part's name.
      settings: the content of gen1.json.
      output: the pipeline folder; an earlier one is replaced.

    Raises:
      UserError: a part is not there yet, or `output` cannot be written.
    """
    for name, source in folders.items():
        if not as_path(source).is_dir():
            raise UserError(f"no {name} in {source}; train that part first")
    with replacing_folder(output, SETTINGS_FILE) as new:
        for name, source in folders.items():
            shutil.copytree(local_copy(source), new / name)
        write_json(new / SETTINGS_FILE, settings)
