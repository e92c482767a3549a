"""The objective of each model: its loss, and what surrounds the loss. One loop trains them all.

A loss is `loss(params, encoder_params, batch, key) → (scalar, metrics)`.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange

from gen1_jax.batch import Batch
from gen1_jax.conditioning import Conditioner, EncoderParams
from gen1_jax.diffusion import prior as prior_diffusion
from gen1_jax.diffusion.process import make_schedule, min_snr_weight, q_sample, target
from gen1_jax.diffusion.structure import drop_structure, model_input
from gen1_jax.errors import UserError
from gen1_jax.models.preprocess import preprocess_for_clip, preprocess_for_depth
from gen1_jax.training import previews
from gen1_jax.training.lora import LoraModule, save_merged
from gen1_jax.training.statistics import gather_statistics
from gen1_jax.weights.folder import save_model

Params = Any
Loss = Callable[[Params, EncoderParams, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def _keep(params: Params, encoder_params: EncoderParams, batches: Iterator[Batch]) -> Params:
    return params


def _keep_module(module: nn.Module, params: Params, batches: Iterator[Batch]) -> nn.Module:
    return module


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss, and what surrounds it.

    Attributes:
      loss: the training loss.
      preview: pictures or numbers of a fixed batch, or None.
      prepares: "/"-paths of the parameters that `prepare` sets.
      prepare: runs before the first step, on all processes, and sets new parameters: those that are
        statistics of the data (the prior's mean and deviation), or start elsewhere than others.
      finish: runs after the last step, on all processes, where the model did not start from
        another, and sets settings that are statistics of the trained model (the autoencoder's
        scale).
      runs_encoders: whether the loss of this batch runs frozen encoders, if there are any.
      save: (folder, module, params), writes the finished model.
    """

    loss: Loss
    preview: previews.Preview | None = None
    prepares: tuple[str, ...] = ()
    prepare: Callable[[Params, EncoderParams, Iterator[Batch]], Params] = _keep
    finish: Callable[[nn.Module, Params, Iterator[Batch]], nn.Module] = _keep_module
    runs_encoders: Callable[[Batch], bool] = lambda batch: True
    save: Callable[[Path, nn.Module, Params], None] = save_model


def make_objective(
    name: str,
    module: nn.Module,
    conditioner: Conditioner,
    settings: dict[str, Any],
    null_tokens: Any = None,
) -> Objective:
    """Returns the objective `name` with its `settings`.

    Args:
      name: a name in `OBJECTIVES`.
      module: the module that is trained.
      conditioner: the frozen encoders.
      settings: keywords of the objective.
      null_tokens: tokens of the empty text [1 l], which the prior needs.

    Raises:
      UserError: an unknown name or setting.
    """
    if name not in OBJECTIVES:
        raise UserError(f"unknown objective {name!r}; accepted: {', '.join(OBJECTIVES)}")
    make = OBJECTIVES[name]
    accepted = make.__kwdefaults__ or {}
    unknown = sorted(set(settings) - set(accepted))
    if unknown:
        raise UserError(
            f"objective {name} has no setting {unknown[0]!r}; accepted: {', '.join(accepted)}"
        )
    if name == "prior":
        return prior(module, conditioner, null_tokens, **settings)
    return make(module, conditioner, **settings)


# ---- autoencoder


