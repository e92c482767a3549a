"""From public checkpoints to a run folder: public model folders in, our model folders out.

Tensors go from file to file under the names that our modules have, with one shard in memory at a
time.
"""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gen1_jax.errors import UserError
from gen1_jax.files import check_replaceable, replacing_folder, write_json
from gen1_jax.models.prior import CLAMP, OWN
from gen1_jax.pipeline import MODELS, SETTINGS_FILE
from gen1_jax.weights import prior_scale
from gen1_jax.weights.clip_towers import IMAGE_TOWER, TEXT_TOWER, join_configs, join_tensors
from gen1_jax.weights.folder import (
    ModelTensors,
    module_from_config,
    read_config,
    read_model,
    write_model,
)
from gen1_jax.weights.pipeline_index import read_index, read_prediction_type
from gen1_jax.weights.public import Source, tokenizer_files
from gen1_jax.weights.tensor_files import Report, ReportedTensors, TensorFiles, ignore_report

if TYPE_CHECKING:
    from gen1_jax.tokenizer import Tokenizer

RECORD = "import.json"  # in each part's folder: what the part was made from
_TOKENIZER_MARKER = "tokenizer_config.json"


class Imported(NamedTuple):
    """The result of importing one part.

    Attributes:
      folder: the model folder.
      kind: the name of our class.
      tensors: their number.
      parameters: their number.
      absent: unused tensors that the checkpoint lacks; they were written as zeros.
      variants: the variant of the weights, or both of two halves; None stands for plain ones.
      prediction_type: what the scheduler beside a UNet says that the UNet predicts.
    """

    folder: Path
    kind: str
    tensors: int
    parameters: int
    absent: tuple[str, ...]
    variants: tuple[str | None, ...]
    prediction_type: str | None


# ---- one part


class Opened(NamedTuple):
    """A checkpoint whose config and tensor names were checked; no tensor is read yet.

    Attributes:
      part: a name of `pipeline.MODELS`.
      sources: the place of the checkpoint; for CLIP in two halves, those of both.
      config: the content of config.json as we write it.
      tensors: the tensors, each of which is read when it is asked for.
    """

    part: str
    sources: tuple[Source, ...]
    config: Mapping[str, Any]
    tensors: ModelTensors

    @property
    def nbytes(self) -> int:
        """Size in bytes of all tensors as float32."""
        return 4 * sum(math.prod(shape) for shape in self.tensors.shapes.values())


def open_part(part: str, source: Source) -> Opened:
    """Opens a public model folder.

    Args:
      part: a name of `pipeline.MODELS`.
      source: the public model folder.

    Raises:
      UserError: the model is of another kind, or a setting or a file is not accepted.
      MismatchError: the tensors do not fit the config.
    """
    config, tensors = read_model(source.folder, MODELS[part].kind, source.variant)
    if part == "prior" and (clamp := prior_scale.read_clamp(source.folder)) is not None:
        config = {**config, OWN: {**config[OWN], CLAMP: clamp}}
    return Opened(part, (source,), config, tensors)


def open_towers(text: Source, image: Source) -> Opened:
    """Opens CLIP as a text and an image encoder that are published apart, as Karlo's are.

    Args:
      text: the folder of the text encoder.
      image: the folder of the image encoder.

    Raises:
      UserError, MismatchError: see `open_part`.
    """
    towers = (text, image)
    model = _read_towers(*(tower.folder for tower in towers), *(tower.variant for tower in towers))
    return Opened("clip", towers, *model)


def import_part(part: str, source: Source, run: Path, report: Report = ignore_report) -> Imported:
    """Imports one public model folder as float32 into `run`; see `open_part` and `write_part`."""
    return write_part(open_part(part, source), run, report)


def _read_towers(
    text: Path, image: Path, text_variant: str | None = None, image_variant: str | None = None
) -> tuple[dict[str, Any], ModelTensors]:
    """Returns config and tensors of CLIPModel from the folders of its two towers."""
    configs = read_config(text), read_config(image)
    module = module_from_config(join_configs(*configs), where=f"{text} and {image}")
    files = TensorFiles(text, text_variant), TensorFiles(image, image_variant)
    joined = join_tensors(configs[0], *files)
    what = f"weights in {text} and {image} do not fit their configs (CLIPModel)"
    return module.to_config(), ModelTensors(joined, module, what)


def check_part_folder(part: str, run: Path) -> None:
    """Raises UserError if the folder of a part holds what `write_part` will not replace."""
    check_replaceable(run / MODELS[part].run_folder, RECORD)


def write_part(opened: Opened, run: Path, report: Report = ignore_report) -> Imported:
    """Writes a part's folder atomically: the model, and the record of what it was made from.

    Args:
      opened: the checkpoint.
      run: the run folder.
      report: called with the name and the size in bytes of each tensor that is read.
    """
    part, sources, config, tensors = opened
    folder = run / MODELS[part].run_folder
    prediction_type = read_prediction_type(sources[0].folder) if part == "unet" else None
    variants = tuple(dict.fromkeys(source.variant for source in sources))
    imported = Imported(
        folder / "model",
        MODELS[part].kind,
        len(tensors),
        sum(math.prod(shape) for shape in tensors.shapes.values()),
        tensors.absent,
        variants,
        prediction_type,
    )
    record = {
        "source": " and ".join(source.origin for source in sources),
        "revision": sources[0].revision,
        "variants": variants,
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


def check_tokenizer(folder: Path, run: Path) -> "Tokenizer":
    """Returns the tokenizer of a folder, after checking that `import_tokenizer` may write it.

    Raises:
      UserError: it cannot be read, or the run's own may not be replaced.
    """
    from gen1_jax.tokenizer import load_tokenizer

    check_replaceable(run / "tokenizer", _TOKENIZER_MARKER)
    return load_tokenizer(folder)


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
    with replacing_folder(run / "tokenizer", _TOKENIZER_MARKER) as new:
        for file in files:
            shutil.copyfile(file, new / file.name)
        if not (new / _TOKENIZER_MARKER).exists():
            (new / _TOKENIZER_MARKER).write_text("{}\n", encoding="utf-8")
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
