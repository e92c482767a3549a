"""A source of examples that decodes records as they are read, and replaces damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gen1_jax.data_pipelines.damage import MAX_DAMAGED, Damage


class Decoded:
    """Random access to decoded records.

    Args:
      source: records, by `len` and index.
      decode: function from a record to an example, which raises `Damaged` for a damaged record.
      max_damaged: share of the records that may be damaged.

    Attributes:
      damage: the damaged records that were met.

    Raises:
      UserError: when a record is read, if this process has seen too many damaged ones.
    """

    def __init__(
        self, source: Any, decode: Callable[[Any], dict], *, max_damaged: float = MAX_DAMAGED
    ):
        self._source, self._decode = source, decode
        self.damage = Damage(source, max_damaged)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        return self.damage.read(index, lambda place: self._decode(self._source[place]))

    def __repr__(self) -> str:
        return f"Decoded({self._source!r})"

    @property
    def shard_counts(self) -> Any:
        """The number of records of each shard, in order."""
        return self._source.shard_counts
