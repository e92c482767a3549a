"""A source of examples that decodes records as they are read, and replaces damaged ones.

Every record was decoded once when it was written, so damage at reading time means that a disk has
failed since. It must not end a run of weeks, and it must not bias the run unnoticed. A damaged
record is therefore replaced by another one that follows from its number alone, so that every host
and every restart draws the same; each damaged record is named in a warning; and more than a few are
an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from gen1_jax.errors import UserError

MAX_DAMAGED = 0.001  # share of a source's records; one damaged record is always accepted
_ATTEMPTS = 16


class Decoded:
    """Random access to decoded records.

    Args:
      source: records, by `len` and index.
      decode: function from a record to an example, which raises UserError for a damaged record.
      max_damaged: share of the records that may be damaged.

    Raises:
      UserError: when a record is read, if this process has seen too many damaged ones.
    """

    def __init__(
        self, source: Any, decode: Callable[[Any], dict], *, max_damaged: float = MAX_DAMAGED
    ):
        self._source, self._decode = source, decode
        self._limit = max(1, int(len(source) * max_damaged))
        self.damaged: set[int] = set()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        place = index
        for attempt in range(_ATTEMPTS):
            try:
                return self._decode(self._source[place])
            except UserError as error:
                self._note(place, error)
            place = int(np.random.default_rng([index, attempt]).integers(len(self)))
        raise UserError(
            f"{_ATTEMPTS} records in a row of {self._source!r} are damaged; make the data anew"
        )

    def __repr__(self) -> str:
        return f"Decoded({self._source!r})"

    def _note(self, index: int, error: UserError) -> None:
        """Warns of a damaged record once; raises UserError if there are too many."""
        if index in self.damaged:
            return
        self.damaged.add(index)
        count = f"{len(self.damaged)} of {len(self)} records"
        if len(self.damaged) > self._limit:
            raise UserError(
                f"{error}; {count} are damaged so far, and a run accepts {self._limit}; make "
                "the data anew, with gen1 ingest or gen1 precompute"
            ) from error
        warnings.warn(
            f"{error}; another record is read in its place ({count} so far)", stacklevel=3
        )
