"""Finds prints that may be near-copies: an index of keys, sorted in files.

A print has keys made of the signs of 96 coefficients of its luma's DCT, in four bands of 24. Near-
copies differ in few signs, most of them of small coefficients; so each band gives four keys, with
and without the signs of its two smallest coefficients changed. The sign of an odd coefficient is
taken relative to that of the band's first odd one, because a mirror turns both: a mirrored picture
has the same keys. The remaining signs follow in a key, which brings near-copies together among many
prints of one band.

Entries of all prints are sorted by key and compared with the `WINDOW` entries before them that
agree in the band. The order and so the result depend on the prints alone, and the cost of a print
is bounded however many share a key. The sort is external: each batch of prints is sorted into a
file, and each range of keys is then merged from all files. A range holds about as many entries as
a batch, because ranges are taken from a sample of all entries; a key that many share is split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gen1_jax.data_pipelines.footage.prints import CELLS, cosines, has_detail
from gen1_jax.files import replacing

WINDOW = 64  # entries before an entry with which it is compared
SAMPLED = 1024  # every so many entries, one is sampled
MOST_DIFFERENT = 24  # signs of 96 that may differ; chance gives 48
_BANDS, _SIGNS = 4, 24
_DIGEST = _BANDS  # number of the band that holds digests of whole pictures
_BAND_BITS = 37  # a key: 3 bits of the band's number, 24 signs, 37 of the remaining signs
ENTRY = np.dtype([("key", "<u8"), ("place", "<u8"), ("input", "<u4"), ("signs", "<u4", 3)])
# A key and a place: entries from it on, up to the next, are a range.
BOUND = np.dtype([("key", "<u8"), ("place", "<u8")])
# Places of a print and of one before it, the number of signs that differ and one, and the input of
# the first. Prints of equal digests have the distance `EXACT` and need no comparison.
PAIR = np.dtype([("later", "<u8"), ("first", "<u8"), ("distance", "<u4"), ("input", "<u4")])
EXACT = 0
_CHUNK_BITS = 40  # a place: the chunk's number, and 40 bits of the row's number in it


def _choose() -> tuple[np.ndarray, ...]:
    """Returns v [96], u [96] of the coefficients, band by band; frequencies are dealt in turn."""
    v, u = np.mgrid[:CELLS, :CELLS].reshape(2, -1)
    lowest = np.argsort(u * u + v * v, kind="stable")[1 : 1 + _BANDS * _SIGNS]
    dealt = lowest.reshape(_SIGNS, _BANDS).T.ravel()
    return v[dealt], u[dealt]


_V, _U = _choose()
_ODD = (_U % 2).reshape(_BANDS, _SIGNS).astype(bool)
_HIGHEST = 1 + max(_V.max(), _U.max())
# Whole numbers, whose products are exact in float64: every machine finds the same signs.
_COSINES = np.round(4096 * cosines(_HIGHEST))
_MIRRORED = np.packbits(_ODD.ravel(), bitorder="little").view("<u4")


def place_of(chunk: int | np.ndarray, rows: int | np.ndarray) -> np.ndarray:
    """Returns the places of rows of chunks: numbers that keep the order of the inputs."""
    return (np.asarray(chunk, np.uint64) << np.uint64(_CHUNK_BITS)) + np.asarray(rows, np.uint64)


def chunk_and_row(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the chunks and the rows of places."""
    rows = places & np.uint64((1 << _CHUNK_BITS) - 1)
    return (places >> np.uint64(_CHUNK_BITS)).astype(np.int64), rows.astype(np.int64)


# ---- entries


