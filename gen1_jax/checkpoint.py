"""Checkpoints of a run: the state, and the data iterator's place, saved together by orbax."""

import functools
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gen1_jax.errors import UserError


class Checkpoints:
    """The checkpoints of one run folder.

    Saving is asynchronous, and a checkpoint appears whole or not at all.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        self._folder, self._keep = Path(folder).absolute(), keep

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

        A step that is already there stays as it is.
        """
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
        self._manager.save(step, args=items, force=True)

    def restore(self, template: Any) -> tuple[Any, dict] | None:
        """The newest (state, data iterator state), or None if there is none yet.

        Args:
          template: a state of the wanted shapes, types and shardings.

        Raises:
          UserError: the checkpoint is of another model, or damaged.
        """
        step = self.latest_step
        if step is None:
            return None
        try:
            return self._restore(step, template)
        except UserError:
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise UserError(
                f"the checkpoint in {self._folder / str(step)} cannot be read; remove that folder "
                f"to go on from the one before: {type(error).__name__}: {str(error)[:200]}"
            ) from error

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
        """Waits for a save under way."""
        if "_manager" in self.__dict__:
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
