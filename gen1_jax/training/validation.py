"""The held-out loss: the training loss on the validation split, with the same noise every time."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from gen1_jax.batch import Batch
from gen1_jax.conditioning import EncoderParams
from gen1_jax.distributed import put_batch, replicated
from gen1_jax.errors import UserError
from gen1_jax.runtime import trace_once
from gen1_jax.training.ahead import Program, batches_to_come, shape_of
from gen1_jax.training.objectives import Loss
from gen1_jax.training.state import TrainState
from gen1_jax.training.step import accumulate, gather_params, placed_batch

_SEED = 0x4E1D  # of the noise, whatever the run's seed: runs are compared by this loss


class HeldOutLoss:
    """Measures a loss on the first batches of the validation split, videos and images apart.

    Batch number i of either kind has the same examples and the same key at every measurement. A
    split that is smaller than the batches is read again from its start, with other keys.

    Args:
      loss: the objective's loss.
      streams: by kind of batch, what makes the stream of its validation batches; each process's
        stream gives its own share. No kinds: nothing is measured.
      num_batches: batches of each kind.
      template: the training state, or its shapes; its shardings count.
      dtype: the compute type, in which sharded kernels are gathered.
      microbatches: parts of a batch that are computed one after another.

    Attributes:
      program: (params, batch, encoder_params, number of the batch) → its loss.
    """

    def __init__(
        self,
        loss: Loss,
        streams: Mapping[str, Callable[[], Iterator[Batch]]],
        *,
        num_batches: int,
        template: TrainState,
        dtype: str,
        microbatches: int = 1,
    ):
        self._streams, self._num_batches = streams, num_batches
        shardings = jax.tree.map(lambda x: x.sharding, template)
        self._mesh = shardings.step.mesh
        loss = gather_params(loss, shardings.params, dtype)

        def held_out_loss(params, batch, encoder_params, number):
            key = jax.random.fold_in(jax.random.key(_SEED), number)
            batch = batch.widened()
            return accumulate(loss, params, encoder_params, batch, key, microbatches)[0]

        whole = replicated(self._mesh)
        jitted = jax.jit(
            trace_once(held_out_loss),
            in_shardings=(shardings.params, placed_batch(self._mesh), whole, whole),
            out_shardings=whole,
        )
        self.program = Program(jitted, self._mesh)

    def lower(
        self, params: Any, encoder_params: EncoderParams, example: Batch
    ) -> list[Callable[[], None]]:
        """Returns what compiles the programs of the batches to come.

        Args:
          params: the parameters, or their shapes with shardings.
          encoder_params: those of the frozen encoders.
          example: a batch of training, this process's rows: its fields are those of validation.
        """
        tasks = {}
        for make_stream in self._streams.values():
            kinds = getattr(make_stream(), "kinds", ())  # nothing is read
            options = {"batches": self._num_batches, "mesh": self._mesh, "with_example": False}
            for batch in batches_to_come(example, kinds, **options):
                task = self.program.lower(params, batch, encoder_params, np.int32(0))
                tasks[shape_of(batch)] = task
        return list(tasks.values())

    def measure(self, params: Any, encoder_params: EncoderParams) -> dict[str, float]:
        """Returns the mean loss of each kind of batch.

        Args:
          params: the parameters, on the mesh.
          encoder_params: parameters of the frozen encoders, on the mesh.

        Raises:
          UserError: a process cannot read a batch. All processes then raise, and can go on.
        """
        means = {}
        for kind, make_stream in self._streams.items():
            losses = []
            with contextlib.ExitStack() as stack:
                stack.enter_context(jax.set_mesh(self._mesh))
                for number, batch in enumerate(self._read(make_stream, stack)):
                    placed = put_batch(batch, self._mesh)
                    losses.append(self.program(params, placed, encoder_params, np.int32(number)))
            means[kind] = float(np.mean(jax.device_get(losses)))
        return means

    def _read(
        self, make_stream: Callable[[], Iterator[Batch]], stack: contextlib.ExitStack
    ) -> Iterator[Batch]:
        """Yields a stream's first batches, as long as every process can read its own rows."""
        stream = None
        for number in range(self._num_batches):
            error = batch = None
            try:
                if stream is None:
                    stream = make_stream()
                    stack.callback(getattr(stream, "close", lambda: None))
                batch = next(stream, None)
            except Exception as raised:
                error = raised
            unread = 0 if error is None else 1
            if jax.process_count() > 1:
                unread = int(multihost_utils.process_allgather(np.int32(unread)).sum())
            if unread:
                raise error or UserError(f"{unread} processes cannot read their batch {number}")
            if batch is None:
                return
            yield batch
