"""CLIP's two towers as models of their own, as diffusers' pipelines hold them, and back again."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gen1_jax.errors import UserError

# The classes of the towers in transformers.
TEXT_TOWER, IMAGE_TOWER = "CLIPTextModelWithProjection", "CLIPVisionModelWithProjection"


class _Kind(NamedTuple):
    """One kind of tower: its `model_type`, its key in CLIP's config, its tensors' prefixes."""

    model_type: str
    config_key: str
    prefixes: tuple[str, ...]


_KINDS = {
    TEXT_TOWER: _Kind("clip_text_model", "text_config", ("text_model.", "text_projection.")),
    IMAGE_TOWER: _Kind(
        "clip_vision_model", "vision_config", ("vision_model.", "visual_projection.")
    ),
}
# The temperature belongs to neither tower. The config.json of the text tower keeps its exact value.
_LOGIT_SCALE = "logit_scale"


class Tower(NamedTuple):
    """The content of a tower's model folder.

    Attributes:
      config: the content of config.json.
      names: the tensors of CLIP that belong to the tower.
    """

    config: dict[str, Any]
    names: list[str]


def split_towers(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, Tower]:
    """Divides CLIPModel into its towers.

    Args:
      config: the config of CLIPModel.
      tensors: its tensors; only the temperature is read.

    Returns:
      The towers by their class, TEXT_TOWER and IMAGE_TOWER.
    """
    towers = {}
    for kind, (model_type, config_key, prefixes) in _KINDS.items():
        settings = {
            **config[config_key],
            "architectures": [kind],
            "model_type": model_type,
            "projection_dim": config["projection_dim"],
        }
        towers[kind] = Tower(settings, [name for name in tensors if name.startswith(prefixes)])
    towers[TEXT_TOWER].config[_LOGIT_SCALE] = float(tensors[_LOGIT_SCALE])
    return towers


def join_configs(text: Mapping[str, Any], vision: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of CLIPModel from those of its towers.

    Raises:
      UserError: a config is not that of a tower, or the two project into different spaces.
    """
    for config, (kind, (model_type, *_)) in zip((text, vision), _KINDS.items(), strict=True):
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
    """Returns the tensors of CLIPModel from those of its towers; each is read when asked for."""
    return _Joined(text_config, text, vision)


class _Joined(Mapping):
    def __init__(self, text_config, *parts):
        # Published towers carry no temperature. CLIP was trained to 100, which is taken then.
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
