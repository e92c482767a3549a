"""From a pipeline folder to PyTorch: a diffusers pipeline that needs neither jax nor this project.

    unet/ (with its own source file) vae/ image_encoder/ text_encoder/ tokenizer/ depth_estimator/
    prior/ scheduler/ pipeline.py gen1_*.py model_index.json README.md

Tensors are copied from file to file, with one shard in memory at a time.
"""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from gen1_jax import __version__
from gen1_jax.config import DTYPES
from gen1_jax.diffusion.process import make_schedule
from gen1_jax.errors import UserError
from gen1_jax.files import replacing_folder
from gen1_jax.models.clip import with_end_token
from gen1_jax.pipeline import MODELS, PARTS, SETTINGS_FILE, read_settings
from gen1_jax.structure_settings import read_recipe
from gen1_jax.tokenizer import load_tokenizer
from gen1_jax.video.selection import ordinal
from gen1_jax.weights.clip_towers import split_towers
from gen1_jax.weights.folder import read_config, read_model, write_model
from gen1_jax.weights.naming import params_to_state_dict
from gen1_jax.weights.pipeline_index import write_index
from gen1_jax.weights.public import MODEL_INDEX
from gen1_jax.weights.tensor_files import Report, ReportedTensors, ignore_report

_SOURCES = Path(__file__).parent / "pytorch"


def export_pipeline(
    source: Path,
    output: Path,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = 5 * 10**9,
    unet: tuple[Any, Mapping[str, Any], str] | None = None,
    report: Report = ignore_report,
) -> dict[str, int]:
    """Writes the pipeline in `source` for PyTorch, atomically.

    Args:
      source: a pipeline folder, as `gen1 all` and `gen1 import --pipeline` make it.
      output: the folder to write; an earlier export there is replaced.
      dtype: the type of the written weights.
      max_shard_bytes: larger models are divided into shards.
      unet: (module, parameters, a word on their origin), to be written instead of the UNet in
        `source`.
      report: called with the name and the size in bytes of each tensor that is read.

    Returns:
      The number of parameters of each model, by its folder in the export.

    Raises:
      UserError: a part is missing, damaged or of another kind; or `output` cannot be written.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}; accepted: {', '.join(DTYPES)}")
    settings = read_settings(source)
    make_schedule(**settings["schedule"])  # raises if a setting is wrong
    recipe = read_recipe(settings, str(source / SETTINGS_FILE))
    if recipe.degrading != "blur":
        raise UserError(
            f"{source}: its structure is degraded by {recipe.degrading}; the exported pipeline "
            "knows blur alone"
        )
    for name in PARTS:
        if not (source / name).is_dir():
            raise UserError(f"{source} has no {name}; accepted: a whole pipeline folder")
    options = {"dtype": jnp.dtype(dtype), "max_shard_bytes": max_shard_bytes}
    origin = "the pipeline's own (the moving average of training, if `gen1 all` made it)"
    # ---- the models, of which headers and shapes alone are read here
    models = []  # (folder, config, tensors, shapes)
    for name, part in MODELS.items():
        if name == "unet" and unet is not None:
            module, params, origin = unet
            config, tensors = module.to_config(), params_to_state_dict(params)
            _check_unet(config, read_config(source / "unet"))
            shapes = {key: array.shape for key, array in tensors.items()}
        else:
            config, tensors = read_model(source / name, part.kind)
            shapes = tensors.shapes
        if name == "clip":
            config = with_end_token(config, load_tokenizer(source / "tokenizer").end_id)
            towers = split_towers(config, tensors)
            for folder, (_, kind) in part.exported.items():
                tower = towers[kind]
                models.append((folder, tower.config, tensors, {k: shapes[k] for k in tower.names}))
        else:
            (folder,) = part.exported
            models.append((folder, config, tensors, shapes))
    # ---- the files
    counts = {}
    with replacing_folder(output, MODEL_INDEX) as new:
        for folder, config, tensors, shapes in models:
            (new / folder).mkdir()
            write_model(new / folder, config, shapes, ReportedTensors(tensors, report), **options)
            counts[folder] = sum(math.prod(shape) for shape in shapes.values())
        shutil.copytree(source / "tokenizer", new / "tokenizer")
        write_index(new, settings, read_config(source / "prior"))
        shutil.copyfile(_SOURCES / "video_unet.py", new / "unet" / "video_unet.py")
        for path in (_SOURCES / "pipeline.py", *_SOURCES.glob("gen1_*.py")):
            shutil.copyfile(path, new / path.name)
        card = model_card(settings, counts, dtype, origin)
        (new / "README.md").write_text(card, encoding="utf-8")
    return counts


def _check_unet(config: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises UserError if another UNet does not fit the rest of the pipeline."""
    for name in ("_class_name", "in_channels", "out_channels", "cross_attention_dim"):
        if config.get(name) != own.get(name):
            raise UserError(
                f"the run's model has {name}={config.get(name)!r}; this pipeline's UNet has "
                f"{own.get(name)!r}"
            )