def autoencoder(
    module: nn.Module,
    conditioner: Conditioner,
    *,
    kl_weight: float = 1e-6,
    initial_logvar: float = -6.0,
    calibration_examples: int = 1024,
) -> Objective:
    """Trains an autoencoder: mean |x − D(z)| and (x − D(z))², plus the KL of q(z|x) to N(0, 1).

    Args:
      module: the autoencoder.
      conditioner: not used.
      kl_weight: the weight of the KL term.
      initial_logvar: the log variance of q(z|x) at the start.
      calibration_examples: examples whose latents give the scale, over all processes.
    """

    def loss(params, encoder_params, batch, key):
        images = rearrange(batch.frames, "b n h w c -> (b n) h w c").astype(jnp.float32) / 127.5 - 1
        mean, logvar = module.apply({"params": params}, images, method="encode")
        latents = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
        error = module.apply({"params": params}, latents, method="decode") - images
        kl = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(logvar) - 1 - logvar)
        square = jnp.mean(jnp.square(error))
        psnr = -10 * jnp.log10(square / 4)
        return jnp.mean(jnp.abs(error)) + square + kl_weight * kl, {"psnr": psnr, "kl": kl}

    def prepare(params, encoder_params, batches):
        """Starts the log variance low; noise as strong as the first latents slows learning."""
        bias = params["quant_conv"]["bias"]
        bias = jnp.asarray(bias).at[bias.shape[0] // 2 :].add(initial_logvar)
        return {**params, "quant_conv": {**params["quant_conv"], "bias": bias}}

    @jax.jit
    def moments(params, frames):
        images = rearrange(frames, "b n h w c -> (b n) h w c").astype(jnp.float32) / 127.5 - 1
        mean, _ = module.apply({"params": params}, images, method="encode")
        return mean.mean(), mean.var()

    def finish(module, params, batches):
        """Sets `scaling_factor` so that latents have unit variance; SD's 0.18215 was found so."""
        _, deviation = gather_statistics(
            lambda batch: moments(params, batch.frames), batches, calibration_examples
        )
        return module.clone(scaling_factor=float(1 / deviation))

    preview = previews.reconstruction(module)
    return Objective(loss, preview, ("quant_conv/bias",), prepare, finish)


# ---- CLIP


def contrastive(
    module: nn.Module, conditioner: Conditioner, *, max_logit_scale: float = 4.6052
) -> Objective:
    """Trains CLIP: symmetric cross-entropy between frames and captions.

    Examples with equal captions count as matches of each other.

    Args:
      module: CLIP.
      conditioner: not used.
      max_logit_scale: the bound of the learned temperature, log 100 as in CLIP.
    """

    def logits(params, batch):
        pixels = preprocess_for_clip(batch.frames[:, 0], module.vision_config.image_size)
        params = {**params, "logit_scale": jnp.minimum(params["logit_scale"], max_logit_scale)}
        images, texts, scale = module.apply({"params": params}, pixels, batch.tokens)
        return scale * images @ texts.T

    def loss(params, encoder_params, batch, key):
        scores = logits(params, batch)
        same = jnp.all(batch.tokens[:, None] == batch.tokens[None], axis=-1)
        goal = same / same.sum(-1, keepdims=True)
        both = optax.softmax_cross_entropy(scores, goal) + optax.softmax_cross_entropy(
            scores.T, goal
        )
        hit = jnp.take_along_axis(same, scores.argmax(-1)[:, None], axis=-1)
        return both.mean() / 2, {"retrieval": hit.mean()}

    return Objective(loss)


# ---- depth


def depth(
    module: nn.Module, conditioner: Conditioner, *, gradient_weight: float = 0.5, scales: int = 3
) -> Objective:
    """Trains a depth model: MiDaS's scale-and-shift-invariant error with its gradient term.

    Ranftl et al. 1907.01341, equations 5, 6 and 11, with means instead of medians. A clip has one
    scale and one shift, so that the estimate does not flicker from frame to frame.

    Args:
      module: the depth model.
      conditioner: not used.
      gradient_weight: the weight of the gradient term.
      scales: the resolutions at which gradients are compared.
    """

    def estimate(params, frames):
        b = frames.shape[0]
        height, width = frames.shape[2:4]
        pixels = preprocess_for_depth(
            rearrange(frames, "b n h w c -> (b n) h w c"), (height, width)
        )
        return rearrange(module.apply({"params": params}, pixels), "(b n) h w -> b n h w", b=b)

    def loss(params, encoder_params, batch, key):
        predicted, truth = estimate(params, batch.frames), batch.depth
        axes = (1, 2, 3)

        def standardise(x):
            """Scales a clip to zero mean and unit mean deviation.

            A least-squares scale can be negative; a network then learns depth upside down.
            """
            x = x - x.mean(axes, keepdims=True)
            return x / (jnp.abs(x).mean(axes, keepdims=True) + 1e-6)

        p, t = standardise(predicted), standardise(truth)
        error = p - t
        total = jnp.abs(error).mean()
        for k in range(scales):
            e = error[:, :, :: 2**k, :: 2**k]
            total += (
                gradient_weight
                / scales
                * (jnp.abs(jnp.diff(e, axis=2)).mean() + jnp.abs(jnp.diff(e, axis=3)).mean())
            )
        norm = jnp.sqrt(jnp.square(p).sum(axes) * jnp.square(t).sum(axes))
        correlation = (p * t).sum(axes) / (norm + 1e-6)
        return total, {"correlation": correlation.mean()}

    return Objective(loss, previews.depth_maps(estimate))


# ---- prior


def prior(
    module: nn.Module,
    conditioner: Conditioner,
    null_tokens: Any,
    *,
    drop_rate: float = 0.1,
    calibration_examples: int = 8192,
) -> Objective:
    """Trains the prior: x_0-prediction of the standardised image embedding.

    Args:
      module: the prior.
      conditioner: holds CLIP, whose text tower the prior reads.
      null_tokens: the tokenizer's tokens of the empty text [1 l].
      drop_rate: the share of captions that the empty prompt replaces, for guidance.
      calibration_examples: embeddings that give the mean and the deviation, over all processes.
    """
    conditioner = dataclasses.replace(conditioner, prior=module)

    def loss(params, encoder_params, batch, key):
        text = conditioner.text_condition(encoder_params, batch.tokens)
        null = conditioner.text_condition(encoder_params, null_tokens)
        x0 = module.standardise(params, batch.content)

        def predict(*arguments):
            return module.apply({"params": params}, *arguments)

        # Mean and deviation are statistics of the data: they get no gradient.
        x0 = jax.lax.stop_gradient(x0)
        return prior_diffusion.prior_loss(predict, x0, text, key, null, drop_rate), {}

    def prepare(params, encoder_params, batches):
        def moments(batch):
            return batch.content.mean(0, keepdims=True), batch.content.var(0, keepdims=True)

        mean, deviation = gather_statistics(moments, batches, calibration_examples)
        found = {"clip_mean": mean, "clip_std": deviation + 1e-4}
        return params | {name: x.astype(np.float32) for name, x in found.items()}

    preview = previews.content_cosine(module, conditioner, null_tokens)
    return Objective(loss, preview, ("clip_mean", "clip_std"), prepare)


# ---- video diffusion


def diffusion(
    module: nn.Module,
    conditioner: Conditioner,
    *,
    content_drop_rate: float = 0.1,
    structure_drop_rate: float = 0.0,
    latents_drawn: bool = False,
    random_positions: bool = False,
    min_snr_gamma: float | None = None,
    zero_terminal_snr: bool = False,
    prediction_type: str = "v_prediction",
    preview_steps: int = 20,
    preview_guidance: float = 3.0,
) -> Objective:
    """Trains the UNet with Gen-1's ‖v − v_θ(z_t, t, s, c)‖², the same for images and videos.

    Null content is zeros.

    Args:
      module: the UNet.
      conditioner: holds the autoencoder for previews, and the encoders that raw batches need.
      content_drop_rate: the share of examples without content, for guidance.
      structure_drop_rate: the share of examples without structure; above 0, edits need none.
      latents_drawn: draw z_0 from the autoencoder's distribution, as Stable Diffusion was trained,
        instead of taking its mean; encoded data then need the field `latents_logvar`.
      random_positions: begin each clip at a random row of the UNet's tables of frame positions, so
        that all rows are trained, and clips as long as the tables can be edited.
      min_snr_gamma: γ of `min_snr_weight`; None weighs all timesteps alike.
      zero_terminal_snr: see `make_schedule`.
      prediction_type: what the network predicts; "epsilon" suits a Stable Diffusion 1.x UNet.
      preview_steps: DDIM steps of a preview.
      preview_guidance: ω of a preview.
    """
    if min_snr_gamma is not None and not min_snr_gamma > 0:
        raise UserError(f"min_snr_gamma is {min_snr_gamma}; a number above 0 is accepted, or None")
    schedule = make_schedule(zero_terminal_snr=zero_terminal_snr, prediction_type=prediction_type)
    structured = module.in_channels > module.out_channels

    def condition(batch: Batch) -> tuple[jax.Array | None, jax.Array | None]:
        return (batch.structure, batch.structure_level) if structured else (None, None)

    def loss(params, encoder_params, batch, key):
        time_key, noise_key, drop_key, latent_key, position_key = jax.random.split(key, 5)
        if not batch.encoded:
            batch = jax.lax.stop_gradient(conditioner.encode_batch(encoder_params, batch))
        z0 = draw_latents(batch, latent_key) if latents_drawn else batch.latents
        t = jax.random.randint(time_key, z0.shape[:1], 0, schedule.num_timesteps)
        eps = jax.random.normal(noise_key, z0.shape)
        kept = jax.random.bernoulli(drop_key, 1 - content_drop_rate, (z0.shape[0], 1))
        content = jnp.where(kept, batch.content, 0)
        structure, level = condition(batch)
        if structured and structure_drop_rate:
            # A key of its own leaves the other draws as they are without dropping.
            structure_key = jax.random.fold_in(drop_key, 1)
            dropped = jax.random.bernoulli(structure_key, structure_drop_rate, level.shape)
            structure, level = drop_structure(structure, level, dropped)
        inputs = model_input(q_sample(schedule, z0, eps, t), structure, level)
        positions = {}
        if random_positions and batch.num_frames > 1:
            rows = module.max_frames - batch.num_frames + 1
            positions["first_frame"] = jax.random.randint(position_key, t.shape, 0, rows)
        v = module.apply({"params": params}, inputs, t, content[:, None], **positions)
        chex.assert_equal_shape([v, z0])
        error = jnp.square(v - target(schedule, z0, eps, t))
        if min_snr_gamma is not None:
            error *= min_snr_weight(schedule, t, min_snr_gamma).reshape(-1, 1, 1, 1, 1)
        return jnp.mean(error), {}

    preview = previews.guided_samples(
        module,
        conditioner,
        schedule,
        condition,
        num_steps=preview_steps,
        guidance_scale=preview_guidance,
        spacing="trailing" if zero_terminal_snr else "leading",
    )
    save = save_merged if isinstance(module, LoraModule) else save_model
    return Objective(loss, preview, runs_encoders=lambda batch: not batch.encoded, save=save)


def draw_latents(batch: Batch, key: jax.Array) -> jax.Array:
    """Draws latents [b n h w 4] from the autoencoder's distribution.

    Raises:
      UserError: the batch has no variance.
    """
    if batch.latents_logvar is None:
        raise UserError("latents_drawn needs latents_logvar: add it to data.fields")
    noise = jax.random.normal(key, batch.latents.shape)
    return batch.latents + jnp.exp(0.5 * batch.latents_logvar) * noise


OBJECTIVES = {
    "autoencoder": autoencoder,
    "contrastive": contrastive,
    "depth": depth,
    "prior": prior,
    "diffusion": diffusion,
}
