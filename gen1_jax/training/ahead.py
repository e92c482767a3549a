"""The programs of a run: compiled side by side before its first step, for all sizes of batches.

A pod waits for its slowest compilation once, and not again whenever a batch of a new size comes.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from jax.sharding import Mesh

from gen1_jax.batch import SCHEMA, Batch, BatchKind
from gen1_jax.distributed import batch_shardings


class Program:
    """A jitted function (x, batch, …) whose programs for known batches are compiled ahead.

    A batch of another size is compiled when it comes.

    Args:
      function: the jitted function; its second argument is the batch.
      mesh: the devices.
    """

    def __init__(self, function: Any, mesh: Mesh | None = None):
        self._function, self._mesh = function, mesh
        self._compiled: dict[str, Any] = {}

    def __call__(self, *arguments: Any) -> Any:
        return self._compiled.get(shape_of(arguments[1]), self._function)(*arguments)

    def lowered(self, *arguments: Any) -> Any:
        """Returns jax's lowered program for arguments, or for their shapes with shardings."""
        if self._mesh is None:
            return self._function.lower(*arguments)
        with jax.set_mesh(self._mesh):  # for kernels that run on each device's own shard
            return self._function.lower(*arguments)

    def lower(self, *arguments: Any) -> Callable[[], None]:
        """Traces the function, and returns what compiles it; compiling needs no lock of Python's.

        Args:
          *arguments: those of a call, or their shapes with shardings.
        """
        lowered, shape = self.lowered(*arguments), shape_of(arguments[1])

        def compile_it() -> None:
            self._compiled[shape] = lowered.compile()

        return compile_it


def compile_together(
    tasks: Sequence[Callable[[], None]], optional: Sequence[Callable[[], None]] = ()
) -> None:
    """Runs what `Program.lower` returned, side by side.

    All processes begin in the same order, because compilers of several hosts share what they
    measure.

    Args:
      tasks: whose errors are raised.
      optional: whose errors are left to the call that needs the program, which compiles it again.
    """

    def attempt(task: Callable[[], None]) -> None:
        with contextlib.suppress(Exception):
            task()

    if count := len(tasks) + len(optional):
        with ThreadPoolExecutor(min(count, os.cpu_count() or 1)) as pool:
            done = [pool.submit(task) for task in tasks]
            for task in optional:
                pool.submit(attempt, task)
            for each in done:
                each.result()


def batches_to_come(
    example: Batch,
    kinds: Iterable[BatchKind],
    batches: int,
    mesh: Mesh,
    with_example: bool = True,
) -> list[Batch]:
    """Returns the shapes of the batches of a stream, as they lie on the devices.

    Args:
      example: the first batch, this process's rows; it says the fields and their types.
      kinds: the kinds of batches of the stream. One that so few batches are not expected to hold
        is left out.
      batches: how many batches are read.
      mesh: the devices.
      with_example: whether batches like the example come too.
    """

    def shapes(kind: BatchKind | None) -> Batch:
        sizes = {"b": example.size * jax.process_count()}
        if kind is not None:
            sizes = {"b": kind.size, "n": kind.num_frames}
            sizes |= dict(zip("HWhw", (*kind.frame, *kind.frame), strict=True))

        def resized(name: str, x: Any) -> jax.ShapeDtypeStruct:
            axes = zip(SCHEMA[name][0].split(), x.shape, strict=True)
            return jax.ShapeDtypeStruct([sizes.get(axis, own) for axis, own in axes], x.dtype)

        return Batch(**{name: resized(name, x) for name, x in example.fields().items()})

    def placed(batch: Batch) -> Batch:
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            batch,
            batch_shardings(batch, mesh),
        )

    expected = [None] * with_example + [kind for kind in kinds if kind.share * batches >= 1]
    found = {shape_of(batch): batch for batch in map(shapes, expected)}
    return [placed(batch) for batch in found.values()]


def shape_of(batch: Any) -> str:
    """Returns a name for the shapes and types of a batch."""
    return str([(path, x.shape, str(x.dtype)) for path, x in jax.tree.leaves_with_path(batch)])
