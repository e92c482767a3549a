"""The folder of Stable Diffusion 2's depth model, as diffusers publishes it."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from gen1_jax.errors import UserError
from gen1_jax.files import read_json
from gen1_jax.models.autoencoder import AutoencoderKL
from gen1_jax.models.clip import CLIPTextConfig, TextModel
from gen1_jax.models.config import read_config as checked_fields
from gen1_jax.models.unet import VideoUNet
from gen1_jax.tokenizer import Tokenizer, load_tokenizer
from gen1_jax.weights.digest import digest_params
from gen1_jax.weights.folder import load_model, param_template, read_config
from gen1_jax.weights.naming import state_dict_to_params
from gen1_jax.weights.pipeline_index import SCHEDULER_FILE
from gen1_jax.weights.public import MODEL_INDEX, pipeline_class
from gen1_jax.weights.tensor_files import TensorFiles

PIPELINE_CLASS = "StableDiffusionDepth2ImgPipeline"
_DEPTH_CHANNELS = 1


@dataclasses.dataclass(frozen=True)
class DepthModel:
    """The parts that edit.

    Attributes:
      unet, vae, text: the modules.
      params: their parameters, by these names.
      tokenizer: of prompts.
      schedule: the arguments of `make_schedule`.
    """

    unet: VideoUNet
    vae: AutoencoderKL
    text: TextModel
    params: dict[str, Any]
    tokenizer: Tokenizer
    schedule: dict[str, Any]

    @property
    def digest(self) -> str:
        """Sixteen letters that tell models apart: of all parts and their settings."""
        known = {
            "params": digest_params(self.params),
            "modules": [self.unet.to_config(), self.vae.to_config()],
            "text": dataclasses.asdict(self.text.config),
            "tokens": self.tokenizer.describe(),
            "schedule": self.schedule,
        }
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def read_depth_model(folder: Path, dtype: Any = None) -> DepthModel:
    """Reads unet, vae, text_encoder, tokenizer and scheduler; depth_estimator is not read.

    Args:
      folder: the whole folder.
      dtype: the type that the modules compute in; None keeps the type of their inputs.

    Raises:
      UserError: a part is missing, of another kind, or does not fit the others.
    """
    index = read_json(folder / MODEL_INDEX)
    if index is not None and pipeline_class(index) != PIPELINE_CLASS:
        raise UserError(f"{folder} is a {pipeline_class(index)}; accepted: a {PIPELINE_CLASS}")
    schedule = _read_schedule(folder / SCHEDULER_FILE)
    tokenizer = load_tokenizer(folder / "tokenizer")
    unet, unet_params = _load(folder / "unet", VideoUNet, dtype)
    vae, vae_params = _load(folder / "vae", AutoencoderKL, dtype)
    text, text_params = _load_text(folder / "text_encoder", dtype)
    latents, config = vae.latent_channels, text.config
    longest, largest = config.max_position_embeddings, config.vocab_size
    for part, what, got, fits, accepted in (
        ("unet", "in_channels", unet.in_channels, unet.in_channels == latents + _DEPTH_CHANNELS,
         latents + _DEPTH_CHANNELS),
        ("unet", "out_channels", unet.out_channels, unet.out_channels == latents, latents),
        ("unet", "cross_attention_dim", unet.cross_attention_dim,
         unet.cross_attention_dim == config.hidden_size, config.hidden_size),
        ("tokenizer", "context length", tokenizer.context_length,
         tokenizer.context_length <= longest, f"up to {longest}"),
        ("tokenizer", "number of tokens", tokenizer.vocab_size,
         tokenizer.vocab_size <= largest, f"up to {largest}"),
    ):  # fmt: skip
        if not fits:
            raise UserError(f"{folder / part}: {what} is {got}; accepted: {accepted}")
    params = {"unet": unet_params, "vae": vae_params, "text": text_params}
    return DepthModel(unet, vae, text, params, tokenizer, schedule)


def _load(folder: Path, kind: type, dtype: Any) -> tuple[Any, dict[str, Any]]:
    module, params = load_model(folder, dtype=dtype)
    if not isinstance(module, kind):
        raise UserError(f"{folder} holds {type(module).__name__}; accepted: {kind.__name__}")
    return module, params


def _load_text(folder: Path, dtype: Any) -> tuple[TextModel, dict[str, Any]]:
    """Reads a CLIPTextModel of transformers, whose tensors newer versions name without a prefix."""
    config = read_config(folder)
    if config.get("model_type") != "clip_text_model":
        raise UserError(f"{folder} holds {config.get('model_type')!r}; accepted: a CLIPTextModel")
    fields = checked_fields(CLIPTextConfig, config, ignore_unknown=True)
    module, tensors = TextModel(CLIPTextConfig(**fields), dtype), TensorFiles(folder)
    names = {name.removeprefix("text_model."): name for name in tensors}
    plain = {name: tensors[own] for name, own in names.items()}
    what = f"weights in {folder} do not fit its config.json (CLIPTextModel)"
    return module, state_dict_to_params(plain, param_template(module), what)


def _read_schedule(path: Path) -> dict[str, Any]:
    """Returns the arguments of `make_schedule`. Which sampler the file names plays no part."""
    config = read_json(path)
    if config is None:
        raise UserError(f"no {path}; accepted: the whole folder of a {PIPELINE_CLASS}")
    wanted = {"beta_schedule": "scaled_linear", "trained_betas": None}
    for name, value in wanted.items():
        if config.get(name) != value:
            raise UserError(f"{path} has {name}={config.get(name)!r}; accepted: {value!r}")
    try:
        return {
            "num_timesteps": int(config.get("num_train_timesteps", 1000)),
            "beta_start": float(config["beta_start"]),
            "beta_end": float(config["beta_end"]),
            "zero_terminal_snr": bool(config.get("rescale_betas_zero_snr")),
            "prediction_type": config.get("prediction_type", "epsilon"),  # diffusers' default
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} has a wrong setting: {error}") from error
