"""Prints of pictures and clips: small thumbnails, and whether two of them show the same.

A print is a row of 32 x 32 cells of luma and 8 x 8 of chroma; a clip has eight. What is compared is
the detail of the luma: coefficients of a discrete cosine transform (DCT), weighted by
frequency^1.5 up to frequency 12, so that every scale counts about the same in a photograph. Two
pictures are the same if, once one of them is aligned to a crop of at most 2 %, straight or
mirrored, their detail is alike as a whole and in four fifths of its parts, and their colours agree.

A print without detail in most parts of the picture (a plain colour, a line of text, a bird in a
sky) says too little: it is like that of any other picture of its kind. Such prints match nothing,
and only an exact copy of the picture counts as a duplicate.

The thresholds were calibrated by `benchmarks/duplicates.py`.
"""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

CELLS, COLOUR_CELLS = 32, 8  # cells on a side of luma, and of chroma
CLIP_FRAMES = 8  # frames of a clip that have a print
# `input` is its number within the chunk, `frame` the row's number among the `frames` rows of its
# record; `digest` is that of all pixels, and zero in the second and later rows of a clip.
ROW = np.dtype(
    [
        ("input", "<u4"),
        ("frame", "u1"),
        ("frames", "u1"),
        ("digest", "<u8", 2),
        ("luma", "u1", (CELLS, CELLS)),
        ("chroma", "u1", (COLOUR_CELLS, COLOUR_CELLS, 2)),
    ]
)

ALIKE = 0.95  # least likeness of two prints as a whole, once aligned
PARTS_ALIKE = 0.8  # least share of parts with detail that are alike; a watermark covers some
_PART_ALIKE = 0.9  # least likeness of such a part
_NEARLY = 0.8  # least likeness before aligning, which is costly
_COLOUR = 8.0  # largest mean difference of chroma, in levels of 255
_LIGHT = 12.0  # largest difference of mean luma, in levels of 255
_NOISE = 6.0  # detail below it, in levels of 255, may be the encoder's
_PARTS = 8  # parts on a side of a print
LEAST_PARTS = 40  # least number of parts, of 64, that hold detail
_KEPT = 16  # frequencies on a side that are looked at
_CROP = 0.02
_AT_ONCE = 256  # pairs


def hash_image(frame: np.ndarray) -> np.ndarray:
    """Returns the prints, [1] of `ROW`, of an image [h w 3] uint8."""
    return _hash(frame[None], frame)


def hash_clip(frames: np.ndarray) -> np.ndarray:
    """Returns the prints, [8] of `ROW`, of frames [n h w 3] uint8.

    They are of the first frame, the last one and six between them, evenly spaced.
    """
    picks = np.linspace(0, len(frames) - 1, CLIP_FRAMES).round().astype(int)
    return _hash(frames[picks], frames)


