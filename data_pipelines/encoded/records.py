"""The layout of encoded clips: all records of a folder have the same fields, shapes and types.

A clip of n frames is stored as 2 + k entries, one behind another, where k is the number of its blur
levels. The first entry holds:

    latents         [n h w c]  means of the autoencoder's latents, scaled
    levels          [k] int32  the blur levels of the structure
    content         [n d]      image embedding of every frame
    tokens          [l] int32  the caption, where there is one

The second entry holds `latents_logvar` [n h w c], log variances of the latents. Each further entry
holds `structure` [n h w c] at one level: the means of the latents of the blurred depth. A training
step therefore reads only what it needs. An entry is the bytes of a NumPy structured type,
little-endian, followed by their CRC-32 in four bytes. The shapes and types are in the folder's
meta.json. All clips take the same number of bytes, so the place of an entry in its file follows
from its number: no index is stored or kept in memory, however many clips there are.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gen1_jax.batch import SCHEMA
from gen1_jax.errors import UserError

FORMAT = 3
_CRC = 4  # bytes of an entry's checksum
PRECISIONS = ("float16", "float32")
# Stored field → the field of `Batch` that is drawn from it, and the axis that takes the place of
# the batch axis: k blur levels, n frames, or none.
_FROM_BATCH = {
    "latents": ("latents", ""),
    "latents_logvar": ("latents_logvar", ""),
    "structure": ("structure", "k"),
    "levels": ("structure_level", "k"),
    "content": ("content", "n"),
    "tokens": ("tokens", ""),
}
# The axes of each stored field.
AXES = {
    name: " ".join([*filter(None, [axis]), *SCHEMA[field][0].split()[1:]])
    for name, (field, axis) in _FROM_BATCH.items()
}
# These are stored as int32, all others in the folder's precision.
_INTEGERS = tuple(
    name for name, (field, _) in _FROM_BATCH.items() if issubclass(SCHEMA[field][1], np.integer)
)
_OPTIONAL = ("tokens",)
_APART = ("latents_logvar", "structure")  # fields outside a clip's first entry


class Layout(NamedTuple):
    """The layout of a folder's records.

    Attributes:
      shapes: name and shape of each field, in the order of `AXES`.
      precision: type of all numbers that are no integers.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    precision: str

    @property
    def num_levels(self) -> int:
        return dict(self.shapes)["structure"][0]

    @property
    def entries(self) -> int:
        """Number of entries of a clip."""
        return 2 + self.num_levels

    @property
    def size(self) -> int:
        """Size of a clip in bytes, with its checksums."""
        offset, length = self.place(self.entries - 1)
        return offset + length

    def place(self, entry: int) -> tuple[int, int]:
        """Returns where an entry of a clip begins in it, and its length, in bytes."""
        first, plane = self.first.itemsize + _CRC, self.plane.itemsize + _CRC
        return (first + (entry - 1) * plane, plane) if entry else (0, first)

    @property
    def first(self) -> np.dtype:
        """Type of a clip's first entry."""
        return np.dtype([(n, self._scalar(n), s) for n, s in self.shapes if n not in _APART])

    @property
    def plane(self) -> np.dtype:
        """Type of each further entry."""
        return np.dtype((self._scalar("latents"), dict(self.shapes)["latents"]))

    def _scalar(self, name: str) -> str:
        if name in _INTEGERS:
            return "<i4"
        return np.dtype(self.precision).newbyteorder("<").str

    def to_json(self) -> dict[str, Any]:
        return {"precision": self.precision, "fields": {n: list(s) for n, s in self.shapes}}


def make_layout(shapes: Mapping[str, Sequence[int]], precision: str = "float16") -> Layout:
    """Returns the layout of records whose fields have these shapes.

    Raises:
      UserError: a field is missing, unknown, of the wrong rank, or disagrees with another; or the
        precision is unknown.
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
    """Returns the layout that `Layout.to_json` wrote.

    Raises:
      UserError: the data are something else.
    """
    try:
        shapes = {
            str(name): [int(size) for size in shape] for name, shape in data["fields"].items()
        }
        return make_layout(shapes, data["precision"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError("the layout of its records is not readable") from error


# ---- writing


def pack(record: Mapping[str, np.ndarray], layout: Layout, name: str) -> list[bytes]:
    """Returns the entries of a clip.

    Args:
      record: the clip's fields.
      layout: the layout of all records.
      name: name of the clip in messages.

    Raises:
      UserError: fields or shapes differ from the layout, or the precision cannot hold a number.
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
        bad = None if field in _INTEGERS else _find_unfit(value, layout.precision)
        if bad is not None:
            raise UserError(f"{name}: {field} holds {bad}, which {layout.precision} cannot store")
    first = np.empty((), layout.first)
    for field in first.dtype.names:
        first[field] = record[field]
    planes = (record["latents_logvar"], *record["structure"])
    entries = [first.tobytes(), *(np.asarray(p, layout.plane.base).tobytes() for p in planes)]
    return [entry + zlib.crc32(entry).to_bytes(_CRC, "little") for entry in entries]


def _find_unfit(value: np.ndarray, precision: str) -> float | None:
    """Returns the first number that is not finite or too large for the precision, if any."""
    with np.errstate(invalid="ignore"):
        fits = np.abs(value) <= np.finfo(precision).max
    return None if fits.all() else float(value[~fits].flat[0])


# ---- reading


def unpack_first(data: bytes, layout: Layout) -> dict[str, np.ndarray]:
    """Returns the fields of a clip's first entry, as read-only views of the bytes.

    Raises:
      ValueError: the bytes are not those that were written.
    """
    first = np.frombuffer(_check(data, layout.first.itemsize), layout.first)
    return {name: first[name][0] for name in first.dtype.names}


def unpack_plane(data: bytes, layout: Layout) -> np.ndarray:
    """Returns the array [n h w c] of another entry.

    Raises:
      ValueError: the bytes are not those that were written.
    """
    plane = np.frombuffer(_check(data, layout.plane.itemsize), layout.plane.base)
    return plane.reshape(layout.plane.shape)


def _check(data: bytes, size: int) -> memoryview:
    """Returns an entry without its checksum, which must be that of its bytes."""
    if len(data) != size + _CRC:
        raise ValueError(f"{len(data)} bytes; {size + _CRC} are expected")
    entry = memoryview(data)[:size]
    if zlib.crc32(entry) != int.from_bytes(data[size:], "little"):
        raise ValueError("its checksum is that of other bytes")
    return entry
