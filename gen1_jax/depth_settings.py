"""How frames become the map that structure is made of: settings of encoding and of editing alike.

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

    map: Literal["depth", "edges"] = setting(
        "depth",
        "what the structure is made of: the depth of frames, or the strength of their edges",
    )
    degrading: Literal["blur", "noise"] = setting(
        "blur", "what a structure level does to the map: blur, as in the paper, or added noise"
    )

    def __post_init__(self):
        low, high = self.range
        if not low < high:
            raise UserError(f"depth.range is {self.range}; the lower quantile comes first")

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as JSON gives them back."""
        said = {"resizing": self.resizing, "range": list(self.range)}
        return said | {name: getattr(self, name) for name in self.unusual()}

    def unusual(self) -> list[str]:
        """Returns the names of the settings that make the structure another one than the paper's.

        Files from before there were such settings do not name them, so they stand in files only
        where they differ.
        """
        names = ("map", "degrading")
        return [name for name in names if getattr(self, name) != getattr(DepthSettings, name)]


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