def model_card(
    settings: Mapping[str, Any], counts: Mapping[str, int], dtype: str, origin: str
) -> str:
    """Returns README.md of an exported pipeline.

    Args:
      settings: the content of gen1.json.
      counts: the number of parameters of each model.
      dtype: the type of the written weights.
      origin: a word on where the UNet's weights come from.
    """
    height, width = settings["size"]
    num_frames, stride = settings["num_frames"], settings.get("stride") or 1
    rate, taken, fps, pace = settings.get("frame_rate"), f":{num_frames}", 8, ""
    if stride > 1:
        taken = f":{num_frames * stride}:{stride}"
        pace = f", every {ordinal(stride)} frame of a video"
    if rate:
        fps = max(1, round(rate / stride))
        pace += f"{'' if pace else ', each frame of a video'} of {rate:g} frames a second"
    rows = "\n".join(f"| `{name}` | {count:,} |" for name, count in counts.items())
    kind = read_recipe(settings, SETTINGS_FILE).extractor
    kept, given = "depth of the input video", ""
    if kind != "depth":
        kept, given = f"structure ({kind}) that it is given", ", structure=maps"
    return f"""---
library_name: diffusers
tags: [video-editing, video-to-video, gen-1, depth]
---

# A Gen-1 video editing pipeline

Structure- and content-guided video synthesis ([arXiv 2302.03011](https://arxiv.org/abs/2302.03011)).
The edited video keeps the {kept}. Its content comes from a text prompt or a
picture. The pipeline was exported by gen1-jax {__version__}. It needs `torch`, `diffusers` and
`transformers` only, and `imageio imageio-ffmpeg` for diffusers to read and write videos.

```python
from diffusers import DiffusionPipeline
from diffusers.utils import export_to_video, load_video

folder = "."  # this folder
pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
video = load_video("clip.mp4")[{taken}]
edit = pipe(video, prompt="…"{given})
export_to_video(edit.frames[0], "out.mp4", fps={fps})
```

| control | argument | |
|---|---|---|
| structure | `structure_level` | 0 keeps every detail of it, 7 keeps nearly nothing |
| time | `temporal_scale` | above 1 is smoother over time; `per_frame=True` leaves time out |
| content | `guidance_scale` | how strictly prompt or picture are followed; default {
        settings["guidance_scale"]
    } |

The other arguments are those of diffusers' video pipelines, such as `negative_prompt`, `generator`,
`output_type`, `callback_on_step_end` and lists of prompts or videos; `help(pipe.__call__)` says
them. Every scheduler of diffusion serves that is made by `from_config(pipe.scheduler.config)`.
`enable_model_cpu_offload()` and `enable_sequential_cpu_offload()` work.

The model was trained on clips of {num_frames} frames at {height} x {width}{pace}.
The pipeline takes the frames that it is given, and leaves none out. Videos are scaled and cropped
to the size of training that is nearest in shape, unless `height` and `width` are given. The weights
are {dtype}. The UNet's weights are {origin}.

| model | parameters |
|---|---|
{rows}

`unet/video_unet.py` is the whole UNet in plain PyTorch. Its tensors without "temporal" in their
names load into diffusers' `UNet2DConditionModel`. The other parts are stock classes.

## Intended use

For research on video editing, and for edits of videos that you may edit. It is not for videos of
people who have not agreed, nor to pass a synthetic video off as a recording.

## Limits

The model paints what it was trained on, and knows nothing else; what its data held too little or
too one-sidedly of, it draws so too. It keeps the structure map, and not what the map does not hold:
faces, writing and fine texture of the input are lost. docs/results.md of gen1-jax has the measured
limits of its own trained models, with the commands: whether the edit has the colour that was asked
for, how well depth and consistency over time stay. Nothing was measured of other weights. Whoever
publishes weights should say here what they were trained on.

## Against abuse

Files of `gen1 edit` say in their metadata that they are synthetic. Signed content credentials
(C2PA) and an invisible mark, which `gen1 detect` finds, are written on request. Metadata are easily
removed, and so is the mark by whoever has its source code. This PyTorch pipeline returns frames
only, so what writes them to a file has to say it. Prompts and inputs are not filtered.
"""
