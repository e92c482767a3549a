"""From public checkpoints to a run folder: a local folder or a hub id in, our model folders out.

Tensors go from file to file under the names that our modules have, with one shard in memory at a
time.
"""

import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gen1_jax.errors import UserError
from gen1_jax.files import replacing_folder, write_json
from gen1_jax.pipeline import MODELS, SETTINGS_FILE
from gen1_jax.weights.clip_towers import IMAGE_TOWER, TEXT_TOWER, join_configs, join_tensors
from gen1_jax.weights.folder import (
    ModelTensors,
    module_from_config,
    read_config,
    read_model,
    write_model,
)
from gen1_jax.weights.pipeline_index import read_index, read_prediction_type
from gen1_jax.weights.tensor_files import Report, ReportedTensors, TensorFiles, ignore_report

RECORD = "import.json"  # in each part's folder: what the part was made from
# The files of a hub repository that are downloaded: no code and no pickles.
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


class Imported(NamedTuple):
    """The result of importing one part.

    Attributes:
      folder: the model folder.
      kind: the name of our class.
      tensors: their number.
      parameters: their number.
      absent: unused tensors that the checkpoint lacks; they were written as zeros.
      prediction_type: what the scheduler beside a UNet says that the UNet predicts.
    """

    folder: Path
    kind: str
    tensors: int
    parameters: int
    absent: tuple[str, ...]
    prediction_type: str | None


# ---- finding


def find_source(text: str) -> Source:
    """Finds a checkpoint: a local folder, or a hub id, which is downloaded.

    Args:
      text: a path, or `ORG/NAME[/SUBFOLDER][@REVISION]`.

    Raises:
      UserError: `text` is neither, or the download failed. Then the line says what to download by
        hand.
    """
    folder = Path(os.path.expanduser(text))  # that of Path raises if there is no such user
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
    except Exception as error:  # many libraries lie below: no network, no such repository, …
        raise UserError(
            f"cannot download {text} ({type(error).__name__}); where there is no network, download "
            f"{prefix}config.json and its safetensors from {repo} at revision {revision}, and give "
            "the folder that holds them"
        ) from error
    if not (root / prefix).is_dir():
        raise UserError(f"{repo} has no folder {prefix} at revision {revision}")
    # The folder of a snapshot has the name of its commit.
    return Source(root / prefix, f"{repo}/{prefix}".rstrip("/"), root.name)


# ---- one part


def import_part(part: str, source: Source, run: Path, report: Report = ignore_report) -> Imported:
    """Imports one public model folder as float32 into `run`, atomically.

    Args:
      part: a name of `pipeline.MODELS`.
      source: the public model folder.
      run: the run folder.
      report: called with the name and the size in bytes of each tensor that is read.

    Raises:
      UserError: the model is of another kind, or a setting or a file is not accepted.
      MismatchError: the tensors do not fit the config.
    """
    config, tensors = read_model(source.folder, MODELS[part].kind)
    return _write_part(part, source, run, config, tensors, report)


def import_towers(
    text: Source, image: Source, run: Path, report: Report = ignore_report
) -> Imported:
    """Imports CLIP from a text and an image encoder that are published apart, as Karlo's are.

    Args:
      text: the folder of the text encoder.
      image: the folder of the image encoder.
      run: the run folder.
      report: see `import_part`.

    Raises:
      UserError, MismatchError: see `import_part`.
    """
    config, tensors = _read_towers(text.folder, image.folder)
    source = Source(text.folder, f"{text.origin} and {image.origin}", text.revision)
    return _write_part("clip", source, run, config, tensors, report)


def _read_towers(text: Path, image: Path) -> tuple[dict[str, Any], ModelTensors]:
    """Returns config and tensors of CLIPModel from the folders of its two towers."""
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
    """Writes a part's folder: the model, and the record of what it was made from."""
    folder = run / MODELS[part].run_folder
    prediction_type = read_prediction_type(source.folder) if part == "unet" else None
    imported = Imported(
        folder / "model",
        MODELS[part].kind,
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
        write_model(new / "model", config, tensors.shapes, ReportedTensors(tensors, report))
        write_json(new / RECORD, record)
    return imported


# ---- the tokenizer


def tokenizer_files(folder: Path) -> list[Path]:
    """Returns the files of a public CLIP tokenizer; none if `folder` holds no tokenizer."""
    files = [folder / name for name in _TOKENIZER if (folder / name).is_file()]
    return files if {"tokenizer.json", "vocab.json"} & {file.name for file in files} else []


def import_tokenizer(folder: Path, run: Path) -> bool:
    """Copies a public CLIP tokenizer to `run/tokenizer`, if `folder` holds one.

    Returns:
      Whether it does.

    Raises:
      UserError: the tokenizer cannot be read.
    """
    from gen1_jax.tokenizer import load_tokenizer

    files = tokenizer_files(folder)
    if not files:
        return False
    load_tokenizer(folder)  # raises if something is wrong with it
    with replacing_folder(run / "tokenizer", "tokenizer_config.json") as new:
        for file in files:
            shutil.copyfile(file, new / file.name)
        if not (new / "tokenizer_config.json").exists():
            (new / "tokenizer_config.json").write_text("{}\n", encoding="utf-8")
    return True


# ---- a whole pipeline


def import_pipeline(source: Path, output: Path, report: Report = ignore_report) -> dict[str, int]:
    """Makes a pipeline folder of ours from an exported one; the inverse of `export_pipeline`.

    Args:
      source: a folder that `gen1 export` wrote.
      output: the pipeline folder; an earlier one is replaced.
      report: see `import_part`.

    Returns:
      The number of parameters of each model, by the name of its part.

    Raises:
      UserError: `source` is not what `gen1 export` writes, or is damaged.
    """
    settings = read_index(source)
    models = {}
    for name, part in MODELS.items():
        if name == "clip":
            towers = {kind: source / folder for folder, (_, kind) in part.exported.items()}
            models[name] = _read_towers(towers[TEXT_TOWER], towers[IMAGE_TOWER])
        else:
            (folder,) = part.exported
            models[name] = read_model(source / folder, part.kind)
    counts = {}
    with replacing_folder(output, SETTINGS_FILE) as new:
        for name, (config, tensors) in models.items():
            (new / name).mkdir()
            write_model(new / name, config, tensors.shapes, ReportedTensors(tensors, report))
            counts[name] = sum(math.prod(shape) for shape in tensors.shapes.values())
        if not import_tokenizer(source / "tokenizer", new):
            raise UserError(f"no tokenizer in {source / 'tokenizer'}; it is no whole export")
        write_json(new / SETTINGS_FILE, settings)
    return counts
