"""Reads encoded clips: what the encoders made of each clip, once for all training.

`records.py` says how a record is stored, `writer.py` how a folder is written, and `folders.py`
where the folders of a data set lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from gen1_jax.data_pipelines import mixture
from gen1_jax.data_pipelines.encoded.records import (
    FORMAT,
    read_layout,
    unpack_first,
    unpack_plane,
)
from gen1_jax.data_pipelines.encoded.writer import META
from gen1_jax.data_pipelines.stream import Stream
from gen1_jax.data_pipelines.transforms import ALL_LEVELS, Choice, Select, choose
from gen1_jax.errors import UserError
from gen1_jax.files import read_json

FIELDS = ("latents", "structure", "structure_level", "content")


# ---- a folder's clips


class EncodedSource:
    """Random access to the clips of one finished folder or several.

    The structure of a clip at blur level `clip["levels"][i]` is `clip["structure"][i]` [n h w c].

    Attributes:
      meta: settings of the (first) folder.
      layout: layout of the records.
      folder: the (first) folder.

    Raises:
      UserError: a folder is missing, unfinished, of another format, or unlike the others.
    """

    def __init__(self, folders: str | Path | Sequence[str | Path]):
        if isinstance(folders, (str, Path)):
            folders = [folders]
        metas, paths = [], []
        for folder in map(Path, folders):
            metas.append(read_meta(folder))
            paths += [str(folder / name) for name in metas[-1]["files"]]
        layouts = [meta.pop("layout") for meta in metas]
        if set(layouts) != {layouts[0]}:
            other = next(f for f, x in zip(folders, layouts, strict=True) if x != layouts[0])
            raise UserError(f"{other} holds clips of another form than {folders[0]}")
        self.meta, self.layout = metas[0], layouts[0]
        self.folder = Path(folders[0])
        self._paths = paths
        self._entries = ArrayRecordDataSource(paths)
        if len(self._entries) != sum(m["count"] for m in metas) * self.layout.entries:
            raise UserError(f"{folders[0]} holds fewer or more clips than its meta.json says")

    def __len__(self) -> int:
        return len(self._entries) // self.layout.entries

    def __getitem__(self, index: int) -> Clip:
        return Clip(self, range(0, len(self._entries), self.layout.entries)[index])

    def __repr__(self) -> str:
        return f"EncodedSource(paths={self._paths!r})"

    def read(self, entry: int, unpack: Callable) -> Any:
        """Reads and unpacks an entry of the files.

        Raises:
          UserError: the entry is damaged; the error names its clip.
        """
        try:
            return unpack(self._entries[entry], self.layout)
        except (ValueError, RuntimeError) as error:  # RuntimeError is ArrayRecord's
            index = entry // self.layout.entries
            raise UserError(f"record {index} of {self.folder} is damaged: {error}") from error


class Clip(Mapping):
    """A stored clip by its fields' names; large fields are read when they are asked for."""

    def __init__(self, source: EncodedSource, entry: int):
        self._source, self._entry = source, entry
        self._first = source.read(entry, unpack_first)

    def __getitem__(self, name: str) -> Any:
        if name == "latents_logvar":
            return self._source.read(self._entry + 1, unpack_plane)
        if name == "structure":
            return Structure(self._source, self._entry + 2)
        return self._first[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._source.layout.shapes)

    def __len__(self) -> int:
        return len(self._source.layout.shapes)


class Structure(Sequence):
    """The structure latents [k n h w c] of a clip; a level is read when it is asked for."""

    def __init__(self, source: EncodedSource, entry: int):
        self._source, self._entries = source, range(entry, entry + source.layout.num_levels)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._source.read(self._entries[index], unpack_plane)


