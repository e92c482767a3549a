"""CLIP's two towers as models of their own, as diffusers' pipelines hold them, and back again."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gen1_jax.errors import UserError

# Name of a tower's config in CLIP's -> (class and type in transformers, prefixes of its tensors).
_TOWERS = {
    "text_config": (
        "CLIPTextModelWithProjection",
        "clip_text_model",
        ("text_model.", "text_projection."),
    ),
    "vision_config": (
        "CLIPVisionModelWithProjection",
        "clip_vision_model",
        ("vision_model.", "visual_projection."),
    ),
}
# The temperature belongs to neither tower; the text tower's config.json keeps its exact value.
_LOGIT_SCALE = "logit_scale"


class Tower(NamedTuple):
    """A model folder's content: config.json, and the names of CLIP's tensors in it."""

    config: dict[str, Any]
    names: list[str]


def split_towers(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, Tower]:
    """CLIPModel's config and tensors -> `text_config` and `vision_config`, each a `Tower`."""
    towers = {}
    for part, (kind, model_type, prefixes) in _TOWERS.items():
        names = [name for name in tensors if name.startswith(prefixes)]
        settings = {
            **config[part],
            "architectures": [kind],
            "model_type": model_type,
            "projection_dim": config["projection_dim"],
        }
        towers[part] = Tower(settings, names)
    towers["text_config"].config[_LOGIT_SCALE] = float(tensors[_LOGIT_SCALE])
    return towers


def join_configs(text: Mapping[str, Any], vision: Mapping[str, Any]) -> dict[str, Any]:
    """The towers' configs -> CLIPModel's.

    Raises:
      UserError: a config is not a tower's, or the two project into different spaces.
    """
    for config, (kind, model_type, _) in zip((text, vision), _TOWERS.values(), strict=True):
        if config.get("model_type") != model_type:
            raise UserError(
                f"config.json has model_type {config.get('model_type')!r}; accepted here: "
                f"{model_type!r} ({kind})"
            )
    widths = [config.get("projection_dim", 512) for config in (text, vision)]
    if widths[0] != widths[1]:
        raise UserError(
            f"the text encoder projects to {widths[0]} channels, the image encoder to {widths[1]}; "
            "accepted: two towers of one CLIP"
        )
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": widths[0],
        "text_config": {**text},
        "vision_config": {**vision},
    }


def join_tensors(
    text_config: Mapping[str, Any], text: Mapping[str, np.ndarray], vision: Mapping[str, np.ndarray]
) -> Mapping[str, np.ndarray]:
    """The towers' tensors -> CLIPModel's, read when they are asked for."""
    return _Joined(text_config, text, vision)


class _Joined(Mapping):
    def __init__(self, text_config, *parts):
        # Published towers carry no temperature; the one that CLIP was trained to (100) is taken.
        scale = text_config.get(_LOGIT_SCALE, float(np.log(100)))
        self._parts = (*parts, {_LOGIT_SCALE: np.asarray(scale, np.float32)})

    def __getitem__(self, name: str) -> np.ndarray:
        for part in self._parts:
            if name in part:
                return part[name]
        raise KeyError(name)

    def __iter__(self):
        return (name for part in self._parts for name in part)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        *towers, scale = self._parts
        shapes = {name: shape for part in towers for name, shape in part.shapes.items()}
        return shapes | {name: array.shape for name, array in scale.items()}
