"""From a pipeline folder to PyTorch: a diffusers pipeline that needs neither jax nor this project.

    unet/ (with its own source file) vae/ image_encoder/ text_encoder/ tokenizer/ depth_estimator/
    prior/ scheduler/ pipeline.py model_index.json README.md

Tensors are copied file to file, one shard in memory at a time.
"""

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from gen1_jax import __version__
from gen1_jax.conditioning import read_settings
from gen1_jax.config import DTYPES
from gen1_jax.diffusion.process import Schedule, make_schedule
from gen1_jax.errors import UserError
from gen1_jax.files import replacing_folder, write_json
from gen1_jax.weights.clip_towers import split_towers
from gen1_jax.weights.folder import (
    checked_tensors,
    module_from_config,
    read_config,
    write_model,
)
from gen1_jax.weights.naming import params_to_state_dict
from gen1_jax.weights.tensor_files import TensorFiles

MARKER = "model_index.json"
# The oldest diffusers that reads the folder, as model_index.json wants it.
_DIFFUSERS = "0.36.0"
_SOURCES = Path(__file__).parent / "pytorch"

# Folder of ours -> folder in the pipeline, where a part goes over whole.
_WHOLE = {"vae": "vae", "depth": "depth_estimator", "prior": "prior"}

Report = Callable[[str, int], None]  # (name of a tensor, its bytes), as it is read


def export_pipeline(
    source: Path,
    output: Path,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = 5 * 10**9,
    unet: tuple[Any, Mapping[str, Any], str] | None = None,
    report: Report = lambda name, size: None,
) -> dict[str, int]:
    """Writes the pipeline in `source` for PyTorch; whole or not at all.

    Args:
      source: a pipeline folder, as `gen1 all` and `gen1 import --pipeline` make it.
      output: where to; an earlier export there is replaced.
      dtype: of the written weights.
      max_shard_bytes: larger models are divided into shards.
      unet: (module, parameters, a word on where they are from) instead of the folder's own UNet.
      report: called for each tensor.

    Returns:
      Parameters of each part, by its folder's name in the pipeline.

    Raises:
      UserError: a part is missing, damaged or of another kind; or `output` cannot be written.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}; accepted: {', '.join(DTYPES)}")
    settings = read_settings(source)
    schedule = settings["schedule"]
    make_schedule(**schedule)  # says what is wrong with it
    for name in ("unet", "clip", *_WHOLE, "tokenizer"):
        if not (source / name).is_dir():
            raise UserError(f"{source} has no {name}; accepted: a whole pipeline folder")
    options = {"dtype": jnp.dtype(dtype), "max_shard_bytes": max_shard_bytes}
    counts = {}
    with replacing_folder(output, MARKER) as new:

        def write(name: str, config: Mapping[str, Any], tensors: Mapping[str, Any], shapes) -> None:
            (new / name).mkdir()
            write_model(new / name, config, shapes, Reported(tensors, report), **options)
            counts[name] = sum(math.prod(shape) for shape in shapes.values())

        if unet is None:
            config, tensors = read_model(source / "unet", "VideoUNet")
            shapes = tensors.shapes
            origin = "the pipeline's own (a moving average of training's, if `gen1 all` made it)"
        else:
            module, params, origin = unet
            config, tensors = module.to_config(), params_to_state_dict(params)
            _check_unet(config, read_config(source / "unet"))
            shapes = {name: array.shape for name, array in tensors.items()}
        write("unet", config, tensors, shapes)
        kinds = {"vae": "AutoencoderKL", "depth": "DPTForDepthEstimation"}
        for name, folder in _WHOLE.items():
            kind = kinds.get(name, "PriorTransformer")
            config, tensors = read_model(source / name, kind)
            write(folder, config, tensors, tensors.shapes)
        config, tensors = read_model(source / "clip", "CLIPModel")
        towers = split_towers(config, tensors)
        for folder, part in (("text_encoder", "text_config"), ("image_encoder", "vision_config")):
            tower = towers[part]
            shapes = {name: tensors.shapes[name] for name in tower.names}
            write(folder, tower.config, tensors, shapes)
        shutil.copytree(source / "tokenizer", new / "tokenizer")
        (new / "scheduler").mkdir()
        write_json(new / "scheduler" / "scheduler_config.json", scheduler_config(settings))
        write_json(new / MARKER, model_index(settings))
        shutil.copyfile(_SOURCES / "video_unet.py", new / "unet" / "video_unet.py")
        shutil.copyfile(_SOURCES / "pipeline.py", new / "pipeline.py")
        card = model_card(settings, counts, dtype, origin)
        (new / "README.md").write_text(card, encoding="utf-8")
    return counts


def _check_unet(config: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises UserError where another UNet does not fit the rest of the pipeline."""
    for name in ("_class_name", "in_channels", "out_channels", "cross_attention_dim"):
        if config.get(name) != own.get(name):
            raise UserError(
                f"the run's model has {name}={config.get(name)!r}; this pipeline's UNet has "
                f"{own.get(name)!r}"
            )


