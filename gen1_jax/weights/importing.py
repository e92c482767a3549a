"""Public checkpoints to run folders: a local folder or a hub id in, our model folders out.

Tensors go file to file under the names that our modules have: a shard is in memory at a time.
"""

import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gen1_jax.errors import UserError
from gen1_jax.files import read_json, replacing_folder, write_json
from gen1_jax.weights.clip_towers import join_configs, join_tensors
from gen1_jax.weights.exporting import MARKER, Reported, read_model, read_scheduler
from gen1_jax.weights.folder import (
    ModelTensors,
    module_from_config,
    read_config,
    write_model,
)
from gen1_jax.weights.tensor_files import TensorFiles

# What `gen1 import` takes -> (folder in the run, class it must be of).
PARTS = {
    "unet": ("unet", "VideoUNet"),
    "vae": ("autoencoder", "AutoencoderKL"),
    "clip": ("clip", "CLIPModel"),
    "depth": ("depth", "DPTForDepthEstimation"),
    "prior": ("prior", "PriorTransformer"),
}
RECORD = "import.json"  # in each part's folder: what it was made from
# Files of a hub repository that are read; never code, never pickles.
_WANTED = (
    "config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model-*-of-*.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
)
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
_HUB_ID = re.compile(
    r"^(?P<repo>[\w.-]+/[\w.-]+)(?P<subfolder>(/[\w.-]+)*)(@(?P<revision>[\w./-]+))?$"
)

Report = Callable[[str, int], None]


class Source(NamedTuple):
    """Where a checkpoint lies, and where it came from."""

    folder: Path
    origin: str
    revision: str | None  # a commit of the hub, where it is from there


class Imported(NamedTuple):
    """What became of one part."""

    folder: Path
    kind: str
    tensors: int
    parameters: int
    absent: tuple[str, ...]  # unused tensors that the checkpoint lacks: zeros
    prediction_type: str | None  # what the scheduler beside a UNet says it predicts


def find_source(text: str) -> Source:
    """A local folder, or a hub id `ORG/NAME[/SUBFOLDER][@REVISION]`, which is downloaded.

    Raises:
      UserError: neither; or the download failed, with what to download by hand.
    """
    folder = Path(os.path.expanduser(text))  # Path's own raises for a user there is not
    if folder.is_dir():
        return Source(folder, str(folder), None)
    match = _HUB_ID.match(text)
    if folder.exists() or not match or text.startswith((".", "/", "~")):
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(
            f"{text} {what}; accepted: a folder with config.json and safetensors, or a hub id "
            "ORG/NAME[/SUBFOLDER][@REVISION]"
        )
    repo, revision = match["repo"], match["revision"] or "main"
    prefix = match["subfolder"].lstrip("/")
    prefix = f"{prefix}/" if prefix else ""
    patterns = [f"{prefix}{name}" for name in (*_WANTED, *_TOKENIZER)]
    patterns.append("scheduler/scheduler_config.json")
    from huggingface_hub import snapshot_download  # slow to import

    try:
        root = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except Exception as error:  # of many libraries below it: no network, no such repository, …
        raise UserError(
            f"cannot download {text} ({type(error).__name__}); where there is no network, download "
            f"{prefix}config.json and its safetensors from {repo} at revision {revision}, and give "
            "the folder that holds them"
        ) from error
    if not (root / prefix).is_dir():
        raise UserError(f"{repo} has no folder {prefix} at revision {revision}")
    # The snapshot's folder is named by its commit.
    return Source(root / prefix, f"{repo}/{prefix}".rstrip("/"), root.name)


def import_part(
    part: str, source: Source, run: Path, report: Report = lambda name, size: None
) -> Imported:
    """One public model folder -> `run/PART/model`, float32; whole or not at all.

    Raises:
      UserError, MismatchError: another kind of model, a setting or a file that is not accepted, or
        tensors that do not fit the config.
    """
    _, kind = PARTS[part]
    config, tensors = read_model(source.folder, kind)
    return _write_part(part, source, run, config, tensors, report)


def import_towers(
    text: Source, image: Source, run: Path, report: Report = lambda name, size: None
) -> Imported:
    """A text and an image encoder that are published apart (as Karlo's) -> `run/clip/model`."""
    config, tensors = read_towers(text.folder, image.folder)
    source = Source(text.folder, f"{text.origin} and {image.origin}", text.revision)
    return _write_part("clip", source, run, config, tensors, report)


