"""Checks of what a caller gives for an edit. A ValueError says what is accepted."""

import inspect
import math
import numbers
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, SchedulerMixin
from torch import Tensor

from .gen1_structure import NUM_LEVELS

OUTPUT_TYPES = ("np", "pt", "pil", "uint8", "latent")


def check_inputs(
    pipe: DiffusionPipeline,
    prompt: Any,
    image: Any,
    image_embeds: Any,
    negative_prompt: Any,
    maps: Any,
    generator: Any,
    video_fit: str,
    output_type: str,
    callback_on_step_end: Any,
    callback_on_step_end_tensor_inputs: Any,
    no_structure: bool = False,
) -> None:
    """Raises ValueError about the first argument that is not accepted; see `check_numbers` too."""
    if sum(x is not None for x in (prompt, image, image_embeds)) != 1:
        raise ValueError("give either a prompt or an image to take the content from")
    for name, words in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        is_listed = isinstance(words, (list, tuple)) and all(isinstance(x, str) for x in words)
        if words is not None and not isinstance(words, str) and not is_listed:
            raise ValueError(f"{name} {words!r}; a text or a list of texts")
        for text in as_list("" if words is None else words):
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ValueError(f"{name} {text!a} is no Unicode text")
    if prompt is not None and not all(x.strip() for x in as_list(prompt)):
        raise ValueError("the prompt is empty; say what the video should look like")
    needed = {"unet", "vae", "scheduler"}
    if maps is None and not no_structure:
        needed |= {"depth_estimator"}
    needed |= (
        set() if prompt is None and not negative_prompt else {"tokenizer", "text_encoder", "prior"}
    )
    needed |= set() if image is None else {"image_encoder"}
    for name in sorted(needed):
        if getattr(pipe, name) is None:
            raise ValueError(f"this needs {name}, which the pipeline was loaded without")
    if image_embeds is not None:
        check_tensor("image_embeds", image_embeds)
        width = pipe.unet.config.cross_attention_dim
        if image_embeds.ndim != 2 or image_embeds.shape[1] != width:
            raise ValueError(f"image_embeds of {tuple(image_embeds.shape)}; [b {width}]")
    generators = generator if isinstance(generator, (list, tuple)) else [generator]
    if generator is not None and not all(isinstance(x, torch.Generator) for x in generators):
        raise ValueError(f"generator {generator!r}; a torch.Generator, or a list of them")
    if video_fit not in ("crop", "pad"):
        raise ValueError(f"video_fit {video_fit!r}; crop or pad")
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type {output_type!r}; {', '.join(OUTPUT_TYPES)}")
    if callback_on_step_end is not None and not callable(callback_on_step_end):
        raise ValueError(f"callback_on_step_end {callback_on_step_end!r}; a function")
    for name in callback_on_step_end_tensor_inputs:
        if name not in pipe._callback_tensor_inputs:
            accepted = ", ".join(pipe._callback_tensor_inputs)
            raise ValueError(f"callback_on_step_end_tensor_inputs {name!r}; {accepted}")
    check_scheduler(pipe.scheduler, pipe.config.trained_schedule)


def by_its_name(name: str, value: Any, earlier_name: str, earlier: Any) -> Any:
    """Returns an argument that may have been given by an earlier name; both raise ValueError."""
    if value is not None and earlier is not None:
        raise ValueError(f"give {name} alone; {earlier_name} is an earlier name of it")
    return earlier if value is None else value


def check_structure(
    config: Mapping[str, Any], maps: Any, no_structure: bool, structure_level: int
) -> None:
    """Raises ValueError if the model was not trained for what a caller wants of its structure.

    Args:
      config: the pipeline's.
      maps: the caller's own maps, or None.
      no_structure: whether there is none.
      structure_level: t_s.
    """
    if not isinstance(no_structure, bool):
        raise ValueError(f"no_structure {no_structure!r}; True or False")
    if no_structure and not config.get("structure_drop_rate"):
        raise ValueError("no_structure: this model was not trained to do without structure")
    if no_structure and (maps is not None or structure_level):
        raise ValueError("no_structure leaves nothing for structure and structure_level to say")
    kind = (config.get("structure") or {}).get("extractor", "depth")
    if kind != "depth" and maps is None and not no_structure:
        raise ValueError(
            f"this model was trained on structure of {kind}, which this pipeline does not make; "
            "give it: structure"
        )


def check_numbers(
    pipe: DiffusionPipeline,
    structure_level: int,
    temporal_scale: float,
    guidance_scale: float | None,
    per_frame: bool,
    height: int | None,
    width: int | None,
    num_inference_steps: int,
    num_videos_per_prompt: int,
    eta: float,
    decode_chunk_size: int | None,
    window: int | None,
    overlap: int | None,
    window_stride: int,
) -> None:
    """Raises ValueError about the first number that is not accepted."""
    num_timesteps = pipe.scheduler.config.num_train_timesteps
    for name, value, least, most in (
        ("structure_level", structure_level, 0, NUM_LEVELS - 1),
        ("height", height, 1, None),
        ("width", width, 1, None),
        ("num_inference_steps", num_inference_steps, 1, num_timesteps),
        ("num_videos_per_prompt", num_videos_per_prompt, 1, None),
        ("decode_chunk_size", decode_chunk_size, 1, None),
        ("window", window, 1, getattr(pipe.unet.config, "max_frames", None)),
        ("overlap", overlap, 0, (window or pipe.config.num_frames) - 1),
        ("window_stride", window_stride, 1, None),
    ):
        optional = ("height", "width", "decode_chunk_size", "window", "overlap")
        if value is None and name in optional:
            continue
        whole = isinstance(value, numbers.Integral)  # also of NumPy
        if not whole or value < least or (most is not None and value > most):
            accepted = f"{least} or more" if most is None else f"{least} to {most}"
            raise ValueError(f"{name} {value!r}; a whole number, {accepted}")
    scales = {"temporal_scale": temporal_scale, "guidance_scale": guidance_scale, "eta": eta}
    for name, value in scales.items():
        if value is None and name == "guidance_scale":
            continue
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ValueError(f"{name} {value!r}; a finite number")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta {eta}; 0 to 1")
    if per_frame and temporal_scale != 1:
        raise ValueError("temporal_scale has no effect with per_frame; give one of them")


def check_tensor(name: str, value: Any) -> None:
    """Raises ValueError if something is no tensor of finite floats."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} of {kind}; a tensor of floats")
    if not value.isfinite().all():
        raise ValueError(f"{name}: not all numbers are finite")


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
    parameters = list(inspect.signature(scheduler.step).parameters.values())
    needs = [x.name for x in parameters[3:] if x.default is x.empty and x.kind is not x.VAR_KEYWORD]
    if needs:
        raise ValueError(f"{name} needs {' and '.join(needs)} in each step, which no edit has")


def check_timesteps(scheduler: SchedulerMixin) -> None:
    """Raises ValueError if a scheduler, whose timesteps are set, goes from data to noise."""
    if scheduler.timesteps[0] < scheduler.timesteps[-1]:
        name = type(scheduler).__name__
        raise ValueError(f"{name} makes data into noise; DDIM, Euler, DPM++, UniPC or alike")


def as_list(value: Any) -> list:
    """Returns a text, or a list of texts, as a list."""
    return [value] if isinstance(value, str) else list(value)
