"""The precomputed encoded form: what the frozen encoders make of each clip, as ArrayRecord files.

A record of a clip of n frames holds

    latents    [n h w c] float16     means of the autoencoder's latents, scaled
    structure  [k n h w c] float16   latents of the depth at k blur levels
    levels     [k] int32             which levels these are
    content    [n d] float16         image embedding of every frame
    tokens     [l] int32             the caption, where there is one

as the bytes of `np.savez`. A folder holds numbered files and `meta.json`, which is written last:
without it the folder is not finished.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines import mixture
from data_pipelines.transforms import Select
from gen1_jax.errors import UserError

_DTYPES = {
    "latents": (4, np.float16),
    "structure": (5, np.float16),
    "levels": (1, np.int32),
    "content": (2, np.float16),
    "tokens": (1, np.int32),
}
_REQUIRED = ("latents", "structure", "levels", "content")
_FORMAT = 1


def serialize(record: dict[str, np.ndarray]) -> bytes:
    """Checks a record and gives its bytes.

    Raises:
        UserError: fields missing, unknown, of the wrong rank or disagreeing, or values that
            float16 cannot hold.
    """
    missing = [k for k in _REQUIRED if k not in record]
    unknown = [k for k in record if k not in _DTYPES]
    if missing or unknown:
        wrong = f"no {missing[0]}" if missing else f"an unknown {unknown[0]}"
        raise UserError(f"an encoded record has {wrong}; accepted: {', '.join(_DTYPES)}")
    arrays = {}
    for name, value in record.items():
        rank, dtype = _DTYPES[name]
        with np.errstate(over="ignore"):  # an overflow is reported below
            arrays[name] = np.asarray(value).astype(dtype)
        if arrays[name].ndim != rank:
            raise UserError(f"encoded {name} has {arrays[name].ndim} axes; {rank} are accepted")
        if dtype == np.float16 and not np.isfinite(arrays[name]).all():
            raise UserError(f"encoded {name} holds values that float16 cannot: check the encoder")
    levels, n = arrays["levels"], len(arrays["latents"])
    shape = arrays["structure"].shape
    if shape[:2] != (len(levels), n) or len(arrays["content"]) != n:
        raise UserError(
            f"encoded record disagrees: latents of {n} frames, structure {shape} for levels "
            f"{levels.tolist()}, content of {len(arrays['content'])} frames"
        )
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def deserialize(data: bytes) -> dict[str, np.ndarray]:
    """The inverse of `serialize`."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


class EncodedWriter:
    """Writes a folder of encoded records; a context manager.

        with EncodedWriter(folder, meta={"levels": [0, 3, 7]}) as writer:
            writer.write(record)

    A file has its final name only when it is whole. Where the block raises, nothing is left.

    Raises:
        UserError: the folder is finished already, or cannot be written.
    """

    def __init__(
        self, folder: str | Path, *, meta: dict | None = None, records_per_file: int = 4096
    ):
        self._folder, self._meta = Path(folder), dict(meta or {})
        self._records_per_file = records_per_file
        self._files: list[str] = []
        self._count = 0
        self._writer: Any = None
        if (self._folder / "meta.json").exists():
            raise UserError(f"{folder} holds encoded clips already; remove it or name another")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror}") from error

    def __enter__(self) -> EncodedWriter:
        return self

    def write(self, record: dict[str, np.ndarray]) -> None:
        """Adds a clip's record."""
        data = serialize(record)
        if self._writer is None:
            self._files.append(f"clips-{len(self._files):05d}.array_record")
            # group_size:1 gives every record its own chunk, which random access wants.
            self._writer = ArrayRecordWriter(str(self._temporary()), "group_size:1")
        self._writer.write(data)
        self._count += 1
        if self._count % self._records_per_file == 0:
            self._close_file()

    def __exit__(self, error_type, error, trace) -> None:
        if error_type is None and self._count:
            self._close_file()
            meta = {
                "format": _FORMAT,
                "count": self._count,
                "files": self._files,
                **self._meta,
            }
            part = self._folder / ".meta.json.part"
            part.write_text(json.dumps(meta, indent=2) + "\n")
            os.replace(part, self._folder / "meta.json")
            return
        if self._writer is not None:
            self._writer.close()
        for name in self._files:
            (self._folder / name).unlink(missing_ok=True)
            (self._folder / f".{name}.part").unlink(missing_ok=True)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()
        if error_type is None:
            raise UserError(f"no clips were encoded to {self._folder}; at least one is needed")

    def _temporary(self) -> Path:
        return self._folder / f".{self._files[-1]}.part"

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            os.replace(self._temporary(), self._folder / self._files[-1])


class EncodedSource:
    """Random access to the records of one finished folder or several.

    Attributes:
        meta: of the (first) folder.
        folder: the (first) folder.

    Raises:
        UserError: a folder that is missing, unfinished or of another format.
    """

    def __init__(self, folders: str | Path | Sequence[str | Path]):
        if isinstance(folders, (str, Path)):
            folders = [folders]
        metas, paths = [], []
        for folder in map(Path, folders):
            metas.append(_read_meta(folder))
            paths += [str(folder / name) for name in metas[-1]["files"]]
        self.meta = metas[0]
        self.folder = Path(folders[0])
        self._paths = paths
        self._records = ArrayRecordDataSource(paths)
        if len(self._records) != sum(m["count"] for m in metas):
            raise UserError(f"{folders[0]} holds fewer or more clips than its meta.json says")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return deserialize(self._records[index])

    def __repr__(self) -> str:
        return f"EncodedSource(paths={self._paths!r})"