def read_towers(text: Path, image: Path) -> tuple[dict[str, Any], ModelTensors]:
    """CLIPModel's config and tensors from its two towers' folders."""
    configs = read_config(text), read_config(image)
    module = module_from_config(join_configs(*configs), where=f"{text} and {image}")
    joined = join_tensors(configs[0], TensorFiles(text), TensorFiles(image))
    what = f"weights in {text} and {image} do not fit their configs (CLIPModel)"
    return module.to_config(), ModelTensors(joined, module, what)


def _write_part(
    part: str,
    source: Source,
    run: Path,
    config: Mapping[str, Any],
    tensors: ModelTensors,
    report: Report,
) -> Imported:
    folder = run / PARTS[part][0]
    prediction_type = _prediction_type(source.folder) if part == "unet" else None
    imported = Imported(
        folder / "model",
        PARTS[part][1],
        len(tensors),
        sum(math.prod(shape) for shape in tensors.shapes.values()),
        tensors.absent,
        prediction_type,
    )
    record = {
        "source": source.origin,
        "revision": source.revision,
        "tensors": imported.tensors,
        "parameters": imported.parameters,
        "absent": imported.absent,
        "prediction_type": prediction_type,
    }
    with replacing_folder(folder, RECORD) as new:
        (new / "model").mkdir()
        write_model(new / "model", config, tensors.shapes, Reported(tensors, report))
        write_json(new / RECORD, record)
    return imported


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a public CLIP tokenizer, none if `folder` holds none."""
    files = [folder / name for name in _TOKENIZER if (folder / name).is_file()]
    return files if {"tokenizer.json", "vocab.json"} & {file.name for file in files} else []


def import_tokenizer(folder: Path, run: Path) -> bool:
    """Copies a public CLIP tokenizer to `run/tokenizer`, if `folder` holds one."""
    from gen1_jax.tokenizer import load_tokenizer

    files = tokenizer_files(folder)
    if not files:
        return False
    load_tokenizer(folder)  # says what is wrong with it
    with replacing_folder(run / "tokenizer", "tokenizer_config.json") as new:
        for file in files:
            shutil.copyfile(file, new / file.name)
        if not (new / "tokenizer_config.json").exists():
            (new / "tokenizer_config.json").write_text("{}\n", encoding="utf-8")
    return True


def import_pipeline(
    source: Path, output: Path, report: Report = lambda name, size: None
) -> dict[str, int]:
    """An exported pipeline -> a pipeline folder of ours; undoes `export_pipeline`.

    Returns:
      Parameters of each part.

    Raises:
      UserError: `source` is not what `gen1 export` writes, or is damaged.
    """
    index = _read_json(source / MARKER)
    if index.get("_class_name") != ["pipeline", "Gen1Pipeline"]:
        raise UserError(
            f"{source / MARKER} is of {index.get('_class_name')!r}; accepted: what `gen1 export` "
            "writes. Import the parts of another pipeline one by one (--unet, --vae, …)"
        )
    try:
        settings = _settings(index, _read_json(source / "scheduler" / "scheduler_config.json"))
    except KeyError as error:
        raise UserError(f"{source / MARKER} or its scheduler lacks {error}") from error
    parts = {
        name: read_model(source / folder, PARTS[name][1])
        for name, folder in {
            "unet": "unet",
            "vae": "vae",
            "depth": "depth_estimator",
            "prior": "prior",
        }.items()
    }
    parts["clip"] = read_towers(source / "text_encoder", source / "image_encoder")
    counts = {}
    with replacing_folder(output, "gen1.json") as new:
        for name, (config, tensors) in parts.items():
            (new / name).mkdir()
            write_model(new / name, config, tensors.shapes, Reported(tensors, report))
            counts[name] = sum(math.prod(shape) for shape in tensors.shapes.values())
        if not import_tokenizer(source / "tokenizer", new):
            raise UserError(f"no tokenizer in {source / 'tokenizer'}; it is no whole export")
        write_json(new / "gen1.json", settings)
    return counts


def _settings(index: Mapping[str, Any], scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """gen1.json's content from model_index.json and scheduler_config.json."""
    prior = {name: index[f"prior_{name}"] for name in ("num_steps", "guidance_scale", "clamp")}
    plain = {name: index[name] for name in ("size", "num_frames", "guidance_scale")}
    return {**read_scheduler(scheduler), **plain, "prior": prior}


def _prediction_type(folder: Path) -> str | None:
    """What the scheduler beside a UNet's folder says, if there is one."""
    path = folder.parent / "scheduler" / "scheduler_config.json"
    return _read_json(path).get("prediction_type", "epsilon") if path.is_file() else None


def _read_json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if content is None:
        raise UserError(f"no {path.name} in {path.parent}; it is no exported pipeline")
    return content