def make_entries(rows: np.ndarray, chunk: int, first: int) -> np.ndarray:
    """Returns the entries, unsorted, of prints.

    Args:
      rows: [n] of `prints.ROW`.
      chunk: number of their chunk.
      first: number of the first of them in the chunk.
    """
    places = place_of(chunk, first + np.arange(len(rows)))
    whole = rows["digest"].any(axis=1)
    digests = np.zeros(np.count_nonzero(whole), ENTRY)
    digests["place"], digests["input"] = places[whole], rows["input"][whole]
    digest = np.ascontiguousarray(rows["digest"][whole])
    digests["key"] = (digest[:, 0] >> np.uint64(3)) | np.uint64(_DIGEST << 61)
    digests["signs"] = digest.view("<u4").reshape(-1, 4)[:, 1:]
    informed = has_detail(rows)
    keys, signs = _make_keys(rows["luma"][informed])
    entries = np.zeros(keys.shape, ENTRY)
    entries["key"], entries["signs"] = keys, signs[:, None]
    entries["place"] = places[informed][:, None]
    entries["input"] = rows["input"][informed][:, None]
    return np.concatenate([digests, entries.ravel()])


def _make_keys(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns keys [n 16] uint64 and signs [n 3] uint32 of luma [n 32 32]."""
    count = len(luma)
    coefficients = (_COSINES @ luma.astype(np.float64) @ _COSINES.T)[:, _V, _U]
    coefficients = np.ascontiguousarray(coefficients).reshape(count, _BANDS, _SIGNS)
    signs = coefficients > 0
    smallest = np.argsort(np.abs(coefficients), axis=2, kind="stable")[..., :2]
    keys = np.empty((count, _BANDS, 4), np.uint64)
    for band in range(_BANDS):
        order = [(band + turn) % _BANDS for turn in range(_BANDS)]
        first = int(_ODD[band].argmax())  # the odd coefficient to which others are relative
        turned = signs[:, band, first, None] & _ODD[order].ravel()
        ordered = signs[:, order].reshape(count, _BANDS * _SIGNS) ^ turned
        key = _to_numbers(ordered) | np.uint64(band << 61)
        changes = _to_numbers(_changes(order, first))[smallest[:, band]]  # [n 2]
        keys[:, band, 0], keys[:, band, 3] = key, key ^ changes[:, 0] ^ changes[:, 1]
        keys[:, band, 1:3] = key[:, None] ^ changes
    packed = np.packbits(signs.reshape(count, _BANDS * _SIGNS), axis=1, bitorder="little")
    return keys.reshape(count, 4 * _BANDS), packed.view("<u4")


def _changes(order: list[int], first: int) -> np.ndarray:
    """Returns which signs [24 96] of a key change if one of its band's coefficients does."""
    changes = np.eye(_SIGNS, _BANDS * _SIGNS, dtype=bool)
    changes[first] = _ODD[order].ravel()
    changes[first, first] = False  # relative to itself, it is always the same
    return changes


def _to_numbers(signs: np.ndarray) -> np.ndarray:
    """Returns the first 61 of signs [n 96] as numbers, the first sign highest."""
    padded = np.zeros((len(signs), 64), bool)
    padded[:, 3:] = signs[:, :61]
    return np.packbits(padded, axis=1).view(">u8").ravel().astype(np.uint64)


# ---- sorted files


def write_entries(entries: np.ndarray, path: Path) -> None:
    """Writes a batch's entries, sorted, and a sample of them beside it, which is written last."""
    order = np.lexsort((entries["place"], entries["key"]))
    entries = entries[order]
    with replacing(path) as part:
        part.write_bytes(entries.data)
    sample = np.empty(-(-len(entries) // SAMPLED), BOUND)
    for name in BOUND.names:
        sample[name] = entries[name][::SAMPLED]
    with replacing(sample_of(path)) as part:
        part.write_bytes(sample.data)


def sample_of(path: Path) -> Path:
    """Returns the place of a file's sample."""
    return path.with_suffix(".sample")


def read_sample(path: Path) -> np.ndarray:
    """Returns the sample [n] of `BOUND` of a file of entries."""
    return np.frombuffer(sample_of(path).read_bytes(), BOUND)


def choose_bounds(samples: Sequence[np.ndarray], most: int) -> np.ndarray:
    """Returns the lower bounds of ranges that hold about `most` entries each.

    A bound is at the beginning of a band's key, unless the range before it has the same key.
    """
    every = np.concatenate([*samples, np.zeros(0, BOUND)])
    every = np.sort(every, order=("key", "place"))
    bounds = every[max(1, most // SAMPLED) :: max(1, most // SAMPLED)].copy()
    group = bounds["key"] >> np.uint64(_BAND_BITS)
    new = np.concatenate([[True], group[1:] != group[:-1]])[: len(bounds)]
    bounds["key"][new] = group[new] << np.uint64(_BAND_BITS)
    bounds["place"][new] = 0
    return np.concatenate([np.zeros(1, BOUND), bounds])


def read_range(
    paths: Sequence[Path], lower: np.void, upper: np.void | None
) -> tuple[np.ndarray, int]:
    """Reads a range of keys from all files.

    Args:
      paths: files of entries.
      lower: the range's lower bound.
      upper: the next range's lower bound, or None for the last range.

    Returns:
      The entries, sorted, and the number of them that come before the range: at least the `WINDOW`
      ones nearest to it, if there are as many.
    """
    parts = []
    for path in paths:
        sample = read_sample(path)
        first = max(0, _rank(sample, lower) - 2) * SAMPLED
        last = None if upper is None else _rank(sample, upper) * SAMPLED
        if last is None or last > first:
            read = _read(path, first, last)  # whole samples, of which the range is a part
            end = len(read) if upper is None else _rank(read, upper)
            parts.append(read[max(0, _rank(read, lower) - WINDOW) : end].copy())
    entries = np.concatenate([*parts, np.zeros(0, ENTRY)])
    entries = entries[np.lexsort((entries["place"], entries["key"]))]
    begin = _rank(entries, lower)
    before = max(0, begin - WINDOW)
    return entries[before:], begin - before


def _rank(ordered: np.ndarray, bound: np.void) -> int:
    """Returns how many of the ordered entries come before a bound."""
    first = np.searchsorted(ordered["key"], bound["key"], "left")
    last = np.searchsorted(ordered["key"], bound["key"], "right")
    return int(first + np.searchsorted(ordered["place"][first:last], bound["place"], "left"))


def _read(path: Path, first: int, last: int | None) -> np.ndarray:
    with path.open("rb") as file:
        file.seek(first * ENTRY.itemsize)
        return np.frombuffer(
            file.read(-1 if last is None else (last - first) * ENTRY.itemsize), ENTRY
        )


# ---- candidates


def find_pairs(entries: np.ndarray, before: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields pairs of entries of two inputs that may be near-copies, the nearest in order first.

    Args:
      entries: sorted entries.
      before: number of the first ones, which are not compared among themselves.

    Yields:
      Numbers of the entries of the later prints, and the pairs, [n] of `PAIR`.
    """
    group = entries["key"] >> np.uint64(_BAND_BITS)
    chunk = entries["place"] >> np.uint64(_CHUNK_BITS)
    digest = entries["key"] >> np.uint64(61) == _DIGEST
    number = np.arange(max(1, before), len(entries))
    for distance in range(1, WINDOW + 1):
        number = number[number >= distance]
        number = number[group[number] == group[number - distance]]
        if not len(number):
            return
        other = number - distance
        differs = chunk[other] != chunk[number]
        differs |= entries["input"][other] != entries["input"][number]
        one, two = other[differs], number[differs]
        signs = entries["signs"][one] ^ entries["signs"][two]
        changed = np.bitwise_count(signs).sum(axis=1, dtype=np.int64)
        mirrored = np.bitwise_count(signs ^ _MIRRORED).sum(axis=1, dtype=np.int64)
        changed = np.where(
            digest[two], np.where(changed, 96, EXACT), 1 + np.minimum(changed, mirrored)
        )
        near = changed <= 1 + MOST_DIFFERENT
        one, two, changed = one[near], two[near], changed[near]
        swapped = entries["place"][one] > entries["place"][two]
        one, two = np.where(swapped, two, one), np.where(swapped, one, two)
        pairs = np.empty(len(one), PAIR)
        pairs["later"], pairs["first"] = entries["place"][two], entries["place"][one]
        pairs["input"], pairs["distance"] = entries["input"][one], changed
        yield two, pairs
