"""safetensors files: tensors are read one at a time, and written in shards of a given size.

Nothing is ever unpickled.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gen1_jax.errors import UserError
from gen1_jax.files import local_copy, read_json, write_json
from gen1_jax.weights.foreign import FLOATS, advice_on_embedding, advice_on_names, advice_on_tensors
from gen1_jax.weights.variants import DIFFUSERS_WEIGHTS, TRANSFORMERS_WEIGHTS, choose_weights

WEIGHT_NAMES = f"{DIFFUSERS_WEIGHTS} or {TRANSFORMERS_WEIGHTS}, or the index of several"

_FLOATS = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# The types of constants such as position_ids, which are never read as parameters.
_INTEGERS = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}
_MAX_HEADER = 100 * 2**20  # bytes, as in the safetensors library


Report = Callable[[str, int], None]  # called with a tensor's name and its size in bytes


def ignore_report(name: str, size: int) -> None:
    """A `Report` that does nothing."""


# ---- reading


class _Place(NamedTuple):
    """The place of a tensor: its file, type, shape, and offset in bytes from the file's begin."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class TensorFiles(Mapping):
    """The tensors of a model folder by name. Each is read as float32 when it is asked for.

    So the conversion of a model takes the memory of its result and of one tensor.

    Attributes:
      files: the safetensors files.
    """

    def __init__(self, folder: Path, variant: str | None = None):
        """Reads the headers of the files.

        Args:
          folder: the model folder.
          variant: see `find_weight_files`.

        Raises:
          UserError: there are no weights, a shard is missing, a file is cut off or does not fit
            its header, a tensor is of a type that we do not read, or the tensors are those of an
            adapter or of another format.
        """
        folder = local_copy(folder, "config.json")
        self.files = find_weight_files(folder, variant)
        self._places: dict[str, _Place] = {}
        for file in self.files:
            for name, place in _read_header(file):
                if name in self._places:
                    raise UserError(f"{file}: {name} is in {self._places[name].file.name} too")
                self._places[name] = place
        if what := advice_on_tensors(self.shapes, self._dtypes):
            raise UserError(f"{folder} holds {what}")
        for name, place in self._places.items():
            if place.dtype not in _FLOATS and place.dtype not in _INTEGERS:
                raise UserError(f"{place.file}: {name} is {place.dtype}; accepted: {FLOATS}")

    def __getitem__(self, name: str) -> np.ndarray:
        return _read_tensor(name, self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, from the headers."""
        return {name: place.shape for name, place in self._places.items()}

    @property
    def _dtypes(self) -> dict[str, str]:
        return {name: place.dtype for name, place in self._places.items()}


class ReportedTensors(Mapping):
    """Tensors that report each reading, for a progress bar."""

    def __init__(self, tensors: Mapping[str, np.ndarray], report: Report):
        self._tensors, self._report = tensors, report

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._tensors[name]
        self._report(name, array.nbytes)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def find_weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """Returns the safetensors files of a model folder: one, or those that its index lists.

    Args:
      folder: the model folder.
      variant: the variant to read; None takes the plain weights, or else the only variant.

    Raises:
      UserError: there are none, or the index is damaged or points outside of the folder.
    """
    names = file_names(folder)
    weights = choose_weights(names, variant, str(folder))
    if weights and weights.index:
        return [folder / shard for shard in _read_index(folder / weights.index)]
    if weights:
        return [folder / file for file in weights.files]
    if what := advice_on_names(names, str(folder)):
        raise UserError(what)
    others = [name for name in names if name.endswith(".safetensors")]
    there = f"; {others[0]} is there" if others else ""
    raise UserError(f"no weights in {folder}; accepted: {WEIGHT_NAMES}{there}")


def file_names(folder: Path) -> list[str]:
    """Returns the names of what a folder holds; none if there is no such folder."""
    try:
        return sorted(each.name for each in folder.iterdir() if each.exists())
    except OSError:
        return []


def _read_index(index: Path) -> list[str]:
    """Returns the files that an index lists."""
    shards = (read_json(index) or {}).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UserError(f"{index} lists no files; it must hold a weight_map")
    for shard in shards.values():
        plain = isinstance(shard, str) and Path(shard).name == shard
        if not plain or Path(shard).suffix != ".safetensors":
            raise UserError(
                f"{index} lists {shard!r}; accepted: safetensors files beside the index"
            )
    return sorted(set(shards.values()))


def advice_on_file(file: Path) -> str | None:
    """Returns what a single safetensors file holds, if it is a kind that we know and do not read.

    Raises:
      UserError: it is no whole safetensors file.
    """
    places = dict(_read_header(file))
    shapes = {name: place.shape for name, place in places.items()}
    dtypes = {name: place.dtype for name, place in places.items()}
    return advice_on_tensors(shapes, dtypes) or advice_on_embedding(shapes)


def _read_header(file: Path) -> Iterator[tuple[str, _Place]]:
    """Yields the tensors of one file, after the library checked that they fill it exactly."""
    try:
        with safe_open(file, framework="numpy"):
            pass
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, _MAX_HEADER)))
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing, but the index beside it lists it") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{file} is no whole safetensors file: {error}") from error
    for name, entry in header.items():
        if name != "__metadata__":
            begin = 8 + length + entry["data_offsets"][0]
            yield name, _Place(file, entry["dtype"], tuple(entry["shape"]), begin)


def _read_tensor(name: str, place: _Place) -> np.ndarray:
    if place.dtype not in _FLOATS:
        raise UserError(f"{place.file}: {name} is {place.dtype}; accepted: {FLOATS}")
    # The file is not memory-mapped, since pages that were read once would count as memory of this
    # process.
    try:
        array = np.fromfile(
            place.file, _FLOATS[place.dtype], math.prod(place.shape), offset=place.offset
        )
        return array.reshape(place.shape).astype(np.float32, copy=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {name} from {place.file}: {error}") from error


def read_file(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the tensors of a single file as float32, whatever they are, and its metadata.

    Raises:
      UserError: it is no whole safetensors file, or a tensor is of a type that we do not read.
    """
    tensors = {name: _read_tensor(name, place) for name, place in _read_header(file)}
    with safe_open(file, framework="numpy") as opened:
        return tensors, dict(opened.metadata() or {})


# ---- writing


def write_tensors(
    folder: Path,
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, np.ndarray],
    dtype: Any = np.float32,
    max_shard_bytes: int = 5 * 10**9,
) -> list[Path]:
    """Writes tensors as `name`, or as several shards and their index, in the public layout.

    Args:
      folder: an existing folder.
      name: DIFFUSERS_WEIGHTS or TRANSFORMERS_WEIGHTS.
      shapes: the shape of every tensor; tensors are divided into shards in this order.
      tensors: the tensors, which are read one by one; one shard is in memory at a time.
      dtype: float32, float16 or bfloat16.
      max_shard_bytes: the size that a shard may have; only a single tensor may be larger.

    Returns:
      The files, without the index.

    Raises:
      UserError: a value does not fit into float16.
      OSError: the files cannot be written.
    """
    from huggingface_hub import split_state_dict_into_shards_factory  # slow to import

    dtype = np.dtype(dtype)
    stem, suffix = os.path.splitext(name)
    plan = split_state_dict_into_shards_factory(
        shapes,
        get_storage_size=lambda shape: math.prod(shape) * dtype.itemsize,
        filename_pattern=f"{stem}{{suffix}}{suffix}",
        max_shard_size=max_shard_bytes,
    )
    for file, keys in plan.filename_to_tensors.items():
        arrays = {key: _cast(key, np.asarray(tensors[key]), dtype) for key in keys}
        save_tensors(arrays, folder / file)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / f"{name}.index.json", index)
    return [folder / file for file in plan.filename_to_tensors]


def save_tensors(arrays: dict[str, np.ndarray], file: Path) -> None:
    """Writes one safetensors file with the permissions of any other new file.

    Raises:
      OSError: the file cannot be written.
    """
    try:
        # transformers refuses a file that does not say which framework it is for.
        save_file(arrays, file, metadata={"format": "pt"})
    except SafetensorError as error:  # the library's way to report a full disk
        raise OSError(str(error)) from error
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)  # the library makes files private


def _cast(key: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns a contiguous array of the type; raises UserError if a value does not fit into it."""
    if array.dtype == dtype:
        cast = array
    else:
        with np.errstate(over="ignore", invalid="ignore"):  # checked below; NaN stays NaN
            cast = array.astype(dtype)
        if dtype == np.float16 and (np.isinf(cast) & np.isfinite(array)).any():
            raise UserError(f"{key} has values beyond float16; write float32 or bfloat16")
    # np.ascontiguousarray alone turns a scalar into a vector of one.
    return np.ascontiguousarray(cast).reshape(array.shape)
