"""Counterfactuals: the UNet trained anew with one choice of the paper turned round.

All arms start from the run's image stage and take the same few steps, so that they differ in the
choice alone. They are compared with each other, not with the run's own UNet, which is trained
longer.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen1_jax.config import load_config
from gen1_jax.evaluation.reproduce.links import link_parts
from gen1_jax.workflow import run_all

STAGES = {"video": 50, "structure": 80, "blur": 50}  # steps
GIVEN = ("autoencoder", "clip", "depth", "prior", "tokenizer", "world", "image")
BASELINE = "baseline"


@dataclasses.dataclass(frozen=True)
class Arm:
    """A counterfactual.

    Attributes:
      question: what it asks.
      stages: settings of all three stages that differ from the baseline's.
      encoded: settings of the part that encodes the clips; none: the run's encoded clips serve.
      pipeline: settings of the pipeline.
    """

    question: str
    stages: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    encoded: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pipeline: Mapping[str, Any] = dataclasses.field(default_factory=dict)


ARMS = {
    BASELINE: Arm("the paper's choices"),
    "no_images": Arm("no images in training", {"data.image_fraction": 0}),
    "epsilon": Arm(
        "ε is predicted, not v",
        {"loss.prediction_type": "epsilon"},
        pipeline={"settings.schedule.prediction_type": "epsilon"},
    ),
    "noise": Arm("noise in place of blur", encoded={"structure.degrading": "noise"}),
    "edges": Arm("edges in place of depth", encoded={"structure.extractor": "edges"}),
    # A layer that is not trained keeps its zeros, and is none.
    "convolutions": Arm("temporal convolutions alone", {"trains": "^(?!.*temporal_attentions)"}),
    "attention": Arm("temporal attention alone", {"trains": "^(?!.*temporal_conv)"}),
}


def train_arm(name: str, run: Path, folder: Path, seed: int, progress: bool) -> Path:
    """Trains an arm and assembles its pipeline, unless they are there; returns the pipeline."""
    arm = ARMS[name]
    link_parts(run, folder, [*GIVEN, *([] if arm.encoded else ["encoded"])])
    settings = {f"encoded.{key}": value for key, value in arm.encoded.items()}
    settings |= {f"pipeline.{key}": value for key, value in arm.pipeline.items()}
    for stage, num_steps in STAGES.items():
        common = {
            "seed": seed,
            "num_steps": num_steps,
            "checkpoint_every": num_steps,
            "eval_every": 0,
            "optimizer.warmup_steps": 20,
            "data.batch_size": 4,
            "data.image_batch_size": 32,
        }
        settings |= {f"{stage}.{key}": x for key, x in {**common, **arm.stages}.items()}
    parts = [*(["encoded"] if arm.encoded else []), *STAGES, "pipeline"]
    overrides: dict[str, list[str]] = {part: [] for part in parts}
    for key, value in settings.items():
        part, _, rest = key.partition(".")
        overrides[part].append(f"{rest}={value}")
    configs = {part: load_config(f"demo:{part}", overrides[part]) for part in parts}
    run_all(load_config("demo"), folder, configs.__getitem__, progress=progress, parts=parts)
    return folder / "pipeline"
