"""safetensors files: one tensor at a time in, shards of a stated size out. Nothing is unpickled."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gen1_jax.errors import UserError
from gen1_jax.files import read_json, write_json

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
TRANSFORMERS_WEIGHTS = "model.safetensors"
# What torch.load reads, and runs: anything may be in there.
_PICKLED = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")

_FLOATS = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# Constants such as position_ids: let stand, never read as parameters.
_INTEGERS = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}
_MAX_HEADER = 100 * 2**20  # bytes, as in the safetensors library


class _Place(NamedTuple):
    """Where a tensor lies."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class TensorFiles(Mapping):
    """The tensors of a model folder by name, each read when it is asked for, as float32.

    A model of any size is so converted in the memory of its result and one tensor.
    """

    def __init__(self, folder: Path):
        """Reads the files' headers only.

        Raises:
          UserError: no weights, a missing shard, a file that is cut off or whose header does not
            fit it, or tensors that are not floating point.
        """
        self.files = find_weight_files(folder)
        self._places: dict[str, _Place] = {}
        for file in self.files:
            for name, place in _read_header(file):
                if place.dtype not in _FLOATS and place.dtype not in _INTEGERS:
                    raise UserError(
                        f"{file}: {name} is {place.dtype}; accepted: float32, float16, bfloat16"
                    )
                if name in self._places:
                    raise UserError(f"{file}: {name} is in {self._places[name].file.name} too")
                self._places[name] = place

    def __getitem__(self, name: str) -> np.ndarray:
        place = self._places[name]
        if place.dtype not in _FLOATS:
            raise UserError(
                f"{place.file}: {name} is {place.dtype}; accepted: float32, float16, bfloat16"
            )
        # Not memory-mapped: pages that were read once would count as this process's memory.
        try:
            array = np.fromfile(
                place.file, _FLOATS[place.dtype], math.prod(place.shape), offset=place.offset
            )
            return array.reshape(place.shape).astype(np.float32, copy=False)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {name} from {place.file}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape, from the headers."""
        return {name: place.shape for name, place in self._places.items()}

    def dtypes(self) -> set[str]:
        """The types that occur, in safetensors' letters (F32, BF16, …)."""
        return {place.dtype for place in self._places.values()}


def find_weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: one, or those that its index lists.

    Raises:
      UserError: there are none, or the index is damaged or points outside the folder.
    """
    for name in (DIFFUSERS_WEIGHTS, TRANSFORMERS_WEIGHTS):
        if (folder / name).exists():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.exists():
            return [folder / shard for shard in _read_index(index)]
    pickled = sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern))
    if pickled:
        raise UserError(
            f"{folder} holds pickled weights only ({pickled[0]}), which can run any code when "
            "read; accepted: safetensors. Convert them once, where you trust them: load the model "
            "in diffusers or transformers and call save_pretrained(FOLDER)"
        )
    raise UserError(
        f"no weights in {folder}; accepted: {DIFFUSERS_WEIGHTS} or {TRANSFORMERS_WEIGHTS}, "
        "or the index of several"
    )


def _read_index(index: Path) -> list[str]:
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


def _read_header(file: Path) -> Iterator[tuple[str, _Place]]:
    """The tensors of one file; the library has checked that they fill it, no more and no less."""
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
      folder: exists.
      name: DIFFUSERS_WEIGHTS or TRANSFORMERS_WEIGHTS.
      shapes: of every tensor; they are divided into shards in this order.
      tensors: read one by one; a shard is in memory at a time.
      dtype: float32, float16 or bfloat16.
      max_shard_bytes: tensors that fill more are divided; a single one may be larger.

    Returns:
      The files, without the index.
    """
    dtype = np.dtype(dtype)
    shards: list[list[str]] = [[]]
    filled = 0
    for key, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += size
    stem, suffix = os.path.splitext(name)
    if len(shards) == 1:
        files = [folder / name]
    else:
        count = len(shards)
        files = [folder / f"{stem}-{i:05d}-of-{count:05d}{suffix}" for i in range(1, count + 1)]
    for file, keys in zip(files, shards, strict=True):
        arrays = {key: _cast(key, np.asarray(tensors[key]), dtype) for key in keys}
        _save(arrays, file)
    if len(shards) > 1:
        total = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
        where = {key: f.name for f, keys in zip(files, shards, strict=True) for key in keys}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        write_json(folder / f"{name}.index.json", index)
    return files


def _save(arrays: dict[str, np.ndarray], file: Path) -> None:
    """Writes one safetensors file, which is as public as any other new file.

    Raises:
      OSError: the file cannot be written.
    """
    try:
        # transformers refuses a file that does not say which framework it is for.
        save_file(arrays, file, metadata={"format": "pt"})
    except SafetensorError as error:  # so the library reports a full disk
        raise OSError(str(error)) from error
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)  # the library makes private files


def _cast(key: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if array.dtype == dtype:
        cast = array
    else:
        with np.errstate(over="ignore", invalid="ignore"):  # looked for below; NaN stays NaN
            cast = array.astype(dtype)
        if dtype == np.float16 and (np.isinf(cast) & np.isfinite(array)).any():
            raise UserError(f"{key} has values beyond float16; write float32 or bfloat16")
    # np.ascontiguousarray alone turns a scalar into a vector of one.
    return np.ascontiguousarray(cast).reshape(array.shape)
