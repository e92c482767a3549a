"""Damaged records: they are named, counted, and replaced by others that every host draws alike.

Every record was read once when it was written, so damage at reading time means that a disk has
failed since. It must not end a run of weeks, and it must not bias the run unnoticed. A damaged
record is therefore replaced by another one that follows from its number alone, so that every host
and every restart draws the same; each damaged record is named in a warning; an example says that
it is a replacement, and training logs how many there were; and more than a few are an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from gen1_jax.errors import Damaged, UserError

MAX_DAMAGED = 0.001  # share of a source's records; one damaged record is always accepted
REPLACED = "replaced"  # key of an example: 1 if it stands in the place of a damaged record, else 0
_ATTEMPTS = 16


class Damage:
    """The damaged records of a source that this process has met.

    Args:
      source: the records, for their number and, in messages, their name.
      max_damaged: share of the records that may be damaged.

    Attributes:
      records: the damaged records by number; the values tell threads apart.
    """

    def __init__(self, source: Any, max_damaged: float = MAX_DAMAGED):
        self._count, self._name = len(source), repr(source)
        self._limit = max(1, int(self._count * max_damaged))
        self.records: dict[int, object] = {}

    def read(self, index: int, read: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
        """Returns an example and whether it is a replacement.

        Args:
          index: number of the record.
          read: makes the example of a record; it raises `Damaged` for a damaged one.

        Raises:
          UserError: this process has met too many damaged records.
        """
        place = index
        for attempt in range(_ATTEMPTS):
            try:
                return read(place) | {REPLACED: np.int32(attempt > 0)}
            except Damaged as error:
                self._note(place, error)
            place = int(np.random.default_rng([index, attempt]).integers(self._count))
        raise UserError(
            f"{_ATTEMPTS} records in a row of {self._name} are damaged; make the data anew"
        )

    def _note(self, index: int, error: Damaged) -> None:
        """Warns of a damaged record once; raises UserError if there are too many."""
        own = object()
        if self.records.setdefault(index, own) is not own:  # another thread may be as far
            return
        count = f"{len(self.records)} of {self._count} records"
        if len(self.records) > self._limit:
            raise UserError(
                f"{error}; {count} are damaged so far, and a run accepts {self._limit}; make "
                "the data anew, with gen1 ingest or gen1 precompute"
            ) from error
        warnings.warn(
            f"{error}; another record is read in its place ({count} so far)", stacklevel=4
        )
