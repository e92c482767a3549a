"""How frames become the map that structure is made of: settings of encoding and of editing alike.

A pipeline's gen1.json and encoded data's meta.json hold them under the keys `structure`, which
names the extractor, and `depth`, which says how depth is estimated.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from gen1_jax.errors import UserError
from gen1_jax.settings import check, setting

KEY, DEPTH_KEY = "structure", "depth"
DROP_RATE = "structure_drop_rate"  # key of gen1.json, and of the loss
TRUTH = "truth:"  # what the moving-shapes world knows of its clips begins with it

ExtractorName = Literal[
    "depth", "edges", "canny", "scribbles", "segments", "flow",
    "truth:depth", "truth:edges", "truth:masks",
]  # fmt: skip
Degrading = Literal["blur", "noise"]


class Extractor(NamedTuple):
    """What makes a structure map of frames.

    Attributes:
      doc: what the map shows.
      version: is raised with every change of what the extractor gives.
      place: "device" runs inside the jitted programs, "host" on the host, by `video.extractors`;
        "world" is the truth of the moving-shapes world, which no other video has.
      colours: whether the map has colours `[n h w 3]`; else it is grey, `[n h w]`.
    """

    doc: str
    version: int = 1
    place: Literal["device", "host", "world"] = "host"
    colours: bool = False


EXTRACTORS: dict[str, Extractor] = {
    "depth": Extractor("inverse depth, as the depth model estimates it", place="device"),
    "edges": Extractor("strength of edges, by Sobel's operator", place="device"),
    "canny": Extractor("Canny's thin edges"),
    "scribbles": Extractor("thick smooth lines along the longest edges"),
    "segments": Extractor("regions of like colour, each in a colour of its own", colours=True),
    "flow": Extractor("how far things move from frame to frame"),
    "truth:depth": Extractor("true inverse depth", place="world"),
    "truth:edges": Extractor("true outlines of things", place="world"),
    "truth:masks": Extractor("true mask of the object", place="world"),
}
assert tuple(EXTRACTORS) == get_args(ExtractorName)


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
    map: Literal["depth", "edges"] | None = setting(None, "older name of structure.extractor")
    degrading: Degrading | None = setting(None, "older name of structure.degrading")

    def __post_init__(self):
        low, high = self.range
        if not low < high:
            raise UserError(f"depth.range is {self.range}; the lower quantile comes first")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StructureSettings:
    """What the structure of clips is made of."""

    extractor: ExtractorName = setting(
        "depth",
        "what makes the structure map of frames: the depth model, edges (soft), canny, scribbles, "
        "segments (in colours) or flow (how far things move); truth:… is known of the "
        "moving-shapes world alone",
    )
    degrading: Degrading = setting(
        "blur", "what a structure level does to the map: blur, as in the paper, or added noise"
    )
    version: int | None = setting(
        None, "of the extractor, as encoded data record it; None: the one that is there", low=1
    )


@dataclasses.dataclass(frozen=True)
class StructureRecipe:
    """How frames become structure, as files record it.

    Attributes:
      extractor: name in `EXTRACTORS` of what makes the map.
      version: the extractor's version.
      degrading: what a structure level does to the map.
      depth: how depth is estimated.
    """

    extractor: str = "depth"
    version: int = 1
    degrading: str = "blur"
    depth: DepthSettings = DepthSettings()

    def to_json(self) -> dict[str, Any]:
        """Returns the keys that files hold, as JSON gives them back."""
        return {
            DEPTH_KEY: {"resizing": self.depth.resizing, "range": list(self.depth.range)},
            KEY: {
                "extractor": self.extractor,
                "version": self.version,
                "degrading": self.degrading,
            },
        }

    @property
    def colours(self) -> bool:
        """Whether the map has colours."""
        return EXTRACTORS[self.extractor].colours

    @property
    def place(self) -> str:
        """Where the extractor runs; see `Extractor`."""
        return EXTRACTORS[self.extractor].place

    def differences(self, other: "StructureRecipe") -> str:
        """Returns what is different from another's, for a message; "" if nothing is."""
        own, its = self.to_json(), other.to_json()
        return ", ".join(
            f"{key}.{name} {own[key][name]} and {its[key][name]}"
            for key in own
            for name in own[key]
            if own[key][name] != its[key][name]
        )


# Pipelines and encoded data that record no settings were made with these.
UNRECORDED = StructureRecipe(depth=DepthSettings(resizing="shorter_side", range=(0.0, 1.0)))


def read_recipe(recorded: Mapping[str, Any], where: str) -> StructureRecipe:
    """Returns the settings that a config, gen1.json, meta.json or a run's config.json records.

    A file without the key `structure` means depth, or what `depth.map` says: its older name.

    Args:
      recorded: the content of the file.
      where: the file, for messages.

    Raises:
      UserError: a setting is unknown, has a wrong value, or contradicts its older name.
    """
    depth = _read(DepthSettings, recorded, DEPTH_KEY, where) or UNRECORDED.depth
    chosen = _read(StructureSettings, recorded, KEY, where) or StructureSettings()
    names = {}
    for name, older in (("extractor", "map"), ("degrading", "degrading")):
        value, before = getattr(chosen, name), getattr(depth, older)
        if before is not None and value not in (before, getattr(StructureSettings, name)):
            raise UserError(
                f"{where}: {KEY}.{name} is {value!r} and {DEPTH_KEY}.{older}, its older name, is "
                f"{before!r}; one of them is accepted"
            )
        names[name] = value if before is None else before
    version = chosen.version or EXTRACTORS[names["extractor"]].version
    depth = dataclasses.replace(depth, map=None, degrading=None)
    return StructureRecipe(version=version, depth=depth, **names)


def _read(kind: type, recorded: Mapping[str, Any], key: str, where: str) -> Any:
    values = recorded.get(key)
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: {key} is {values!r}; a mapping is accepted")
    return check(kind, values, where, f"{key}.")
