"""Every measure by name: how it is taken, what a clip needs for it, and where it comes from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.metrics import colour, consistency, structure
from gen1_jax.settings import closest

if TYPE_CHECKING:
    from gen1_jax.evaluation.evidence import Evidence

# What a clip may need to have for a measure.
NEEDS: dict[str, Callable[[Item], bool]] = {
    "two frames": lambda item: len(item.frames) > 1,
    "a prompt": lambda item: bool(item.prompt),
    "a mask": lambda item: item.mask is not None,
    "a colour": lambda item: item.colour is not None,
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
      is_default: whether it is taken where nothing else is asked for.
    """

    measure: Callable[[Evidence], Sequence[float] | np.ndarray]
    source: str
    scale: str
    backbone: str = ""
    needs: tuple[str, ...] = ()
    higher_is_better: bool | None = True
    is_default: bool = True


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
    "colour_accuracy": Metric(
        lambda e: [
            float(found == item.colour)
            for found, item in zip(e.found_colours, e.source.items, strict=True)
        ],
        source="this project: the world's truth",
        scale="0 or 1",
        needs=("a mask", "a colour"),
    ),
    "mask_iou": Metric(
        lambda e: colour.mask_iou(e.output.frames, e.source.masks, e.wanted_rgb),
        source="this project: the world's truth",
        scale="0 to 1",
        needs=("a mask", "a colour"),
    ),
    "flicker": Metric(
        lambda e: colour.flicker(e.output.frames, e.source.frames),
        source="this project",
        scale="Lab units",
        needs=("two frames",),
        higher_is_better=False,
    ),
}

DEFAULT = tuple(name for name, metric in TABLE.items() if metric.is_default)


def check_metrics(names: Iterable[str]) -> None:
    """Raises UserError if a name is none of a measure."""
    for name in names:
        if name not in TABLE:
            known = ", ".join(TABLE)
            raise UserError(f"no measure {name!r}{closest(name, TABLE)}; accepted: {known}")


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
