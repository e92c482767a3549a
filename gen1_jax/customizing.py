"""Trains a finished pipeline on the pictures of one subject (section 4.4 of the paper).

Half of each batch is of the subject, and the other half of the data that the model was trained on,
so that it forgets nothing else. What is made on the way lies in a folder beside the new pipeline:

    NEW                      the pipeline, with the new UNet (and lora/, if a LoRA was trained)
    NEW.training/subject     the pictures, encoded
    NEW.training/customize   checkpoints, logs and early samples of the training
"""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gen1_jax import pipeline as pipelines
from gen1_jax.data_pipelines.encoded.folders import find_encoded
from gen1_jax.data_pipelines.pictures import Pictures
from gen1_jax.data_pipelines.settings import Batches, EncodedData
from gen1_jax.data_pipelines.sources import complete
from gen1_jax.errors import UserError
from gen1_jax.files import read_json, write_json
from gen1_jax.pipeline import PARTS, SETTINGS_FILE, read_settings
from gen1_jax.structure_settings import read_recipe
from gen1_jax.training.lora import FOLDER
from gen1_jax.weights.folder import module_from_config, read_config
from gen1_jax.workflow import run_part

RECORD = "subject.json"  # in the training's folder: which pictures it is of
NO_DATA = "none"  # stands for no data of the original training
_USUAL = (15, 30)  # pictures, in the paper


def customize(
    config: ConfigDict,
    images: Path,
    model: Path,
    output: Path,
    data: Path | None = None,
    progress: bool = True,
) -> Path:
    """Customises a pipeline; one that was stopped goes on where it was.

    Args:
      config: a part `customize` or `customize_lora` of configs/; where its models, pictures and
        data are, is replaced.
      images: the folder of the pictures.
      model: the pipeline folder.
      output: the new pipeline folder.
      data: what the model was trained on, `gen1 precompute`d, ingested or rendered; None: the
        folder `encoded` beside the pipeline, if there is one; "none": no such data.
      progress: whether to show bars.

    Returns:
      The folder of the training.

    Raises:
      UserError: the pictures are too few or none, the pipeline or the data are not what they
        should be, or `output` is something else.
    """
    settings = read_settings(model)
    _check_output(output, model)
    workdir = training_folder(output)
    described = _describe_data(data, model)
    pictures = Pictures(images)
    _check_same(pictures, model, workdir)
    least, most = _USUAL
    if not least <= len(pictures) <= most:
        warnings.warn(f"{len(pictures)} pictures; {least} to {most} are usual", stacklevel=2)
    if described is None:
        warnings.warn(
            "no data of the original training (--data): every batch is of the subject alone, and "
            "other prompts and pictures are forgotten in part",
            stacklevel=2,
        )
    config = ConfigDict(config.to_dict())
    batches = {field.name for field in dataclasses.fields(Batches)} - {"num_frames"}
    kept = {name: value for name, value in config.data.to_dict().items() if name in batches}
    subject = workdir / "subject"
    if described is None:
        config.data = ConfigDict({**kept, "form": "encoded", "folder": str(subject)})
        config.eval_every = 0  # nothing is held out
    else:
        is_encoded = described["form"] == "encoded"
        config.data = ConfigDict(
            {**kept, **described, "subject": str(subject if is_encoded else images)}
        )
    if config.data.form == "encoded":
        sizes = _sizes(described, settings, model)
        _encode(images, sizes, settings, model, subject, config.dtype, progress)
    # ---- the training
    config.init_from = str(model / "unet")
    names = ("vae",) if config.data.form == "encoded" else ("vae", "clip", "depth")
    config.frozen = ConfigDict({name: str(model / name) for name in names})
    schedule = settings["schedule"]
    config.loss.zero_terminal_snr = bool(schedule.get("zero_terminal_snr", False))
    config.loss.prediction_type = schedule.get("prediction_type") or "v_prediction"
    if config.data.form != "encoded":
        for key, value in _recipe(settings, model).items():
            config[key] = ConfigDict(value)
    trained = workdir / config.name
    run_part(config, trained, progress)
    # ---- the pipeline
    folders = {name: model / name for name in PARTS} | {"unet": trained / "model"}
    if config.lora.rank:
        folders[FOLDER] = trained / FOLDER
    pipelines.assemble(folders, settings, output)
    return trained