def read_model(folder: Path, kind: str) -> tuple[dict[str, Any], TensorFiles]:
    """A model folder's config and tensors, checked against each other, in our names.

    Raises:
      UserError: another kind of model, or damaged.
    """
    module = module_from_config(read_config(folder), where=str(folder))
    if type(module).__name__ != kind:
        raise UserError(f"{folder} holds {type(module).__name__}; accepted: {kind}")
    return module.to_config(), checked_tensors(folder, module)


class Reported(Mapping):
    """Tensors that report when they are read."""

    def __init__(self, tensors: Mapping[str, np.ndarray], report: Report):
        self._tensors, self._report = tensors, report

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._tensors[name]
        self._report(name, array.nbytes)
        return array

    def __iter__(self):
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


# ---------------------------------------------------------------- the small files


def scheduler_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """diffusers' DDIMScheduler with our schedule's numbers."""
    schedule: Schedule = make_schedule(**settings["schedule"])
    given = settings["schedule"]
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": _DIFFUSERS,
        "num_train_timesteps": schedule.num_timesteps,
        "beta_start": given.get("beta_start", 0.00085),
        "beta_end": given.get("beta_end", 0.012),
        "beta_schedule": "scaled_linear",
        "rescale_betas_zero_snr": given.get("zero_terminal_snr", False),
        "prediction_type": schedule.prediction_type,
        "timestep_spacing": settings["spacing"],
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "clip_sample": False,
    }


def read_scheduler(config: Mapping[str, Any]) -> dict[str, Any]:
    """`schedule` and `spacing` of gen1.json from a scheduler_config.json; undoes the above."""
    wanted = {"beta_schedule": "scaled_linear", "set_alpha_to_one": False, "clip_sample": False}
    for name, value in wanted.items():
        if config.get(name) != value:
            raise UserError(
                f"scheduler_config.json has {name}={config.get(name)!r}; accepted: {value!r}"
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


def model_index(settings: Mapping[str, Any]) -> dict[str, Any]:
    """model_index.json: which class each part is of, and the pipeline's settings."""
    prior = settings["prior"]
    return {
        "_class_name": ["pipeline", "Gen1Pipeline"],
        "_diffusers_version": _DIFFUSERS,
        "unet": ["video_unet", "VideoUNet"],
        "vae": ["diffusers", "AutoencoderKL"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "depth_estimator": ["transformers", "DPTForDepthEstimation"],
        "prior": ["diffusers", "PriorTransformer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "size": tuple(settings["size"]),
        "num_frames": settings["num_frames"],
        "guidance_scale": settings["guidance_scale"],
        "prior_num_steps": prior["num_steps"],
        "prior_guidance_scale": prior["guidance_scale"],
        "prior_clamp": prior.get("clamp", 5.0),
    }


def model_card(
    settings: Mapping[str, Any], counts: Mapping[str, int], dtype: str, origin: str
) -> str:
    """README.md of the exported folder."""
    height, width = settings["size"]
    rows = "\n".join(f"| `{name}` | {count:,} |" for name, count in counts.items())
    return f"""---
library_name: diffusers
tags: [video-editing, video-to-video, gen-1, depth]
---

# A Gen-1 video editing pipeline

Structure- and content-guided video synthesis ([arXiv 2302.03011](https://arxiv.org/abs/2302.03011)):
the result keeps the depth of the input video and takes its content from a text prompt or a picture.
Exported by gen1-jax {__version__}; it needs `torch`, `diffusers` and `transformers` only (and
`imageio imageio-ffmpeg` for diffusers to read and write videos).

```python
from diffusers import DiffusionPipeline
from diffusers.utils import export_to_video, load_video

folder = "."  # this folder
pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
frames = load_video("clip.mp4")[:{settings["num_frames"]}]
edit = pipe(frames, prompt="…", height={height}, width={width})
export_to_video(list(edit.frames), "out.mp4", fps=8)
```

| control | argument | |
|---|---|---|
| structure | `structure_level` | 0 keeps every detail of the depth … 7 nearly nothing |
| time | `temporal_scale` | above 1 smoother over time, 0 each frame for itself |
| content | `guidance_scale` | how strictly prompt or picture are followed; default {
        settings["guidance_scale"]
    } |

Trained on clips of {settings["num_frames"]} frames at {height} x {width}. Weights are {
        dtype
    }; the UNet's are
{origin}.

| part | parameters |
|---|---|
{rows}

`unet/video_unet.py` is the whole UNet in plain PyTorch; its tensors without "temporal" in their
names load into diffusers' `UNet2DConditionModel`. The other parts are stock classes.
"""
