"""Finds public checkpoints, in local folders and on the hub, and says what a wrong one holds."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gen1_jax.errors import UserError
from gen1_jax.files import read_json
from gen1_jax.weights import foreign
from gen1_jax.weights.clip_towers import IMAGE_TOWER, TEXT_TOWER
from gen1_jax.weights.hub import HubFolder, download, list_files, parse_hub_id, quiet
from gen1_jax.weights.tensor_files import WEIGHT_NAMES, advice_on_file, file_names
from gen1_jax.weights.variants import Weights, choose_weights, list_weights

CONFIG, MODEL_INDEX = "config.json", "model_index.json"
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json"),
)
# Where the sampler's settings lie beside a prior or a UNet; Karlo's pipeline has several samplers.
SAMPLER_FILES = ("prior_scheduler/scheduler_config.json", "scheduler/scheduler_config.json")
# The small files of a hub repository, by which a wrong model is refused before its weights come.
_SMALL = (CONFIG, "*/config.json", MODEL_INDEX)
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
      variant: the variant of the weights to read; None stands for the plain ones.
    """

    folder: Path
    origin: str
    revision: str | None
    variant: str | None = None


def find_source(text: str, flag: str | None = None, variant: str | None = None) -> Source:
    """Finds a checkpoint: a local folder, or a hub id, which is downloaded.

    Args:
      text: a path, or `ORG/NAME[/SUBFOLDER][@REVISION]`.
      flag: a name of `FLAGS`, which says what the checkpoint must hold; None: anything.
      variant: the variant of the weights to take where there is one; plain weights otherwise.
        None takes the plain weights, or else the only variant.

    Raises:
      UserError: `text` is neither, or holds something else, or the download failed. Then the line
        says what to download by hand.
    """
    folder = Path(os.path.expanduser(text))  # that of Path raises if there is no such user
    if folder.is_dir():
        names = file_names(folder)
        check_kind(folder, flag, str(folder), names)
        weights = None if flag == "tokenizer" else _choose(names, variant, str(folder))
        return Source(folder, str(folder), None, weights and weights.variant)
    if folder.exists():
        raise UserError(f"{text} is a file; {_advice_on_file(folder)}")
    if hub := parse_hub_id(text):
        return _from_hub(hub, flag, variant)
    raise UserError(
        f"{text} does not exist; accepted: a folder with {CONFIG} and safetensors, or a hub id "
        "ORG/NAME[/SUBFOLDER][@REVISION]"
    )


def _choose(names: Sequence[str], variant: str | None, where: str) -> Weights | None:
    """Returns the weights to read, which are the plain ones where there is no such variant."""
    there = list_weights(names)
    return choose_weights(names, None if None in there and variant not in there else variant, where)


def _from_hub(hub: HubFolder, flag: str | None, variant: str | None) -> Source:
    """Downloads a checkpoint: first what shows its kind, then the files that are read."""
    words = [f"{hub.prefix}{name}" for name in _TOKENIZER]
    small = {*(f"{hub.prefix}{name}" for name in _SMALL), MODEL_INDEX, *SAMPLER_FILES}
    if flag == "tokenizer":
        small |= {*words, *(f"{hub.prefix}*/{name}" for name in _TOKENIZER)}
    with quiet():  # a refusal may follow
        root = download(hub, small)
    folder = root / hub.subfolder
    if hub.subfolder and not folder.is_dir():
        raise UserError(f"{hub.repo} has no folder {hub.prefix} at revision {hub.revision}")
    if flag == "tokenizer":
        check_kind(folder, flag, hub.name, ())
        return Source(folder, hub.name, root.name)
    known = (folder / CONFIG).exists() or (folder / MODEL_INDEX).exists()
    if known:
        check_kind(folder, flag, hub.name, ())
    # The folder of a snapshot has the name of its commit.
    hub = hub._replace(revision=root.name)
    names = list_files(hub, root)
    if not known:
        check_kind(folder, flag, hub.name, names)
    weights = _choose(names, variant, hub.name)
    if weights is None:
        raise UserError(foreign.advice_on_names(names, hub.name) or f"no weights in {hub.name}; "
                        f"accepted: {WEIGHT_NAMES}")  # fmt: skip
    files = [f"{hub.prefix}{name}" for name in (weights.index, *weights.files) if name]
    download(hub, [*files, *words])
    return Source(folder, hub.name, root.name, weights.variant)


def _advice_on_file(file: Path) -> str:
    """Returns what a file is, and what to give in place of it, as the end of a line."""
    what = advice_on_file(file) if file.suffix == ".safetensors" else None
    if what is None and (file.parent / CONFIG).exists() and list_weights(file_names(file.parent)):
        return f"give its folder: {file.parent}"
    if what := what or foreign.advice_on_file_name(file.name):
        return f"it holds {what}"
    if (file.parent / CONFIG).exists():
        return f"give its folder: {file.parent}"
    return f"accepted: a folder with {CONFIG} and safetensors"


# ---- what a folder holds


def check_kind(folder: Path, flag: str | None, name: str, files: Sequence[str]) -> None:
    """Checks that a folder holds what a flag of `gen1 import` takes.

    Args:
      folder: the folder.
      flag: a name of `FLAGS`; None accepts anything.
      name: what the user called the folder.
      files: the names of the files in it, or in its original on the hub.

    Raises:
      UserError: it holds something else; the line says what, and which folder nearby would do.
    """
    if flag is None:
        return
    option, (kinds, example) = _option(flag), FLAGS[flag]
    takes = f"{option} takes {_one_of(kinds)}, for example {example}"
    kind = kind_of(folder, flag)
    if kind in kinds:
        config = read_json(folder / CONFIG) or {}
        if flag != "tokenizer" and (what := foreign.quantised_by(config)):
            raise UserError(f"{name} holds {what}")
        if flag == "unet" and (what := foreign.special_unet(config)):
            raise UserError(f"{name} holds {what}; {takes}")
        return
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
        what = foreign.what_a_class_is(kind)
        raise UserError(f"{name} holds {kind}{f', {what}' if what else ''}; {takes}{place}")
    if index := read_json(folder / MODEL_INDEX):
        raise UserError(
            f"{name} is a whole {pipeline_class(index)}, which has no such part; {takes}"
        )
    if not files and not file_names(folder):
        raise UserError(f"{name} is an empty folder; {takes}")
    if flag != "tokenizer" and (what := _without_config(folder, files)):
        raise UserError(f"{name} {what}")
    missing = "tokenizer" if flag == "tokenizer" else f"model, with {CONFIG},"
    raise UserError(f"no {missing} in {name}; {takes}")


def _without_config(folder: Path, files: Sequence[str]) -> str | None:
    """Returns what a folder without config.json holds, as far as its files tell."""
    for name in sorted(files, key=lambda name: not name.endswith(".safetensors")):
        what = foreign.advice_on_file_name(name)
        if what is None and name.endswith(".safetensors") and (folder / name).exists():
            what = advice_on_file(folder / name)
        if what:
            return f"has no {CONFIG}, and {name} holds {what}"
    return None


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
