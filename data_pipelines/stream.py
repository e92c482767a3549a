"""An endless stream of batches whose place can be saved and restored."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from absl import flags

from gen1_jax.batch import Batch, BatchKind
from gen1_jax.data_pipelines.damage import REPLACED

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


class Stream(Iterator[Batch]):
    """Yields batches in the order of their steps, read ahead in threads or in worker processes.

    The state of a stream is the number of its next step, so a stream can be restored exactly with
    another number of hosts, threads or processes. Reading starts when the first batch is asked
    for. Worker processes send dictionaries of arrays; this process makes each of them a `Batch`.

    Args:
      dataset: batches in the order of their steps, each a dictionary with the names of `Batch`.
      num_threads: threads that read in this process, or in each worker; with 0, a batch is read
        when it is asked for.
      prefetch: batches that are read ahead by each process that reads.
      num_workers: worker processes; with 0, this process reads.
      kinds: the sizes of the batches.

    Attributes:
      kinds: the sizes of the batches, each with its share.
      replaced: examples of the batches so far that stand in the place of damaged records, which
        warnings name. It is counted in this process since its start.
    """

    def __init__(
        self,
        dataset: grain.MapDataset,
        *,
        num_threads: int = 2,
        prefetch: int = 4,
        num_workers: int = 0,
        kinds: Sequence[BatchKind] = (),
    ):
        self._dataset, self._num_workers, self.kinds = dataset, num_workers, tuple(kinds)
        self._read_options = grain.ReadOptions(
            num_threads=num_threads, prefetch_buffer_size=prefetch
        )
        self._step = self.replaced = 0
        self._batches: grain.DatasetIterator | None = None

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = self._start()
        arrays = next(self._batches)
        self.replaced += int(np.sum(arrays.pop(REPLACED, 0)))
        batch = Batch.from_dict(arrays)
        self._step += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns the place of the next batch, in a form that JSON can hold."""
        return {"next_index": self._step}

    def set_state(self, state: dict[str, int]) -> None:
        """Moves to a place that `get_state` returned, also that of a run with other hosts.

        Raises:
          ValueError: the state is not a place in a stream.
        """
        if set(state) != {"next_index"}:
            raise ValueError(f"{state} is no place in a stream of batches")
        if state["next_index"] != self._step:
            self.close()
            self._step = int(state["next_index"])

    def close(self) -> None:
        """Ends the threads and worker processes; asking for another batch starts them again."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def _start(self) -> grain.DatasetIterator:
        dataset = self._dataset[self._step :].to_iter_dataset(self._read_options)
        if self._num_workers:
            if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=self._num_workers)
            dataset = dataset.mp_prefetch(options, _prepare_worker)
        return iter(dataset)


# ---- worker processes


def _prepare_worker(worker: int, workers: int) -> None:
    """Runs first in each worker process; Grain passes the worker's number and their count."""
    _keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _keep_freed_memory() -> None:
    """Makes glibc's malloc keep freed memory; the peak does not change.

    A clip takes megabytes and lives for milliseconds. Returning its pages to the system and
    fetching them again costs a tenth of the time that decoding takes. Other C libraries are left
    alone.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the largest value that is accepted
        library.mallopt(_M_TRIM_THRESHOLD, 2**30)


def _end_with_parent() -> None:
    """Ends this worker when its parent ends; a worker would wait for a killed parent forever."""
    multiprocessing.parent_process().join()
    os._exit(1)
