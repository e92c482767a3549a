"""The settings of a pipeline as diffusers writes them: model_index.json, scheduler_config.json.

Exporting writes the two files from gen1.json; importing makes gen1.json from them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen1_jax.diffusion.process import Schedule, make_schedule
from gen1_jax.errors import UserError
from gen1_jax.files import read_json, write_json
from gen1_jax.models.prior import CLAMP, read_own
from gen1_jax.pipeline import PARTS, SETTINGS_FILE
from gen1_jax.weights.public import MODEL_INDEX, fitting_flags, pipeline_class

SCHEDULER_FILE = Path("scheduler") / "scheduler_config.json"
_PIPELINE_CLASS = ["pipeline", "Gen1Pipeline"]
# The oldest diffusers that reads the folder.
_DIFFUSERS = "0.36.0"
# Settings of diffusers' DDIMScheduler that our schedule always has.
_FIXED_SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "clip_sample": False,
}
_PRIOR_SETTINGS = ("num_steps", "guidance_scale", "clamp")
_PLAIN_SETTINGS = ("size", "num_frames", "guidance_scale")
# Settings that earlier pipelines lack.
_LATER_SETTINGS = ("sizes", "stride", "frame_rate", "depth", "structure", "structure_drop_rate")
# What says to any scheduler of diffusers which process the UNet was trained for.
_TRAINED_SCHEDULE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "rescale_betas_zero_snr",
    "prediction_type",
)


def write_index(folder: Path, settings: Mapping[str, Any], prior: Mapping[str, Any]) -> None:
    """Writes the two files into an exported pipeline.

    Args:
      folder: the exported pipeline.
      settings: the content of gen1.json.
      prior: the content of config.json of the prior.
    """
    write_json(folder / SCHEDULER_FILE, scheduler_config(settings))
    write_json(folder / MODEL_INDEX, model_index(settings, prior))


def read_index(folder: Path) -> dict[str, Any]:
    """Returns the content of gen1.json from the two files of an exported pipeline.

    Raises:
      UserError: `folder` is no export of ours, or one of the files is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; accepted: a folder that `gen1 export` wrote")
    if (folder / SETTINGS_FILE).exists():
        raise UserError(f"{folder} is a pipeline of ours already, which needs no import")
    index = _read(folder / MODEL_INDEX)
    if index.get("_class_name") != _PIPELINE_CLASS:
        flags = fitting_flags(folder)
        parts = (
            f"take its parts: gen1 import {flags} -o RUN" if flags else "it holds no part of ours"
        )
        raise UserError(
            f"{folder} is a {pipeline_class(index)}, not what `gen1 export` writes; {parts}"
        )
    scheduler = _read(folder / SCHEDULER_FILE)
    try:
        return {
            **read_schedule(scheduler),
            **{name: index[name] for name in _PLAIN_SETTINGS},
            **{name: index[name] for name in _LATER_SETTINGS if index.get(name) is not None},
            "prior": {name: index[f"prior_{name}"] for name in _PRIOR_SETTINGS},
        }
    except KeyError as error:
        raise UserError(f"{folder / MODEL_INDEX} or its scheduler lacks {error}") from error


def model_index(settings: Mapping[str, Any], prior: Mapping[str, Any]) -> dict[str, Any]:
    """Returns model_index.json: the class of each part, and the settings of the pipeline."""
    sampling, schedule = dict(settings["prior"]), scheduler_config(settings)
    if sampling.get("clamp") is None:
        sampling["clamp"] = read_own(prior).get(CLAMP, 5.0)
    return {
        "_class_name": _PIPELINE_CLASS,
        "_diffusers_version": _DIFFUSERS,
        **{folder: place for part in PARTS.values() for folder, place in part.exported.items()},
        "scheduler": ("diffusers", "DDIMScheduler"),
        **{name: settings[name] for name in _PLAIN_SETTINGS},
        **{name: settings[name] for name in _LATER_SETTINGS if settings.get(name) is not None},
        "trained_schedule": {name: schedule[name] for name in _TRAINED_SCHEDULE},
        **{f"prior_{name}": sampling[name] for name in _PRIOR_SETTINGS},
    }


def scheduler_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of diffusers' DDIMScheduler with the numbers of our schedule."""
    given = settings["schedule"]
    schedule: Schedule = make_schedule(**given)
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": _DIFFUSERS,
        "num_train_timesteps": schedule.num_timesteps,
        "beta_start": given.get("beta_start", 0.00085),
        "beta_end": given.get("beta_end", 0.012),
        "beta_schedule": _FIXED_SCHEDULE["beta_schedule"],
        "rescale_betas_zero_snr": given.get("zero_terminal_snr", False),
        "prediction_type": schedule.prediction_type,
        "timestep_spacing": settings["spacing"],
        "steps_offset": 1,
        "set_alpha_to_one": _FIXED_SCHEDULE["set_alpha_to_one"],
        "clip_sample": _FIXED_SCHEDULE["clip_sample"],
    }


def read_schedule(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `schedule` and `spacing` of gen1.json; the inverse of `scheduler_config`.

    Raises:
      UserError: a setting that our schedule does not have.
      KeyError: a setting is missing.
    """
    for name, value in _FIXED_SCHEDULE.items():
        if config.get(name) != value:
            raise UserError(
                f"{SCHEDULER_FILE.name} has {name}={config.get(name)!r}; accepted: {value!r}"
            )
    return {
        "schedule": {
            "num_timesteps": config["num_train_timesteps"],
            "beta_start": config["beta_start"],
            "beta_end": config["beta_end"],
            "zero_terminal_snr": config["rescale_betas_zero_snr"],
            "prediction_type": config["prediction_type"],
        },
        "spacing": config["timestep_spacing"],
    }


def read_prediction_type(unet: Path) -> str | None:
    """Returns what a public UNet predicts, by the scheduler beside its folder, if there is one."""
    config = read_json(unet.parent / SCHEDULER_FILE)
    return None if config is None else config.get("prediction_type", "epsilon")


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if content is None:
        raise UserError(f"no {path.name} in {path.parent}; it is no exported pipeline")
    return content
