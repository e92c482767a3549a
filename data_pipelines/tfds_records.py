"""Random access to a split of a prepared TFDS data set, whatever the number of its files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from gen1_jax.data_pipelines.shards import MOST_OPEN, Pool, check_files, trying_again
from gen1_jax.errors import Damaged, UserError, one_line

# What ArrayRecord's RuntimeErrors say of damage; all others are of the file system.
_DAMAGE = ("Corrupted", "should be at least 64KB")


def _open(path: str) -> ArrayRecordReader:
    return ArrayRecordReader(path, options="readahead_buffer_size:0", file_reader_buffer_size=32768)


_readers: Pool[ArrayRecordReader] = Pool(_open, ArrayRecordReader.close, MOST_OPEN)


class TfdsRecords(Sequence):
    """The records of one split. No file is opened before one of its records is read.

    Args:
      builder: a prepared builder, whose files are ArrayRecord's.
      split: name of the split.
      name: what messages call the records; by default, the builder's folder and the split.

    Attributes:
      shard_counts: the number of records of each file, in order.

    Raises:
      UserError: the data are not in ArrayRecord files, or one of them is missing.
    """

    def __init__(self, builder: Any, split: str, name: str = ""):
        info = builder.info.splits[split]
        self._features = builder.info.features
        self._name = name or f"{builder.data_path}, {split}"
        form = builder.info.file_format
        if form is None or form.value != "array_record":
            raise UserError(
                f"{self._name} is stored as {form.value if form else 'files of no known form'}; "
                "array_record is accepted: download_and_prepare(file_format='array_record')"
            )
        self._paths = [str(path) for path in info.filepaths]
        self.shard_counts = [int(count) for count in info.shard_lengths]
        if len(self._paths) != len(self.shard_counts):
            raise UserError(f"{self._name}: dataset_info.json names other files than it counts")
        self._ends = np.cumsum(self.shard_counts)
        check_files(self._paths, self._name)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads a record.

        Raises:
          Damaged: the record, or its file, is damaged.
          TryAgain: the file cannot be read.
        """
        index = range(len(self))[index]
        shard = int(np.searchsorted(self._ends, index, side="right"))
        path = self._paths[shard]
        place = index - (int(self._ends[shard]) - self.shard_counts[shard])

        def read() -> bytes:
            try:
                with _readers.use(path) as reader:
                    return reader.read([place])[0]
            except RuntimeError as error:
                if any(said in str(error) for said in _DAMAGE):
                    raise Damaged(
                        f"record {index} of {self._name} is damaged: {one_line(error)}"
                    ) from error
                raise OSError(one_line(error)) from error

        data = trying_again(read, f"record {index} of {self._name}", _readers, path)
        try:
            return self._features.deserialize_example_np(data)
        except MemoryError:
            raise
        except Exception as error:  # the decoders of images raise whatever bytes lead them to
            raise Damaged(
                f"record {index} of {self._name} is damaged: {one_line(error)}"
            ) from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name}, {len(self)})"