def read_meta(folder: Path) -> dict:
    """Returns a folder's meta.json, checked, with its `layout` read; no record is opened.

    Raises:
      UserError: the folder is not finished, of another format, or lacks files.
    """
    meta = read_json(folder / META) if folder.is_dir() else None
    if meta is None:
        raise UserError(
            f"{folder} is no finished folder of encoded clips: it has no meta.json; "
            "`gen1 precompute` makes one, or goes on where it was stopped"
        )
    if meta.get("format") != FORMAT:
        raise UserError(
            f"{folder} has format {meta.get('format')}; this version reads format {FORMAT}: "
            "encode it anew"
        )
    try:
        meta["layout"] = read_layout(meta)
        missing = [name for name in meta["files"] if not (folder / name).is_file()]
        outside = [name for name in meta["files"] if Path(name).name != name]
        meta["count"] = int(meta["count"])
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{folder / META} is not readable: {error}") from error
    if missing or outside:
        raise UserError(f"{folder} lacks {(outside or missing)[0]}, which its meta.json names")
    return meta


# ---- examples and batches


class ToBatchForm(grain.transforms.RandomMap):
    """Makes an example in the encoded form of `Batch` from a stored clip.

    It draws frames, a level and a content frame exactly as `transforms.ChooseFrames` does, because
    Grain seeds both transforms by the same name.
    """

    name = Choice.__name__

    def __init__(
        self,
        num_frames: int,
        levels: Sequence[int] = ALL_LEVELS,
        fields: Sequence[str] = FIELDS,
    ):
        self._settings = num_frames, tuple(levels), tuple(fields)

    def random_map(self, element: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return to_batch_form(element, rng, *self._settings)


def to_batch_form(
    record: Mapping[str, Any],
    rng: np.random.Generator,
    num_frames: int,
    levels: Sequence[int] = ALL_LEVELS,
    fields: Sequence[str] = FIELDS,
) -> dict[str, np.ndarray]:
    """Returns an example of a stored clip: random frames, at one level, with one frame's content.

    Numbers keep the precision in which they are stored; the training step widens them on its
    device.

    Args:
      record: a clip of an `EncodedSource`.
      rng: generator of the draws.
      num_frames: n; 1 makes an image.
      levels: permitted blur levels, some of which must be stored.
      fields: wanted fields, of latents [n h w c], latents_logvar [n h w c], structure [n h w c],
        structure_level [], content [d] and tokens [l]. Large fields are not read unless wanted.

    Raises:
      UserError: none of the permitted levels is stored, or there are too few frames.
    """
    stored = record["levels"].tolist()
    usable = sorted(set(stored) & set(levels))
    if not usable:
        raise UserError(f"no structure level of {tuple(levels)} is stored; {stored} are")
    choice = choose(rng, len(record["latents"]), num_frames, 1, usable)
    example = {
        name: record[name][choice.frames]
        for name in ("latents", "latents_logvar")
        if name in fields
    }
    if "structure" in fields:
        structure = record["structure"][stored.index(choice.level)]
        example["structure"] = structure[choice.frames]
    if "tokens" in record:
        example["tokens"] = record["tokens"]
    example["content"] = record["content"][choice.frames][choice.content_frame]
    example["structure_level"] = np.int32(choice.level)
    return example


def make_encoded_stream(
    videos: EncodedSource | None,
    images: Sequence[EncodedSource] = (),
    *,
    batch_size: int,
    image_batch_size: int | None = None,
    image_fraction: float = mixture.IMAGE_FRACTION,
    num_frames: int | None = None,
    buckets: Sequence[tuple[int, int]] = (),
    image_buckets: Sequence[tuple[int, int]] = (),
    levels: Sequence[int] = ALL_LEVELS,
    fields: Sequence[str] = FIELDS,
    subjects: Sequence[EncodedSource] = (),
    subject_share: float = 0.5,
    seed: int = 0,
    rows: mixture.Rows = mixture.all_rows,
    **reading: int,
) -> Stream:
    """Returns an endless stream of encoded batches, mixed like `mixture.make_raw_stream`'s.

    Args:
      videos: encoded clips, or None where there are images only.
      images: encoded images, one source for each size; the share of a source is its number of
        records. By default, images are random frames of `videos`.
      batch_size: clips in a batch, over all processes.
      image_batch_size: images in a batch; by default, as many as a video batch has frames.
      image_fraction: share of image batches.
      num_frames: n of a video batch, which must be the clips' own; by default, it is.
      buckets: size (h, w) that the latents of `videos` must have, if one is given.
      image_buckets: sizes that the latents of `images` must have, in their order.
      levels: permitted blur levels.
      fields: the fields of a batch.
      subjects: pictures that fill a share of each batch of images, one source for each size.
      subject_share: that share; 1 leaves the other images out.
      seed: seed of the order, levels and frames.
      rows: which rows of a batch this process reads: those that its devices hold.
      **reading: `num_threads`, `prefetch` and `num_workers` of `Stream`.

    Raises:
      UserError: a source is empty, or its records have another size.
    """

    def batches(
        source: EncodedSource, n: int, size: int, component: int, subject: Any = None
    ) -> grain.MapDataset:
        steps = [ToBatchForm(n, levels, fields), Select(tuple(fields))]
        bucket = mixture.Bucket((), [source])
        if subject is not None:
            (bucket,) = mixture.add_subject([bucket], subject, subject_share)
        options = {"weights": bucket.weights, "component": component, "seed": seed}
        return mixture.batches(bucket.sources, steps, size, rows=rows(size, n), **options)

    clips = [] if videos is None else [videos]
    if not all(map(len, (*clips, *images))):
        raise UserError("a source of 0 records cannot feed training")
    _check_sizes(clips, buckets if clips else (), num_frames)
    _check_sizes(images, image_buckets, None)
    n = num_frames or (len(videos[0]["latents"]) if clips else 1)
    per_batch = image_batch_size or batch_size * n
    # Components are numbered as those of raw data, so that both are read in the same order.
    films = [batches(each, n, batch_size, 0) for each in clips] if image_fraction < 1 else []
    sources = (images or clips) if image_fraction > 0 else []
    pictures = [
        batches(each, 1, per_batch, 2 * i + 1, _of_size(subjects, each))
        for i, each in enumerate(sources)
    ]
    shares = None, [len(each) for each in sources]
    return Stream(mixture.mix(films, pictures, image_fraction, shares=shares), **reading)


def _of_size(subjects: Sequence[EncodedSource], like: EncodedSource) -> EncodedSource | None:
    """Returns the pictures of a subject whose latents have the size of other images.

    Raises:
      UserError: the subject was encoded at other sizes only.
    """
    if not subjects:
        return None
    sizes = [dict(each.layout.shapes)["latents"][1:] for each in (like, *subjects)]
    if sizes[0] not in sizes[1:]:
        raise UserError(
            f"{subjects[0].folder} holds latents of {list(sizes[1])}, and {like.folder} of "
            f"{list(sizes[0])}; the subject must be encoded at the size of the other images"
        )
    return subjects[sizes[1:].index(sizes[0])]


def _check_sizes(
    sources: Sequence[EncodedSource], sizes: Sequence[tuple[int, int]], num_frames: int | None
) -> None:
    """Raises UserError if the sizes of the stored records are not those of the config."""
    if sizes and len(sizes) != len(sources):
        raise UserError(
            f"{len(sources)} folders of encoded data, but {len(sizes)} sizes of latents"
        )
    for source, size in zip(sources, sizes or [None] * len(sources), strict=True):
        n, *stored, _ = dict(source.layout.shapes)["latents"]
        # Fewer frames than stored are refused too: depth is normalised over the whole clip.
        if tuple(stored) != tuple(size or stored) or num_frames not in (None, n):
            height, width = size or stored
            raise UserError(
                f"{source.folder} holds latents of {n} frames of {stored[0]} x {stored[1]}; the "
                f"config says {num_frames or n} frames of {height} x {width}"
            )