def training_folder(output: Path) -> Path:
    """Returns the folder in which a new pipeline is trained."""
    return output.with_name(f"{output.name}.training")


# ---- checks


def _check_output(output: Path, model: Path) -> None:
    if output.resolve() == model.resolve():
        raise UserError(f"-o {output} is the pipeline itself; accepted: a new folder")
    begun = (training_folder(output) / RECORD).exists()
    if output.exists() and not begun and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"-o {output} exists; accepted: a new folder, or one of this command's")


def _check_same(pictures: Pictures, model: Path, workdir: Path) -> None:
    """Writes down which pictures a training is of, or checks that it is still the same.

    Raises:
      UserError: a file is no picture, or the pictures have changed since the training began.
    """
    now = {"pictures": len(pictures), "digest": pictures.digest(), "model": str(model.resolve())}
    before = read_json(workdir / RECORD)
    if before is None:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / RECORD, now)
    elif before != now:
        changed = next(key for key in now if before.get(key) != now[key])
        what = "another model" if changed == "model" else "other pictures"
        raise UserError(
            f"{workdir} was begun with {what}; accepted: the same, or another -o, or remove "
            f"{workdir} to begin anew"
        )


# ---- data


def _describe_data(folder: Path | None, model: Path) -> dict[str, Any] | None:
    """Returns the place of the original data, by its form; None: there are none.

    Raises:
      UserError: the folder holds no data.
    """
    if folder is None:
        beside = model.parent / "encoded"
        return _as_encoded(beside) if beside.is_dir() else None
    if str(folder) == NO_DATA:
        return None
    found = _as_encoded(folder) or _as_footage(folder) or _as_world(folder)
    if found is None:
        raise UserError(
            f"--data {folder} holds no data of training; accepted: a folder of `gen1 precompute`, "
            f"`gen1 ingest` or `gen1 world`, or {NO_DATA}"
        )
    return found


def _as_encoded(folder: Path) -> dict[str, Any] | None:
    clips, images = find_encoded(EncodedData(form="encoded", folder=str(folder)))
    if clips is None and not images:
        return None
    # `clips` also lies in a folder of footage, whose splits are not encoded.
    place = Path(clips or images[0])
    is_encoded = any((place / split / "meta.json").is_file() for split in ("train", "validation"))
    return {"form": "encoded", "folder": str(folder)} if is_encoded else None


def _as_footage(folder: Path) -> dict[str, Any] | None:
    from gen1_jax.data_pipelines.footage.reader import open_footage

    try:
        open_footage(str(folder))
    except UserError:
        return None
    return {"form": "footage", "folder": str(folder)}


def _as_world(folder: Path) -> dict[str, Any] | None:
    from gen1_jax.data_pipelines.moving_shapes.builder import built_configs

    builders = built_configs(folder)
    return {"form": "raw", "world": str(folder), "builder": builders[0]} if builders else None


def _sizes(
    described: Mapping[str, Any] | None, settings: Mapping[str, Any], model: Path
) -> tuple[tuple[int, int], ...]:
    """Returns the sizes in pixels, (height, width), that the subject is encoded at."""
    if described is None:
        return tuple(map(tuple, settings.get("sizes") or [settings["size"]]))
    data = complete(described)
    vae = module_from_config(read_config(model / "vae"), where=str(model / "vae"))
    sizes = data.image_buckets or data.buckets
    return tuple((h * vae.spatial_factor, w * vae.spatial_factor) for h, w in sizes)


def _recipe(settings: Mapping[str, Any], model: Path) -> dict[str, Any]:
    return read_recipe(settings, str(model / SETTINGS_FILE)).to_json()


def _encode(
    images: Path,
    sizes: tuple[tuple[int, int], ...],
    settings: Mapping[str, Any],
    model: Path,
    output: Path,
    dtype: str,
    progress: bool,
) -> None:
    """Encodes the pictures by the encoders of the pipeline."""
    config = {
        "kind": "encode",
        "data": {"form": "pictures", "folder": str(images), "sizes": sizes},
        "frozen": {name: str(model / name) for name in ("vae", "clip", "depth")},
        "tokenizer": "",
        "splits": ("train",),
        "levels_per_clip": 8,
        "batch_size": 1,
        "dtype": dtype,
        **_recipe(settings, model),
    }
    run_part(config, output, progress)
