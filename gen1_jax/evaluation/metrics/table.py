"""Every measure by name: how it is taken, what a clip needs for it, and where it comes from."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.metrics import (
    clip,
    colour,
    consistency,
    drift,
    motion,
    similarity,
    structure,
    world,
)
from gen1_jax.settings import closest

if TYPE_CHECKING:
    from gen1_jax.evaluation.evidence import Evidence

# What a clip may need to have for a measure.
NEEDS: dict[str, Callable[[Item], bool]] = {
    "two frames": lambda item: len(item.frames) > 1,
    "two windows": lambda item: len(item.frames) >= 2 * drift.WINDOW,
    "a prompt": lambda item: bool(item.prompt),
    "a source prompt": lambda item: bool(item.source_prompt),
    "a picture": lambda item: item.image is not None,
    "a true depth": lambda item: item.depth is not None,
    "a mask": lambda item: item.mask is not None,
    "the world's truth": lambda item: item.truth is not None,
}

# Networks that are no part of a pipeline, so that the user gives them → how.
NETWORKS = {
    "lpips-alex": "--lpips FOLDER, with AlexNet",
    "lpips-vgg": "--lpips FOLDER, with VGG16",
    "pickscore": "--pickscore FOLDER",
}


@dataclasses.dataclass(frozen=True)
class Metric:
    """A measure.

    Attributes:
      measure: an `Evidence` of b edits → one number for each.
      needs: what a clip must have, of `NEEDS`; others have no such measure.
      higher_is_better: None where neither is better in itself.
      source: who defined it.
      backbone: the network that it looks through; empty: none.
      scale: its unit, or least and greatest value.
      network: the one of `NETWORKS` that it needs, if any.
      is_default: whether it is taken where nothing else is asked for, and its network is there.
    """

    measure: Callable[[Evidence], Sequence[float] | np.ndarray]
    source: str
    scale: str
    backbone: str = ""
    needs: tuple[str, ...] = ()
    higher_is_better: bool | None = True
    network: str = ""
    is_default: bool = True


def _attribute_accuracy(name: str, evidence: Evidence) -> np.ndarray:
    found = [each.values[name] for each in evidence.found]
    return world.is_right(found, [lineup.expected[name] for lineup in evidence.source.lineups])


TABLE: dict[str, Metric] = {
    "frame_consistency": Metric(
        lambda e: consistency.frame_consistency(e.output.embeddings),
        source="Gen-1, 2023, section 4",
        scale="cosine",
        backbone="CLIP",
        needs=("two frames",),
    ),
    "prompt_consistency": Metric(
        lambda e: consistency.prompt_consistency(e.output.embeddings, e.source.texts),
        source="Gen-1, 2023, section 4",
        scale="cosine",
        backbone="CLIP",
        needs=("a prompt",),
    ),
    "image_prompt_consistency": Metric(
        lambda e: consistency.prompt_consistency(e.output.embeddings, e.source.pictures),
        source="CLIP-I of DreamBooth, 2023: prompt consistency with the picture for the prompt",
        scale="cosine",
        backbone="CLIP",
        needs=("a picture",),
    ),
    "directional_similarity": Metric(
        lambda e: clip.directional_similarity(
            e.output.embeddings, e.source.embeddings, e.source.texts, e.source.source_texts
        ),
        source="StyleGAN-NADA, 2021; InstructPix2Pix, 2023",
        scale="cosine",
        backbone="CLIP",
        needs=("a prompt", "a source prompt"),
    ),
    "clip_success": Metric(
        lambda e: clip.success(e.output.embeddings, e.source.texts, e.source.source_texts),
        source="this project: zero-shot, more than half of the frames nearer to the prompt than to "
        "the source prompt",
        scale="0 or 1",
        backbone="CLIP",
        needs=("a prompt", "a source prompt"),
    ),
    "object_prompt_consistency": Metric(
        lambda e: clip.mean_cosine(e.objects[0], e.source.texts, e.objects[1]),
        source="this project: prompt consistency of a square about the mask",
        scale="cosine",
        backbone="CLIP",
        needs=("a mask", "a prompt"),
        is_default=False,
    ),
    "clip_score_frame": Metric(
        lambda e: 100 * clip.all_pairs_consistency(e.output.squeezed_embeddings),
        source="LOVEU-TGVE 2023: all pairs of frames, squeezed to 480x480 pixels",
        scale="100 × cosine",
        backbone="CLIP",
        needs=("two frames",),
        is_default=False,
    ),
    "clip_score_text": Metric(
        lambda e: (
            100 * consistency.prompt_consistency(e.output.squeezed_embeddings, e.source.texts)
        ),
        source="LOVEU-TGVE 2023: frames squeezed to 480x480 pixels",
        scale="100 × cosine",
        backbone="CLIP",
        needs=("a prompt",),
        is_default=False,
    ),
    "pickscore": Metric(
        lambda e: e.pickscore,
        source="Kirstain et al. 2023; the mean over frames is LOVEU-TGVE's",
        scale="logit scale × cosine, about 20",
        backbone="PickScore",
        needs=("a prompt",),
        network="pickscore",
    ),
    "seconds": Metric(
        lambda e: np.full(len(e.output.frames), e.seconds),
        source="this project: wall-clock time of a batch over its clips, without compiling, depth "
        "and prior",
        scale="seconds",
        higher_is_better=False,
        is_default=False,
    ),
    "structure_error": Metric(
        lambda e: structure.structure_error(e.output.depth, e.source.true_depth),
        source="this project: RMSE after MiDaS' alignment of scale and shift (2020)",
        scale="standard deviations of the source's depth",
        backbone="depth network",
        higher_is_better=False,
    ),
    "structure_correlation": Metric(
        lambda e: structure.structure_correlation(e.output.depth, e.source.true_depth),
        source="this project: Pearson's correlation",
        scale="−1 to 1",
        backbone="depth network",
    ),
    **{
        f"{name}_accuracy": Metric(
            functools.partial(_attribute_accuracy, name),
            source="this project: the nearest of the world's rendered clips",
            scale="0 or 1",
            needs=("the world's truth",),
        )
        for name in ("colour", "texture", "background", "shape")
    },
    "success": Metric(
        lambda e: [
            world.success(found.values, found.by_frame, item.wanted, item.truth)
            for found, item in zip(e.found, e.source.items, strict=True)
        ],
        source="this project: the nearest of the world's rendered clips, in the clip and by frame",
        scale="0 or 1",
        needs=("the world's truth",),
    ),
    "mask_iou": Metric(
        lambda e: world.mask_iou(e.found_masks, e.wanted_masks),
        source="this project: pixels that look like the object, against the world's truth",
        scale="0 to 1",
        needs=("the world's truth",),
    ),
    "path_error": Metric(
        lambda e: world.path_error(e.found_masks, e.wanted_masks),
        source="this project: centre of their largest patch, against the world's truth",
        scale="the object's sizes",
        needs=("the world's truth",),
        higher_is_better=False,
    ),
    "wanted_structure_error": Metric(
        lambda e: structure.structure_error(e.output.depth, e.wanted_depth),
        source="as structure_error, against the true depth of the clip that is asked for",
        scale="standard deviations of that depth",
        backbone="depth network",
        needs=("the world's truth",),
        higher_is_better=False,
    ),
    "flicker": Metric(
        lambda e: colour.flicker(e.output.frames, e.source.frames),
        source="this project",
        scale="Lab units",
        needs=("two frames",),
        higher_is_better=False,
    ),
    "warp_error": Metric(
        lambda e: motion.warp_error(e.output.frames, e.source.flow),
        source="Lai et al. 2018, with the source's flow",
        scale="mean square of values in 0 to 1",
        backbone="OpenCV's DIS",
        needs=("two frames",),
        higher_is_better=False,
    ),
    "motion_fidelity": Metric(
        lambda e: motion.motion_fidelity(e.output.flow, e.source.flow),
        source="this project: by flow; by tracks it is Yatim et al. 2024",
        scale="cosine",
        backbone="OpenCV's DIS",
        needs=("two frames",),
    ),
    "motion_error": Metric(
        lambda e: motion.motion_error(e.output.flow, e.source.flow),
        source="this project: end-point error over the source's speed",
        scale="0: the same; 1: as standing still",
        backbone="OpenCV's DIS",
        needs=("two frames",),
        higher_is_better=False,
    ),
    "embedding_drift": Metric(
        lambda e: drift.embedding_drift(e.output.embeddings, e.source.embeddings),
        source="this project, after FramePack's contrast of start and end (2025)",
        scale="1 − cosine, less the source's",
        backbone="CLIP",
        needs=("two windows",),
        higher_is_better=False,
    ),
    "colour_drift": Metric(
        lambda e: drift.colour_drift(e.output.frames, e.source.frames),
        source="this project, of Reinhard's statistics (2001)",
        scale="Lab units, less the source's",
        needs=("two windows",),
        higher_is_better=False,
    ),
    "psnr_outside": Metric(
        lambda e: similarity.psnr_outside(e.output.frames, e.source.frames, e.source.masks),
        source="of the pixels outside the mask",
        scale="dB, at most 60",
        needs=("a mask",),
    ),
    "ssim_outside": Metric(
        lambda e: similarity.ssim_outside(e.output.frames, e.source.frames, e.source.masks),
        source="Wang et al. 2004, of the pixels outside the mask",
        scale="−1 to 1",
        needs=("a mask",),
    ),
    "feature_distance_outside": Metric(
        lambda e: similarity.distance_outside(e.distances, e.source.masks),
        source="this project: the form of LPIPS (2018) on the autoencoder's features",
        scale="0 to 4",
        backbone="the pipeline's autoencoder",
        needs=("a mask",),
        higher_is_better=False,
        is_default=False,
    ),
    **{
        f"lpips_{name}_outside": Metric(
            lambda e: similarity.distance_outside(e.lpips, e.source.masks),
            source="Zhang et al. 2018, version 0.1, outside the mask",
            scale="0: equal",
            backbone=backbone,
            needs=("a mask",),
            higher_is_better=False,
            network=f"lpips-{name}",
        )
        for name, backbone in (("alex", "AlexNet"), ("vgg", "VGG16"))
    },
    "depth_abs_rel": Metric(
        lambda e: structure.depth_abs_rel(e.output.depth, e.source.true_depth),
        source="Eigen et al. 2014, aligned as by MiDaS (2020)",
        scale="share of the true depth",
        backbone="depth network",
        needs=("a true depth",),
        higher_is_better=False,
    ),
    "depth_accuracy": Metric(
        lambda e: structure.depth_accuracy(e.output.depth, e.source.true_depth),
        source="Eigen et al. 2014: δ < 1.25, aligned as by MiDaS (2020)",
        scale="0 to 1",
        backbone="depth network",
        needs=("a true depth",),
    ),
}

DEFAULT = tuple(name for name, m in TABLE.items() if m.is_default and not m.network)


def check_metrics(names: Iterable[str]) -> None:
    """Raises UserError if a name is none of a measure."""
    for name in names:
        if name not in TABLE:
            known = ", ".join(TABLE)
            raise UserError(f"no measure {name!r}{closest(name, TABLE)}; accepted: {known}")


def check_needs(names: Iterable[str], items: Sequence[Item]) -> None:
    """Raises UserError if a measure that is asked for is one that no clip allows."""
    for name in names:
        if not any(metrics_for(item, [name]) for item in items):
            needs = " and ".join(TABLE[name].needs)
            raise UserError(f"the measure {name} needs {needs}, which no clip has")


def choose_metrics(asked: Sequence[str] | None, given: Collection[str] = ()) -> tuple[str, ...]:
    """Returns the measures asked for; by default, the cheap ones whose networks are there.

    Args:
      asked: names of measures; None: by default.
      given: the `NETWORKS` that are there.

    Raises:
      UserError: a measure's network is not given.
    """
    if not asked:
        more = (name for name, m in TABLE.items() if m.is_default and m.network in given)
        return (*DEFAULT, *more)
    for name in asked:
        if (network := TABLE[name].network) and network not in given:
            raise UserError(f"the measure {name} needs {NETWORKS[network]}")
    return tuple(asked)


def metrics_for(item: Item, names: Iterable[str] = DEFAULT) -> tuple[str, ...]:
    """Returns those of the measures that a clip allows, in the order of the table."""
    names = set(names)
    has = {need for need, is_there in NEEDS.items() if is_there(item)}
    return tuple(name for name, m in TABLE.items() if name in names and has.issuperset(m.needs))


def measure(evidence: Evidence, names: Sequence[str]) -> list[dict[str, float | None]]:
    """Returns measure → value for each edit; a value that cannot be measured is None.

    JSON has no NaN; a flat depth, for example, has no correlation.
    """
    columns = {name: TABLE[name].measure(evidence) for name in names}
    return [
        {name: _or_none(values[i]) for name, values in columns.items()}
        for i in range(len(evidence.output.frames))
    ]


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
