"""The order in which training reads a source that lies on a network disk or in an object store.

By default Grain shuffles all records together, by a permutation that needs no memory. Each record
is then a small read at a random place. `Windowed` shuffles shards, and records within a window of
few shards, so that a host reads few shards at a time. Both orders are functions of the seed and of
a record's place in the stream alone: they are the same for any number of hosts and after any
restart, and read every record once an epoch.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

_LANES = 64  # most parts of a batch that read shards of their own; 32 hosts have two each
_KEPT = 4 * _LANES  # permutations of windows that a process keeps


class Windowed(Sequence):
    """A source without end, in the order of windows of shards.

    A batch is cut into lanes of equal length, each of which is a run of rows and so belongs to one
    host, where the batch has no other source. In each epoch the shards are put in random order, end
    to end, and the lanes divide this row of records among themselves: a lane's part is one run of
    it. A lane shuffles its part window by window. The lanes' parts differ in length by one record
    at most.

    Args:
      source: records, by `len` and index, with `shard_counts`, the number of records of each shard.
      window: length of a window, in shards of mean length.
      batch_size: examples in a batch, over all hosts.
      seed: seed of the order.

    Attributes:
      lanes: number of lanes.
    """

    def __init__(self, source: Any, window: int, batch_size: int, seed: int):
        self._source, self._batch, self._seed = source, batch_size, seed
        counts = np.asarray(source.shard_counts, np.int64)
        self._counts, self._first = counts, np.cumsum(counts) - counts
        self.lanes = 1
        most = min(_LANES, len(source))
        while 2 * self.lanes <= most and batch_size % (2 * self.lanes) == 0:
            self.lanes *= 2
        self._window = max(1, window * len(source) // len(counts))
        self._make_caches()

    def _make_caches(self) -> None:
        self._shards = functools.lru_cache(maxsize=4)(self._shuffle_shards)
        self._places = functools.lru_cache(maxsize=_KEPT)(self._shuffle_window)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Any:
        return self._source[self.record(index)]

    def record(self, index: int) -> int:
        """Returns the number of the record that is read at a place in the stream of examples."""
        step, row = divmod(index, self._batch)
        rows = self._batch // self.lanes
        lane, row = divmod(row, rows)
        total = len(self._source)
        start, stop = lane * total // self.lanes, (lane + 1) * total // self.lanes
        epoch, place = divmod(step * rows + row, stop - start)
        window, place = divmod(place, self._window)
        first = start + window * self._window
        place = first + self._places(epoch, first, min(self._window, stop - first))[place]
        order, ends = self._shards(epoch)
        shard = int(np.searchsorted(ends, place, side="right"))
        number = order[shard]
        return int(self._first[number] + self._counts[number] - (ends[shard] - place))

    def _shuffle_shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns an epoch's order of shards, and where each of them ends in the row of records."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._counts))
        return order, np.cumsum(self._counts[order])

    def _shuffle_window(self, epoch: int, first: int, length: int) -> np.ndarray:
        rng = np.random.default_rng([self._seed, epoch, first])
        return rng.permutation(length).astype(np.int32)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_shards", "_places")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._make_caches()