def _hash(frames: np.ndarray, content: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(frames), ROW)
    rows["frame"], rows["frames"] = np.arange(len(frames)), len(frames)
    digest = hashlib.blake2b(repr(content.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(content))
    rows["digest"][0] = np.frombuffer(digest.digest(), "<u8")
    for row, frame in zip(rows, frames, strict=True):
        small = Image.fromarray(frame).resize((CELLS, CELLS), Image.Resampling.BOX)
        colours = small.convert("YCbCr")
        row["luma"] = np.asarray(colours)[..., 0]
        row["chroma"] = np.asarray(colours.reduce(CELLS // COLOUR_CELLS))[..., 1:]
    return rows


# ---- detail


def cosines(count: int) -> np.ndarray:
    """Returns the first `count` rows of the orthonormal DCT of `CELLS` values."""
    places, frequencies = np.arange(CELLS), np.arange(count)[:, None]
    rows = np.cos(np.pi * (2 * places + 1) * frequencies / (2 * CELLS)) * np.sqrt(2 / CELLS)
    return rows / np.where(frequencies == 0, np.sqrt(2), 1)


def _weigh() -> np.ndarray:
    """Returns weights [v u], under which noise of one level has detail of one level."""
    frequency = np.hypot(*np.meshgrid(np.arange(CELLS), np.arange(CELLS)))
    weights = frequency**1.5 * np.exp(-((frequency / 12) ** 4))
    return (weights / np.sqrt((weights**2).mean()))[:_KEPT, :_KEPT]


def _crops() -> np.ndarray:
    """Returns matrices [7 32 32] that crop or extend a line of cells; the first keeps it."""
    spans = [(0.0, 1.0)]
    for start in (0, _CROP / 2, _CROP):
        spans += [(start, start + 1 - _CROP), (-start, _CROP - start + 1)]
    matrices = np.zeros((len(spans), CELLS, CELLS))
    for matrix, (start, end) in zip(matrices, spans, strict=True):
        places = (start + (np.arange(CELLS) + 0.5) / CELLS * (end - start)) * CELLS - 0.5
        left = np.floor(places).astype(int)
        for row, (cell, share) in enumerate(zip(left, places - left, strict=True)):
            matrix[row, np.clip(cell, 0, CELLS - 1)] += 1 - share
            matrix[row, np.clip(cell + 1, 0, CELLS - 1)] += share
    return matrices


_COSINES, _WEIGHTS = cosines(_KEPT), _weigh()
_CROPPED = _COSINES @ _crops()  # [7 16 32]
_MIRROR = (-1.0) ** np.arange(_KEPT)  # factors of a mirrored picture's coefficients


def has_detail(rows: np.ndarray) -> np.ndarray:
    """Returns for each print whether it says enough to be compared."""
    parts = _split(weigh_detail(rows["luma"]))
    return (_energy(parts, parts) > _NOISE**2).sum(axis=(-1, -2)) >= LEAST_PARTS


def weigh_detail(luma: np.ndarray) -> np.ndarray:
    """Returns weighted coefficients [... 16 16] of luma [... 32 32]."""
    return _COSINES @ luma.astype(np.float64) @ _COSINES.T * _WEIGHTS


def _split(detail: np.ndarray) -> np.ndarray:
    """Returns the parts [... 8 4 8 4] of the picture that weighted coefficients describe."""
    picture, side = _COSINES.T @ detail @ _COSINES, CELLS // _PARTS
    return picture.reshape(*picture.shape[:-2], _PARTS, side, _PARTS, side)


def _energy(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.einsum("...iajb,...iajb->...ij", one, other) / (one.shape[-1] * one.shape[-3])


def _likeness(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns 2ab / (aa + bb) over the last two axes: 1 for equal detail, 0 for unrelated."""
    products = "...ij,...ij->..."
    both = np.einsum(products, one, other)
    energy = np.einsum(products, one, one) + np.einsum(products, other, other)
    return 2 * both / np.maximum(1e-9, energy)


# ---- comparison


def are_same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns whether pairs of pictures or clips are near-copies of each other.

    Args:
      one: [n k] of `ROW`: k frames of n clips, or one of n pictures.
      other: [n k] of `ROW`.

    Returns:
      [n] bool. The frames must agree, all straight or all mirrored, and one must have detail.
    """
    same = np.zeros(len(one), bool)
    for start in range(0, len(one), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        same[part] = _compare(one[part], other[part])
    return same


def _compare(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    details = weigh_detail(one["luma"]), weigh_detail(other["luma"])
    straight = _likeness(*details)
    mirrored = _likeness(details[0], details[1] * _MIRROR)
    turned = mirrored.sum(axis=1) > straight.sum(axis=1)
    luma = np.where(turned[:, None, None, None], other["luma"][..., ::-1], other["luma"])
    chroma = np.where(
        turned[:, None, None, None, None], other["chroma"][:, :, :, ::-1], other["chroma"]
    )
    colours = np.abs(one["chroma"].astype(np.int16) - chroma).mean(axis=(2, 3)).max(axis=-1)
    light = np.abs(one["luma"].mean(axis=(2, 3)) - luma.mean(axis=(2, 3)))
    agree = (colours <= _COLOUR) & (light <= _LIGHT)
    informed = has_detail(one), has_detail(other)
    blank = ~informed[0] & ~informed[1]
    blank &= np.abs(one["luma"].astype(np.int16) - luma).mean(axis=(2, 3)) <= _LIGHT
    nearly = np.where(turned[:, None], mirrored, straight) >= _NEARLY
    possible = agree & ((informed[0] & informed[1] & nearly) | blank)
    worth = possible.all(axis=1) & ~blank.all(axis=1)
    places = np.nonzero(worth[:, None] & ~blank)
    # The means over a clip's frames count, because a watermark covers more of some frames.
    measured = np.zeros((2, *possible.shape))
    measured[:, *places] = align(one["luma"][places], luma[places])
    whole, parts = measured.sum(axis=2) / np.maximum(1, (~blank).sum(axis=1))
    return worth & (whole >= ALIKE) & (parts >= PARTS_ALIKE)


def align(one: np.ndarray, luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compares the detail of prints, once the second is cropped or extended to fit the first.

    Args:
      one: luma [n 32 32] of the first prints.
      luma: luma [n 32 32] of the second ones.

    Returns:
      The likeness of the whole [n], and the share of the parts with detail that are alike [n]; of
      prints that are alike as they are, without aligning.
    """
    detail, other = weigh_detail(one), weigh_detail(luma)
    whole, parts = _likeness(detail, other), _share_alike(detail, other)
    left = np.flatnonzero((whole < ALIKE) | (parts < PARTS_ALIKE))
    if len(left):
        detail = detail[left]
        down = _CROPPED @ luma[left, None].astype(np.float64)  # [n 7 16 32]
        crops = down[:, :, None] @ _CROPPED.swapaxes(1, 2) * _WEIGHTS  # [n 7 7 16 16]
        crops = crops.reshape(len(left), len(_CROPPED) ** 2, _KEPT, _KEPT)
        likeness = _likeness(detail[:, None], crops)
        whole[left] = likeness.max(axis=1)
        parts[left] = _share_alike(detail, crops[np.arange(len(left)), likeness.argmax(axis=1)])
    return whole, parts


def _share_alike(detail: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, two = _split(detail), _split(other)
    energies = _energy(one, one), _energy(two, two)
    alike = 2 * _energy(one, two) / np.maximum(1e-9, energies[0] + energies[1])
    informed = np.maximum(*energies) > _NOISE**2
    agreeing = ((alike >= _PART_ALIKE) & informed).sum(axis=(-1, -2))
    return agreeing / np.maximum(1, informed.sum(axis=(-1, -2)))
