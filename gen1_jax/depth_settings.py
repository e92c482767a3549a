"""How frames become the depth that structure is made of: settings of encoding and of editing alike.

A pipeline's gen1.json and encoded data's meta.json hold them under the key `depth`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from gen1_jax.errors import UserError
from gen1_jax.settings import check, setting

KEY = "depth"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthSettings:
    """How the depth of frames is estimated, and which of its values count."""

    resizing: Literal["minimal", "shorter_side"] = setting(
        "minimal",
        "how frames get the depth network's size; minimal: the side that changes least gets it, as "
        "in MiDaS; shorter_side: the shorter side gets it, as in pipelines without this key",
    )
    range: tuple[float, float] = setting(
        (0.01, 0.99),
        "quantiles of a clip's inverse depth that become −1 and 1, beyond which it is clipped; "
        "0,1: its least and its greatest value",
        low=0,
        high=1,
    )

    def __post_init__(self):
        low, high = self.range
        if not low < high:
            raise UserError(f"depth.range is {self.range}; the lower quantile comes first")

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as JSON gives them back."""
        return {"resizing": self.resizing, "range": list(self.range)}


# Pipelines and encoded data that record no settings were made with these.
UNRECORDED = DepthSettings(resizing="shorter_side", range=(0.0, 1.0))


def read_depth_settings(recorded: Mapping[str, Any], where: str) -> DepthSettings:
    """Returns the settings that gen1.json, meta.json or a run's config.json records.

    Args:
      recorded: the content of the file.
      where: the file, for messages.

    Raises:
      UserError: a setting is unknown, or has a wrong value.
    """
    values = recorded.get(KEY)
    if values is None:
        return UNRECORDED
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: {KEY} is {values!r}; a mapping is accepted")
    return check(DepthSettings, values, where, f"{KEY}.")
