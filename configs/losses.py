"""The settings of each training objective, which are a config's `loss`.

The losses themselves are in gen1_jax/training/objectives.py.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from gen1_jax.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderLoss:
    """Trains an autoencoder: error of the reconstruction, and a small KL term."""

    kl_weight: float = setting(1e-6, "weight of the KL term", low=0)
    initial_logvar: float = setting(-6.0, "log variance of the latents at the start")
    calibration_examples: int = setting(
        1024, "images whose latents give the scaling factor, over all processes", low=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastiveLoss:
    """Trains CLIP on frames and captions."""

    max_logit_scale: float = setting(4.6052, "bound of the learned temperature; log 100, as CLIP's")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthLoss:
    """Trains a depth model: MiDaS's scale-and-shift-invariant error."""

    gradient_weight: float = setting(0.5, "weight of the gradient term", low=0)
    scales: int = setting(3, "resolutions at which gradients are compared", low=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorLoss:
    """Trains the prior, from text to CLIP's image embedding."""

    drop_rate: float = setting(
        0.1, "share of captions that the empty prompt replaces, for guidance", low=0, high=1
    )
    calibration_examples: int = setting(
        8192, "embeddings that give their mean and deviation, over all processes", low=2
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionLoss:
    """Trains a stage of the UNet."""

    content_drop_rate: float = setting(
        0.1, "share of examples without image embedding, for guidance", low=0, high=1
    )
    structure_drop_rate: float = setting(
        0.0, "share of examples without structure; above 0: edits without structure", low=0, high=1
    )
    latents_drawn: bool = setting(
        False, "draw latents instead of taking their mean; data.fields must hold latents_logvar"
    )
    random_positions: bool = setting(
        False,
        "begin clips at a random row of the tables of frame positions: all rows are trained, up to "
        "model.max_frames, not only the first num_frames",
    )
    min_snr_gamma: float | None = setting(
        None, "γ of the min-SNR-γ weighting of timesteps, often 5; None: all weigh alike", low=0
    )
    zero_terminal_snr: bool = setting(False, "rescale the schedule so that it ends in pure noise")
    prediction_type: Literal["v_prediction", "epsilon", "sample"] = setting(
        "v_prediction", "what the network predicts; epsilon suits a Stable Diffusion 1.x UNet"
    )
    preview_steps: int = setting(20, "DDIM steps of a picture", low=1)
    preview_guidance: float = setting(3.0, "guidance scale of a picture")


LOSSES = {
    "autoencoder": AutoencoderLoss,
    "contrastive": ContrastiveLoss,
    "depth": DepthLoss,
    "prior": PriorLoss,
    "diffusion": DiffusionLoss,
}
