"""A source of examples: records decoded as they are read, damaged ones replaced and counted.

Whoever wrote the records has decoded each of them, so damage at reading time is a disk that
failed since. It must not end a run of weeks, nor bias it in silence: each damaged record gives way
to another one, drawn by its number alone, so that every host and every restart draws the same;
each is named in a warning; and more than a few are an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from gen1_jax.errors import UserError

MAX_DAMAGED = 0.001  # of a source's records, though one is always borne
_ATTEMPTS = 16


class Decoded:
    """Random access to the examples that `decode` makes of a source's records.

    Args:
        source: records, by `len` and index.
        decode: from a record to an example.
        max_damaged: the share of records that may be damaged.

    Raises:
        UserError: on reading, where more are damaged, as one process has seen.
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
        raise UserError(f"{_ATTEMPTS} damaged records in a row from {self._source!r}")

    def __repr__(self) -> str:
        return f"Decoded({self._source!r})"

    def _note(self, index: int, error: UserError) -> None:
        if index in self.damaged:
            return
        self.damaged.add(index)
        count = f"{len(self.damaged)} of {len(self)} records"
        if len(self.damaged) > self._limit:
            raise UserError(
                f"{error}; {count} are damaged so far, {self._limit} are borne: ingest anew"
            ) from error
        warnings.warn(f"{error}; another is read in its place; so far {count}", stacklevel=3)
