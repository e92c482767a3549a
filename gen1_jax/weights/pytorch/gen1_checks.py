"""Checks of what a caller gives for an edit. A ValueError says what is accepted."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, SchedulerMixin

from .gen1_structure import NUM_LEVELS

OUTPUT_TYPES = ("np", "pt", "pil", "uint8", "latent")


def check_inputs(
    pipe: DiffusionPipeline,
    prompt: Any,
    image: Any,
    image_embeds: Any,
    negative_prompt: Any,
    structure_level: int,
    temporal_scale: float,
    guidance_scale: float | None,
    per_frame: bool,
    video_fit: str,
    num_inference_steps: int,
    depth: Any,
    output_type: str,
    callback_on_step_end_tensor_inputs: Any,
) -> None:
    """Raises ValueError about the first argument that is not accepted."""
    if sum(x is not None for x in (prompt, image, image_embeds)) != 1:
        raise ValueError("give either a prompt or an image to take the content from")
    for words in (prompt, negative_prompt):
        is_listed = isinstance(words, (list, tuple)) and all(isinstance(x, str) for x in words)
        if words is not None and not isinstance(words, str) and not is_listed:
            raise ValueError(f"prompt {words!r}; a text or a list of texts")
    if prompt is not None and not all(x.strip() for x in as_list(prompt)):
        raise ValueError("the prompt is empty; say what the video should look like")
    if negative_prompt is not None and prompt is None:
        raise ValueError("negative_prompt needs a prompt: a picture is taken as it is")
    needed = {"unet", "vae", "scheduler"}
    needed |= set() if depth is not None else {"depth_estimator"}
    needed |= set() if prompt is None else {"tokenizer", "text_encoder", "prior"}
    needed |= set() if image is None else {"image_encoder"}
    for name in sorted(needed):
        if getattr(pipe, name) is None:
            raise ValueError(f"this needs {name}, which the pipeline was loaded without")
    if structure_level not in range(NUM_LEVELS):
        raise ValueError(f"structure_level {structure_level}; 0 to {NUM_LEVELS - 1}")
    for name, scale in (("temporal_scale", temporal_scale), ("guidance_scale", guidance_scale)):
        if scale is not None and not math.isfinite(scale):
            raise ValueError(f"{name} {scale}; a finite number")
    if per_frame and temporal_scale != 1:
        raise ValueError("temporal_scale has no effect with per_frame; give one of them")
    if video_fit not in ("crop", "pad"):
        raise ValueError(f"video_fit {video_fit!r}; crop or pad")
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type {output_type!r}; {', '.join(OUTPUT_TYPES)}")
    for name in callback_on_step_end_tensor_inputs:
        if name not in pipe._callback_tensor_inputs:
            accepted = ", ".join(pipe._callback_tensor_inputs)
            raise ValueError(f"callback_on_step_end_tensor_inputs {name!r}; {accepted}")
    check_scheduler(pipe.scheduler, pipe.config.trained_schedule)
    num_timesteps = pipe.scheduler.config.num_train_timesteps
    if num_inference_steps not in range(1, num_timesteps + 1):
        raise ValueError(f"num_inference_steps {num_inference_steps}; 1 to {num_timesteps}")


def check_scheduler(scheduler: SchedulerMixin, trained: Mapping[str, Any] | None) -> None:
    """Raises ValueError if a scheduler runs another process than the UNet was trained for.

    Args:
      scheduler: any of diffusers'.
      trained: what says the process to a `DDIMScheduler`; None in exports before it was stored.
    """
    if trained is None:
        return
    name, config = type(scheduler).__name__, scheduler.config
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None or config.get("use_flow_sigmas"):
        raise ValueError(f"{name} is no scheduler of diffusion; DDIM, Euler, DPM++, UniPC or alike")
    fix = f"{name}.from_config(pipe.scheduler.config) makes one that fits"
    if config.get("prediction_type") != trained["prediction_type"]:
        raise ValueError(
            f"{name} has prediction_type {config.get('prediction_type')!r}, and the UNet predicts "
            f"{trained['prediction_type']!r}; {fix}"
        )
    expected = DDIMScheduler(**trained).alphas_cumprod
    if alphas.shape != expected.shape or not torch.allclose(alphas.cpu(), expected, atol=1e-6):
        raise ValueError(f"{name} has another noise schedule than the training had; {fix}")


def as_list(value: Any) -> list:
    """Returns a text, or a list of texts, as a list."""
    return [value] if isinstance(value, str) else list(value)
