"""The layout of encoded clips: in one folder every record is the same numbers in the same places.

A clip of n frames is stored as 2 + k entries of an ArrayRecord file. The first is

    latents         [n h w c]  means of the autoencoder's latents, scaled
    levels          [k] int32  the blur levels of the structure
    content         [n d]      image embedding of every frame
    tokens          [l] int32  the caption, where there is one

the second `latents_logvar` [n h w c], log variances of the latents, and the others are `structure`
[n h w c], means of the latents of the depth, once for each level: a step reads what it needs. An
entry is the bytes of a NumPy structured type, little-endian, without a header; the shapes and types
stand in the folder's meta.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gen1_jax.errors import UserError

FORMAT = 2
PRECISIONS = ("float16", "float32")
# The axes of each field; integers are int32, others of the folder's precision.
AXES = {
    "latents": "n h w c",
    "latents_logvar": "n h w c",
    "structure": "k n h w c",
    "levels": "k",
    "content": "n d",
    "tokens": "l",
}
_INTEGERS = ("levels", "tokens")
_OPTIONAL = ("tokens",)
_APART = ("latents_logvar", "structure")  # what is not in a clip's first entry


class Layout(NamedTuple):
    """What the records of a folder look like: for each field its shape, and one precision."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    precision: str

    @property
    def num_levels(self) -> int:
        return dict(self.shapes)["structure"][0]

    @property
    def entries(self) -> int:
        """ArrayRecord entries of a clip."""
        return 2 + self.num_levels

    @property
    def size(self) -> int:
        """Bytes of a clip."""
        return self.first.itemsize + (1 + self.num_levels) * self.plane.itemsize

    @property
    def first(self) -> np.dtype:
        """Of a clip's first entry."""
        return np.dtype([(n, self._scalar(n), s) for n, s in self.shapes if n not in _APART])

    @property
    def plane(self) -> np.dtype:
        """Of each of the other entries."""
        return np.dtype((self._scalar("latents"), dict(self.shapes)["latents"]))

    def _scalar(self, name: str) -> str:
        if name in _INTEGERS:
            return "<i4"
        return np.dtype(self.precision).newbyteorder("<").str

    def to_json(self) -> dict[str, Any]:
        return {"precision": self.precision, "fields": {n: list(s) for n, s in self.shapes}}


def make_layout(shapes: Mapping[str, Sequence[int]], precision: str = "float16") -> Layout:
    """The layout of records whose fields have these shapes.

    Raises:
        UserError: fields missing, unknown, of the wrong rank or disagreeing; another precision.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision is {precision!r}; accepted: {', '.join(PRECISIONS)}")
    missing = [name for name in AXES if name not in shapes and name not in _OPTIONAL]
    unknown = [name for name in shapes if name not in AXES]
    if missing or unknown:
        wrong = f"no {missing[0]}" if missing else f"an unknown {unknown[0]}"
        raise UserError(f"an encoded record has {wrong}; accepted: {', '.join(AXES)}")
    sizes: dict[str, int] = {}
    for name, axes in AXES.items():
        if name not in shapes:
            continue
        shape, letters = shapes[name], axes.split()
        if len(shape) != len(letters):
            raise UserError(f"encoded {name} has {len(shape)} axes; accepted: [{axes}]")
        for letter, size in zip(letters, shape, strict=True):
            if size < 1 or sizes.setdefault(letter, size) != size:
                raise UserError(
                    f"encoded {name} of shape {list(shape)} disagrees with the fields before it; "
                    f"accepted: [{axes}], each letter one size, 1 or more"
                )
    ordered = ((name, tuple(map(int, shapes[name]))) for name in AXES if name in shapes)
    return Layout(tuple(ordered), precision)


def read_layout(data: Any) -> Layout:
    """The inverse of `Layout.to_json`.

    Raises:
        UserError: it is something else.
    """
    try:
        shapes = {
            str(name): [int(size) for size in shape] for name, shape in data["fields"].items()
        }
        return make_layout(shapes, data["precision"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError("the layout of its records is not readable") from error


def pack(record: Mapping[str, np.ndarray], layout: Layout, name: str) -> list[bytes]:
    """The entries of a clip's record; `name` says which clip it is where that fails.

    Raises:
        UserError: fields or shapes that are not the layout's, or numbers that the precision cannot
            hold.
    """
    shapes = dict(layout.shapes)
    if set(record) != set(shapes):
        raise UserError(f"{name} has {', '.join(record)}; the others have {', '.join(shapes)}")
    for field, shape in shapes.items():
        value = np.asarray(record[field])
        if value.shape != shape:
            raise UserError(
                f"{name}: {field} has shape {list(value.shape)}; the others have {list(shape)}"
            )
        bad = None if field in _INTEGERS else _unfit(value, layout.precision)
        if bad is not None:
            raise UserError(f"{name}: {field} holds {bad}, which {layout.precision} cannot store")
    first = np.empty((), layout.first)
    for field in first.dtype.names:
        first[field] = record[field]
    planes = (record["latents_logvar"], *record["structure"])
    return [first.tobytes(), *(np.asarray(p, layout.plane.base).tobytes() for p in planes)]


def _unfit(value: np.ndarray, precision: str) -> float | None:
    """The first number that is none, or too large; None if all fit."""
    with np.errstate(invalid="ignore"):
        fits = np.abs(value) <= np.finfo(precision).max
    return None if fits.all() else float(value[~fits].flat[0])


def unpack_first(data: bytes, layout: Layout) -> dict[str, np.ndarray]:
    """The fields of a clip's first entry; read-only views of the bytes.

    Raises:
        ValueError: not as many bytes as the layout has.
    """
    first = np.frombuffer(data, layout.first)
    if len(first) != 1:
        raise ValueError(f"{len(data)} bytes; {layout.first.itemsize} are expected")
    return {name: first[name][0] for name in first.dtype.names}


def unpack_plane(data: bytes, layout: Layout) -> np.ndarray:
    """Another of its entries, [n h w c]; ValueError as above."""
    if len(data) != layout.plane.itemsize:
        raise ValueError(f"{len(data)} bytes; {layout.plane.itemsize} are expected")
    return np.frombuffer(data, layout.plane.base).reshape(layout.plane.shape)
