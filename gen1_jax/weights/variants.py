"""The weight files of a model folder by their names: the plain ones, or a variant such as fp16.

diffusers and transformers write a variant beside the plain weights, with its name in the files':
`diffusion_pytorch_model.fp16.safetensors`. The rule here serves a folder and a listing of the hub.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from gen1_jax.errors import UserError

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
TRANSFORMERS_WEIGHTS = "model.safetensors"
_STEMS = tuple(name.split(".")[0] for name in (DIFFUSERS_WEIGHTS, TRANSFORMERS_WEIGHTS))

_STEM, _NAME = f"(?P<stem>{'|'.join(_STEMS)})", r"[\w.-]+?"
# A variant's name stands before the number of a shard; diffusers before 0.31 wrote it after.
_FILE = re.compile(
    rf"{_STEM}(\.(?P<early>{_NAME}))?(?P<shard>-\d+-of-\d+)?(\.(?P<late>{_NAME}))?\.safetensors"
)
# Both libraries write `model.safetensors.index.fp16.json`; the other two places are older.
_INDEX = re.compile(
    rf"{_STEM}(\.(?P<early>{_NAME}))?\.safetensors(\.(?P<middle>{_NAME}))?"
    rf"\.index(\.(?P<late>{_NAME}))?\.json"
)


class Weights(NamedTuple):
    """The weight files of one variant.

    Attributes:
      variant: its name; None stands for the plain weights.
      index: the file that lists the shards, or None if there is one file.
      files: the file, or all files that are named as shards.
    """

    variant: str | None
    index: str | None
    files: tuple[str, ...]


def choose_weights(names: Iterable[str], variant: str | None, where: str) -> Weights | None:
    """Returns the weights to read among the files of a model folder, or None if there are none.

    Args:
      names: the names of the files in the folder.
      variant: the variant to read; None takes the plain weights, or else the only variant.
      where: the folder, for messages.

    Raises:
      UserError: there is no such variant, or there are several and no plain weights.
    """
    found = list_weights(names)
    if not found or variant in found:
        return found.get(variant)
    if variant is None and len(found) == 1:
        return next(iter(found.values()))
    there = ", ".join(name or "plain weights" for name in found)
    if variant is None:
        raise UserError(
            f"{where} holds no plain weights, but the variants {there}; choose one of them: "
            f"gen1 import --variant {next(iter(found))}"
        )
    raise UserError(f"{where} holds no variant {variant}; there: {there}")


def list_weights(names: Iterable[str]) -> dict[str | None, Weights]:
    """Returns the weights among the files of a folder by variant; the plain ones come first.

    Shards without their index are none. In each variant, a single file comes before shards, and
    diffusers' names before transformers'.
    """
    single: dict[tuple, str] = {}
    shards: dict[tuple, list[str]] = {}
    index: dict[tuple, str] = {}
    for name in sorted(names):
        if match := _FILE.fullmatch(name):
            key = _variant(match), match["stem"]
            if match["shard"]:
                shards.setdefault(key, []).append(name)
            else:
                single[key] = name
        elif match := _INDEX.fullmatch(name):
            index[_variant(match), match["stem"]] = name
    found: dict[str | None, Weights] = {}
    for key in sorted({*single, *index}, key=lambda key: (key[0] or "", _STEMS.index(key[1]))):
        variant = key[0]
        if variant not in found and key in single:
            found[variant] = Weights(variant, None, (single[key],))
        elif variant not in found:
            found[variant] = Weights(variant, index[key], tuple(shards.get(key, ())))
    return found


def _variant(match: re.Match) -> str | None:
    """Returns the name of a variant, which may stand in several places of a file's name."""
    places = match.groupdict()
    return ".".join(filter(None, map(places.get, ("early", "middle", "late")))) or None