def _read_meta(folder: Path) -> dict:
    try:
        meta = json.loads((folder / "meta.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is no finished folder of encoded clips: it has no readable meta.json"
        ) from error
    if meta.get("format") != _FORMAT:
        raise UserError(f"{folder} has format {meta.get('format')}; {_FORMAT} is accepted")
    missing = [name for name in meta["files"] if not (folder / name).exists()]
    if missing:
        raise UserError(f"{folder} lacks {missing[0]}, which its meta.json names")
    return meta


class ToBatchForm(grain.transforms.RandomMap):
    """From a stored record to an example of Batch's encoded form, in float32.

    A random level among those stored and permitted, the content of a random frame, and for an
    image that one frame alone.

    Args:
        levels: permitted blur levels.
        image: whether to keep one frame.
    """

    def __init__(self, levels: Sequence[int] = tuple(range(8)), image: bool = False):
        self._levels, self._image = tuple(levels), image

    def random_map(
        self, element: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        return to_batch_form(element, rng, self._levels, self._image)


def to_batch_form(
    record: dict[str, np.ndarray],
    rng: np.random.Generator,
    levels: Sequence[int] = tuple(range(8)),
    image: bool = False,
) -> dict[str, np.ndarray]:
    """See `ToBatchForm`.

    Returns:
        latents [n h w c], structure [n h w c], structure_level [], content [d], and tokens [l]
        where there are any; n = 1 for an image.

    Raises:
        UserError: none of the permitted levels is stored.
    """
    stored = record["levels"]
    usable = np.flatnonzero(np.isin(stored, levels))
    if not len(usable):
        raise UserError(f"no structure level of {tuple(levels)} is stored; {stored.tolist()} are")
    level = usable[rng.integers(len(usable))]
    frame = int(rng.integers(len(record["latents"])))
    kept = slice(frame, frame + 1) if image else slice(None)
    example = {
        "latents": record["latents"][kept].astype(np.float32),
        "structure": record["structure"][level, kept].astype(np.float32),
        "structure_level": np.int32(stored[level]),
        "content": record["content"][frame].astype(np.float32),
    }
    if "tokens" in record:
        example["tokens"] = record["tokens"]
    return example


def make_encoded_dataset(
    videos: EncodedSource,
    images: Sequence[EncodedSource] = (),
    *,
    batch_size: int,
    image_batch_size: int | None = None,
    image_fraction: float = mixture.IMAGE_FRACTION,
    num_frames: int | None = None,
    buckets: Sequence[tuple[int, int]] = (),
    image_buckets: Sequence[tuple[int, int]] = (),
    levels: Sequence[int] = tuple(range(8)),
    fields: Sequence[str] = ("latents", "structure", "structure_level", "content"),
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    **reading: int,
) -> mixture.Stream:
    """An endless stream of encoded batches, mixed as `mixture.make_dataset` mixes raw ones.

    Args:
        videos: encoded clips.
        images: encoded images, one source a size, which are taken in turn; by default random
            frames of `videos`.
        batch_size: clips in a batch, over all processes.
        image_batch_size: images in a batch; by default frames are as many as in a video batch.
        image_fraction: of batches that are images.
        num_frames: that clips must have.
        buckets: the size (h, w) that their latents must have, if one is given.
        image_buckets: sizes of the latents of `images`, in their order.
        levels: permitted blur levels.
        fields: what a batch holds.
        seed: of the order, levels and frames.
        process_index: this host.
        process_count: hosts.
        **reading: `num_threads`, `prefetch`, `num_workers`, as in `mixture.Stream`.

    Raises:
        UserError: an empty source, or one whose records have another size.
    """
    shared = {"seed": seed, "process_index": process_index, "process_count": process_count}

    def batches(source: EncodedSource, size: int, component: int) -> grain.MapDataset:
        steps = [ToBatchForm(levels, image=component > 0), Select(tuple(fields))]
        return mixture.batches([source], steps, size, component=component, **shared)

    if not all(map(len, (videos, *images))):
        raise UserError("a source of 0 records cannot feed training")
    _check_sizes([videos], buckets, num_frames)
    _check_sizes(images, image_buckets, None)
    per_batch = image_batch_size or batch_size * len(videos[0]["latents"])
    pictures = enumerate(images or [videos], 1)
    return mixture.Stream(
        mixture.mix(
            [batches(videos, batch_size, 0)] if image_fraction < 1 else [],
            [batches(each, per_batch, i) for i, each in pictures] if image_fraction > 0 else [],
            image_fraction,
        ),
        **reading,
    )


def _check_sizes(
    sources: Sequence[EncodedSource], sizes: Sequence[tuple[int, int]], num_frames: int | None
) -> None:
    """UserError where a source's first record is not what the config says."""
    if sizes and len(sizes) != len(sources):
        raise UserError(
            f"{len(sources)} folders of encoded data, but {len(sizes)} sizes of latents"
        )
    for source, size in zip(sources, sizes, strict=False):
        n, *stored, _ = source[0]["latents"].shape
        if tuple(stored) != tuple(size) or num_frames not in (None, n):
            wanted = f"{num_frames or n} frames of {size[0]} x {size[1]}"
            raise UserError(
                f"{source.folder} holds latents of {n} frames of {stored[0]} x {stored[1]}; the "
                f"config says {wanted}"
            )
