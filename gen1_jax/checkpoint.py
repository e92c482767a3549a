"""Checkpoints of a run: the state, and the data iterator's place, saved together by orbax."""

import contextlib
import functools
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gen1_jax.errors import UserError

MAX_FAILURES = 3  # saves in a row that may fail before training stops


class Checkpoints:
    """The checkpoints of one run folder.

    Saving is asynchronous, and a checkpoint appears whole or not at all.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        self._folder, self._keep = Path(folder).absolute(), keep
        self._saving: int | None = None  # the step whose save is under way
        self._failures = 0  # saves that failed in a row

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """Made when it is needed: a run that fails before its first save leaves no folder."""
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs every file it touches
        options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, create=True)
        handlers = {"state": ocp.StandardCheckpointHandler(), "data": ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step() if self._folder.is_dir() else None

    def save(self, step: int, state: Any, data: dict) -> None:
        """Begins to save; returns once the arrays are copied.

        A step that is already there stays as it is. A save that fails is reported and tried again
        with the next one.

        Raises:
          UserError: several failed in a row.
        """
        self._finish()
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
        self._saving = step
        try:
            self._manager.save(step, args=items, force=True)
        except Exception as error:  # of the file system, or of tensorstore, in many kinds
            self._fail(error)

    def wait(self) -> None:
        """Waits for a save under way, which must succeed.

        Raises:
          UserError: it failed.
        """
        self._finish()
        if self._failures:
            raise UserError(f"the last checkpoint could not be saved to {self._folder}")

    def _finish(self) -> None:
        """Waits for the save under way, and notes how it ended."""
        if self._saving is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._fail(error)
        else:
            self._saving, self._failures = None, 0

    def _fail(self, error: Exception) -> None:
        step, self._saving = self._saving, None
        self._failures += 1
        what = f"saving step {step} to {self._folder} failed: {' '.join(str(error).split())[:200]}"
        if self._failures >= MAX_FAILURES:
            raise UserError(f"{what}; {self._failures} times in a row") from error
        warnings.warn(f"{what}; training goes on, and the next save is tried", stacklevel=3)
        self.__dict__.pop("_manager", None)  # its state of mind is not to be relied on

    def restore(self, template: Any) -> tuple[Any, dict] | None:
        """The newest whole (state, data iterator state), or None if there is none yet.

        One that cannot be read is passed over for the one before, with a warning, and set aside.

        Args:
          template: a state of the wanted shapes, types and shardings.

        Raises:
          UserError: the checkpoint is of another model, or all are damaged.
        """
        if self.latest_step is None:
            return None
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self._restore(step, template)
            except UserError:
                raise
            except Exception as error:  # orbax and tensorstore raise many kinds
                self._set_aside(step, error)
        raise UserError(
            f"no checkpoint in {self._folder} can be read; the damaged ones are beside it as "
            "damaged_STEP. Remove the folder to begin anew"
        )

    def _set_aside(self, step: int, error: Exception) -> None:
        aside = self._folder / f"damaged_{step}"
        if jax.process_index() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            (self._folder / str(step)).rename(aside)
        self._manager.reload()
        warnings.warn(
            f"the checkpoint of step {step} in {self._folder} cannot be read and is now "
            f"{aside.name}; the one before is taken: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}",
            stacklevel=3,
        )

    def _restore(self, step: int, template: Any) -> tuple[Any, dict]:
        saved = self._manager.item_metadata(step)["state"]
        shapes = [dict(_shapes(tree)) for tree in (getattr(saved, "tree", saved), template)]
        if shapes[0] != shapes[1]:
            name = sorted(
                k
                for k in shapes[0].keys() | shapes[1].keys()
                if shapes[0].get(k) != shapes[1].get(k)
            )[0]
            there, here = (shape.get(name, "absent") for shape in shapes)
            raise UserError(
                f"the checkpoint in {self._folder} is of another model: {name} is "
                f"{there} there and {here} in the config"
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=items)
        return restored["state"], restored["data"]

    def close(self) -> None:
        """Waits for a save under way, however it ends; see `wait`."""
        if "_manager" in self.__dict__:
            with contextlib.suppress(Exception):
                self._manager.wait_until_finished()
            self._manager.close()


def read_params(folder: str | Path, template: Any, which: str = "ema") -> tuple[int, Any]:
    """The newest checkpoint's parameters alone, on the host: nothing else of the state is read.

    Args:
      folder: of a run's checkpoints.
      template: shapes and types of the parameters.
      which: "ema", the moving average, or "raw".

    Returns:
      The step, and the parameters.

    Raises:
      UserError: no checkpoint, one of another model, or a damaged one.
    """
    name = {"ema": "ema", "raw": "params"}[which]
    checkpoints = Checkpoints(folder)
    step = checkpoints.latest_step
    if step is None:
        raise UserError(f"no checkpoint in {folder}; accepted: the `checkpoints` of a run")
    path = Path(folder).absolute() / str(step) / "state"
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.metadata(path).item_metadata.tree
            if dict(_shapes(tree[name])) != dict(_shapes(template)):
                raise UserError(f"the checkpoint in {path.parent} is of another model")
            item = jax.tree.map(lambda x: ocp.PLACEHOLDER, tree)
            item[name] = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
            args = jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray), item)
            restored = checkpointer.restore(path, ocp.args.PyTreeRestore(item, restore_args=args))
    except UserError:
        raise
    except Exception as error:  # orbax and tensorstore raise many kinds
        raise UserError(
            f"the checkpoint in {path.parent} cannot be read: "
            f"{type(error).__name__}: {str(error)[:200]}"
        ) from error
    return step, restored[name]


def _shapes(tree: Any):
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield (
            "/".join(
                str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path
            ),
            leaf.shape,
        )
