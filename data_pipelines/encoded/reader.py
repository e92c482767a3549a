"""Reads encoded clips: what the encoders made of each clip, once for all training.

`records.py` says how a record is stored, `writer.py` how a folder is written, `folders.py` where
the folders of a data set lie, and `batches.py` how batches are made of clips.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gen1_jax.data_pipelines.damage import Damage
from gen1_jax.data_pipelines.encoded.records import (
    FORMAT,
    read_layout,
    unpack_first,
    unpack_plane,
)
from gen1_jax.data_pipelines.encoded.writer import META, shard_name
from gen1_jax.data_pipelines.shards import ShardCache, check_files, file_size, read_bytes
from gen1_jax.errors import Damaged, UserError
from gen1_jax.files import as_path, read_json


class EncodedSource:
    """Random access to the clips of one finished folder or several.

    The structure of a clip at blur level `clip["levels"][i]` is `clip["structure"][i]` [n h w c].
    No file is opened before one of its clips is read, and the numbers of clips are those of the
    folders' meta.json: a start costs the same for any number of files.

    Args:
      folders: the folder or folders, on a disk or in an object store.
      cache: makes what copies files of an object store whole, by the identity of the data; without
        it, entries are asked for.

    Attributes:
      meta: settings of the (first) folder.
      layout: layout of the records.
      folder: the (first) folder.
      shard_counts: the number of clips of each file, in order.
      damage: the damaged clips that were met.

    Raises:
      UserError: a folder is missing, unfinished, of another format, or unlike the others.
    """

    def __init__(
        self,
        folders: str | os.PathLike | Sequence[str | os.PathLike],
        cache: Callable[[str], ShardCache] | None = None,
    ):
        if isinstance(folders, (str, os.PathLike)):
            folders = [folders]
        metas = [read_meta(as_path(folder)) for folder in folders]
        layouts = [meta.pop("layout") for meta in metas]
        if set(layouts) != {layouts[0]}:
            other = next(f for f, x in zip(folders, layouts, strict=True) if x != layouts[0])
            raise UserError(f"{other} holds clips of another form than {folders[0]}")
        self.meta, self.layout = metas[0], layouts[0]
        self.folder = as_path(folders[0])
        # The same place may hold other clips later, whose meta.json differs.
        digest = hashlib.sha256(json.dumps(metas, sort_keys=True).encode()).hexdigest()
        self._cache = cache(digest) if cache else None
        self._shards = [
            (f"{folder}/{shard_name(shard)}", count)
            for folder, meta in zip(folders, metas, strict=True)
            for shard, count in enumerate(count_records(meta))
        ]
        check_files([path for path, _ in self._shards], ", ".join(map(str, folders)))
        self.shard_counts = [count for _, count in self._shards]
        self._ends = np.cumsum(self.shard_counts)
        path, count = self._shards[-1]
        if file_size(path) != count * self.layout.size:
            raise UserError(f"{folders[-1]} holds fewer or more clips than its meta.json says")
        self.damage = Damage(self)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Clip:
        return Clip(self, range(len(self))[index])

    def __repr__(self) -> str:
        return f"EncodedSource({self.folder}, {len(self)})"

    def read(self, index: int, entry: int, unpack: Callable) -> Any:
        """Reads and unpacks an entry of a clip.

        Raises:
          Damaged: the entry is damaged; the error names its clip.
          TryAgain: the file cannot be read.
        """
        shard = int(np.searchsorted(self._ends, index, side="right"))
        path, count = self._shards[shard]
        offset, length = self.layout.place(entry)
        offset += (index - (int(self._ends[shard]) - count)) * self.layout.size
        try:
            return unpack(read_bytes(path, offset, length, self._cache), self.layout)
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise Damaged(f"record {index} of {self.folder} is damaged: {error}") from error


class Clip(Mapping):
    """A stored clip by its fields' names; a field is read when it is asked for.

    Attributes:
      source: the source that holds it.
      index: its number there.
    """

    def __init__(self, source: EncodedSource, index: int):
        self.source, self.index = source, index

    @cached_property
    def _first(self) -> dict[str, np.ndarray]:
        return self.source.read(self.index, 0, unpack_first)

    def __getitem__(self, name: str) -> Any:
        if name == "latents_logvar":
            return self.source.read(self.index, 1, unpack_plane)
        if name == "structure":
            return Structure(self)
        return self._first[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.source.layout.shapes)

    def __len__(self) -> int:
        return len(self.source.layout.shapes)


class Structure(Sequence):
    """The structure latents [k n h w c] of a clip; a level is read when it is asked for."""

    def __init__(self, clip: Clip):
        self._clip = clip

    def __len__(self) -> int:
        return self._clip.source.layout.num_levels

    def __getitem__(self, index: int) -> np.ndarray:
        level = range(len(self))[index]
        return self._clip.source.read(self._clip.index, 2 + level, unpack_plane)


def read_meta(folder: Path) -> dict:
    """Returns a folder's meta.json, checked, with its `layout` read; no record is opened.

    Raises:
      UserError: the folder is not finished, or of another format.
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
        count_records(meta)
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{folder / META} is not readable: {error}") from error
    return meta


def count_records(meta: Mapping[str, Any]) -> list[int]:
    """Returns the number of clips of each file, in order, as meta.json gives them.

    Raises:
      ValueError: the numbers are no numbers of clips.
    """
    count, per_shard = int(meta["count"]), int(meta["records_per_shard"])
    if count < 1 or per_shard < 1:
        raise ValueError(f"{count} clips, {per_shard} a file; 1 or more are accepted")
    whole, rest = divmod(count, per_shard)
    return [per_shard] * whole + [rest] * (rest > 0)
