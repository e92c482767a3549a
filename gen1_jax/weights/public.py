"""Finds public checkpoints, in local folders and on the hub, and says what a wrong one holds."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gen1_jax.errors import UserError, one_line
from gen1_jax.files import read_json
from gen1_jax.weights.clip_towers import IMAGE_TOWER, TEXT_TOWER

CONFIG, MODEL_INDEX = "config.json", "model_index.json"
# The small files of a hub repository, by which a wrong model is refused before its weights come.
_SMALL = (CONFIG, "*/config.json", MODEL_INDEX)
# The files of a hub repository that are downloaded: no code and no pickles.
_WANTED = (
    CONFIG,
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model-*-of-*.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
)
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json"),
)
# Where the sampler's settings lie beside a prior or a UNet; Karlo's pipeline has several samplers.
SAMPLER_FILES = ("prior_scheduler/scheduler_config.json", "scheduler/scheduler_config.json")
_HUB_ID = re.compile(
    r"^(?P<repo>[\w.-]+/[\w.-]+)(?P<subfolder>(/[\w.-]+)*)(@(?P<revision>[\w./-]+))?$"
)
_MOST_FOLDERS = 100  # folders that are looked into for a hint


class Flag(NamedTuple):
    """What a flag of `gen1 import` takes.

    Attributes:
      kinds: names of accepted models, as `kind_of` returns them.
      example: a hub id.
    """

    kinds: tuple[str, ...]
    example: str


FLAGS = {
    "unet": Flag(
        ("UNet2DConditionModel", "VideoUNet"), "stable-diffusion-v1-5/stable-diffusion-v1-5/unet"
    ),
    "vae": Flag(("AutoencoderKL",), "stable-diffusion-v1-5/stable-diffusion-v1-5/vae"),
    "clip": Flag(("CLIPModel",), "openai/clip-vit-large-patch14"),
    "text_encoder": Flag((TEXT_TOWER,), "kakaobrain/karlo-v1-alpha/text_encoder"),
    "image_encoder": Flag(
        (IMAGE_TOWER,), "kakaobrain/karlo-v1-alpha-image-variations/image_encoder"
    ),
    "depth": Flag(("DPTForDepthEstimation",), "Intel/dpt-large"),
    "prior": Flag(("PriorTransformer",), "kakaobrain/karlo-v1-alpha/prior"),
    "tokenizer": Flag(("tokenizer",), "openai/clip-vit-large-patch14"),
}
TOWERS = ("text_encoder", "image_encoder")  # the flags of the two halves of CLIP
# `model_type` in config.json → the class that transformers gives it.
_CLASSES = {
    "clip": "CLIPModel",
    "clip_text_model": TEXT_TOWER,
    "clip_vision_model": IMAGE_TOWER,
    "dpt": "DPTForDepthEstimation",
}
# Towers without the projection into CLIP's space, which is what the towers are for.
_HALF_TOWERS = ("CLIPTextModel", "CLIPVisionModel")


class Source(NamedTuple):
    """The place of a checkpoint.

    Attributes:
      folder: the local folder that holds it.
      origin: what the user gave, as a folder or as a hub id without the revision.
      revision: the commit of the hub repository; None for a local folder.
    """

    folder: Path
    origin: str
    revision: str | None


def find_source(text: str, flag: str | None = None) -> Source:
    """Finds a checkpoint: a local folder, or a hub id, which is downloaded.

    Args:
      text: a path, or `ORG/NAME[/SUBFOLDER][@REVISION]`.
      flag: a name of `FLAGS`, which says what the checkpoint must hold; None: anything.

    Raises:
      UserError: `text` is neither, or holds something else, or the download failed. Then the line
        says what to download by hand.
    """
    folder = Path(os.path.expanduser(text))  # that of Path raises if there is no such user
    if folder.is_dir():
        check_kind(folder, flag, str(folder))
        return Source(folder, str(folder), None)
    match = _HUB_ID.match(text)
    if folder.exists():
        raise UserError(f"{text} is a file; {_advice_on_file(folder)}")
    if not match or text.startswith((".", "/", "~")):
        raise UserError(
            f"{text} does not exist; accepted: a folder with {CONFIG} and safetensors, or a hub id "
            "ORG/NAME[/SUBFOLDER][@REVISION]"
        )
    repo, revision = match["repo"], match["revision"] or "main"
    subfolder = match["subfolder"].strip("/")
    prefix = f"{subfolder}/" if subfolder else ""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown = not are_progress_bars_disabled()
    disable_progress_bars()  # a refusal may follow
    try:
        root = _download(text, repo, revision, prefix, _SMALL)
    finally:
        if shown:
            enable_progress_bars()
    if (root / subfolder / CONFIG).exists() or flag != "tokenizer":
        check_kind(root / subfolder, flag, f"{repo}/{subfolder}".rstrip("/"))
    root = _download(text, repo, revision, prefix, (*_WANTED, *_TOKENIZER))
    # The folder of a snapshot has the name of its commit.
    return Source(root / subfolder, f"{repo}/{subfolder}".rstrip("/"), root.name)


def _advice_on_file(file: Path) -> str:
    """Returns what to give in place of a file."""
    if (file.parent / CONFIG).exists():
        return f"give its folder: {file.parent}"
    if file.suffix in (".safetensors", ".ckpt"):
        return (
            f"accepted: a folder with {CONFIG} and safetensors. To make one of a checkpoint in a "
            "single file, load it in diffusers with StableDiffusionPipeline.from_single_file and "
            "call save_pretrained(FOLDER)"
        )
    return f"accepted: a folder with {CONFIG} and safetensors"


def _download(text: str, repo: str, revision: str, prefix: str, names: tuple[str, ...]) -> Path:
    """Downloads some files of a hub repository; returns the folder that holds them."""
    from huggingface_hub import snapshot_download  # slow to import

    patterns = [*(f"{prefix}{name}" for name in names), MODEL_INDEX, *SAMPLER_FILES]
    try:
        root = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except Exception as error:  # many libraries lie below
        raise UserError(
            f"{text}: there is no such folder, and the hub gives no such model: {_reason(error)}. "
            f"Without a network, download {prefix}{CONFIG} and the safetensors beside it from "
            f"{repo} at revision {revision}, and give the folder that holds them"
        ) from error
    if not (root / prefix).is_dir():
        raise UserError(f"{repo} has no folder {prefix} at revision {revision}")
    return root


def _reason(error: Exception) -> str:
    """Returns why the hub gave nothing, in a few words."""
    from huggingface_hub import constants, errors

    reasons = {
        errors.HFValidationError: "it is no hub id ORG/NAME",
        errors.GatedRepoError: "its owners ask for consent on its page; then `hf auth login`",
        errors.RepositoryNotFoundError: "there is none of that name, or it is private",
        errors.RevisionNotFoundError: "it has no such revision",
        errors.LocalEntryNotFoundError: "no connection to it",
    }
    if constants.HF_HUB_OFFLINE:
        reasons[errors.LocalEntryNotFoundError] = "HF_HUB_OFFLINE is set"
    known = next((says for kind, says in reasons.items() if isinstance(error, kind)), None)
    return known or f"{type(error).__name__}: {one_line(error)[:200]}"


# ---- what a folder holds


def check_kind(folder: Path, flag: str | None, name: str) -> None:
    """Checks that a folder holds what a flag of `gen1 import` takes.

    Args:
      folder: the folder.
      flag: a name of `FLAGS`; None accepts anything.
      name: what the user called the folder.

    Raises:
      UserError: it holds something else; the line says what, and which folder nearby would do.
    """
    if flag is None or (kind := kind_of(folder, flag)) in FLAGS[flag].kinds:
        return
    option, (kinds, example) = _option(flag), FLAGS[flag]
    takes = f"{option} takes {_one_of(kinds)}, for example {example}"
    nearby = [Path(name) / each.relative_to(folder) for each in _fitting(_below(folder), flag)]
    if not nearby and (folder.parent / MODEL_INDEX).exists():
        beside = _fitting(_folders(folder.parent), flag)
        nearby = [Path(name).parent / each.name for each in beside]
    if nearby:
        what = f"holds {kind}" if kind else "is no model, but holds some"
        raise UserError(f"{name} {what}; give {option} {_one_of(nearby[:3])}")
    if flag == "clip":
        towers = {each: _fitting(_folders(folder), each)[:1] for each in TOWERS}
        if all(towers.values()):
            both = (
                f"{_option(each)} {Path(name) / found.name}" for each, (found,) in towers.items()
            )
            raise UserError(f"{name} holds the two halves of CLIP apart; give {' '.join(both)}")
    if kind:
        other = next((each for each, own in FLAGS.items() if kind in own.kinds), None)
        place = f"; {kind} is for {_option(other)}" if other else ""
        raise UserError(f"{name} holds {kind}; {takes}{place}")
    if index := read_json(folder / MODEL_INDEX):
        raise UserError(
            f"{name} is a whole {pipeline_class(index)}, which has no such part; {takes}"
        )
    if not any(folder.iterdir()):
        raise UserError(f"{name} is an empty folder; {takes}")
    missing = "tokenizer" if flag == "tokenizer" else f"model, with {CONFIG},"
    raise UserError(f"no {missing} in {name}; {takes}")


def _fitting(folders: Iterable[Path], flag: str) -> list[Path]:
    """Returns the folders that hold what a flag takes."""
    return [each for each in folders if kind_of(each, flag) in FLAGS[flag].kinds]


def kind_of(folder: Path, flag: str = "") -> str | None:
    """Returns the class of the model in a folder, or None if there is no config.json.

    Args:
      folder: the folder.
      flag: "tokenizer" asks for a tokenizer beside the model.
    """
    if flag == "tokenizer" and tokenizer_files(folder):
        return "tokenizer"
    config = read_json(folder / CONFIG)
    return None if config is None else _kind(config)


def _kind(config: dict[str, Any]) -> str | None:
    """Returns the class that a config.json names, by diffusers' key or transformers' keys.

    A part of a run has a config.json too, which names none.
    """
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    if first in _HALF_TOWERS:
        return f"{first} (without the projection into CLIP's space)"
    kind = config.get("_class_name") or config.get("model_type") or first
    return _CLASSES.get(kind, kind) if isinstance(kind, str | None) else repr(kind)


def tokenizer_files(folder: Path) -> list[Path]:
    """Returns the files of a public CLIP tokenizer; none if `folder` holds no tokenizer."""
    files = [folder / name for name in _TOKENIZER if (folder / name).is_file()]
    return files if {"tokenizer.json", "vocab.json"} & {file.name for file in files} else []


def pipeline_class(index: dict[str, Any]) -> str:
    """Returns the class that a model_index.json names; one of a file of its own is a pair there."""
    name = index.get("_class_name")
    return str(name[-1] if isinstance(name, list) and name else name)


def fitting_flags(folder: Path) -> str:
    """Returns the flags of `gen1 import` by which the parts of a diffusers pipeline are taken."""
    found = {}
    for flag in FLAGS:
        for each in _fitting(_folders(folder), flag)[:1]:
            found[flag] = f"{_option(flag)} {each}"
    return " ".join(found.values())


def _option(flag: str) -> str:
    return f"--{flag.replace('_', '-')}"


def _below(folder: Path) -> Iterator[Path]:
    """Yields the folders within a folder, and those within them."""
    for each in _folders(folder):
        yield each
        yield from _folders(each)


def _folders(folder: Path) -> list[Path]:
    try:
        found = sorted(each for each in folder.iterdir() if each.is_dir())
    except OSError:
        return []
    return [each for each in found if not each.name.startswith(".")][:_MOST_FOLDERS]


def _one_of(names: Sequence[Any]) -> str:
    return " or ".join("a CLIP tokenizer" if name == "tokenizer" else str(name) for name in names)
