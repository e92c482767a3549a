"""Checkpoints of a run: orbax saves the state together with the stream's place in the data."""

import contextlib
import functools
import itertools
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util
from jax.experimental import multihost_utils

from gen1_jax.distributed import is_lead
from gen1_jax.errors import TryAgain, UserError, one_line
from gen1_jax.files import as_path, is_remote

MAX_FAILURES = 3  # saves in a row that may fail before training stops
_PAUSES = (1.0, 5.0)  # seconds before a checkpoint on a store is read again
_COMMITTED = "commit_success.txt"  # orbax ends a save by it on a store, where nothing is renamed
_managers = itertools.count(1)  # those of this process, in the same order on all


class Checkpoints:
    """The checkpoints of one run folder.

    Saving is asynchronous, and a checkpoint appears whole or not at all. All processes of a job
    call the same methods at the same steps; a save or restore that fails on one fails on all.

    Args:
      folder: the folder of the checkpoints, on a disk or on gs:// or s3://.
      keep: how many checkpoints are kept.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        self._folder, self._keep = _open_folder(folder), keep
        self._saving: int | None = None  # the step whose save is under way
        self._failures = 0  # saves that failed in a row

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """Makes the manager when it is first needed, so that a run that fails leaves no folder."""
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs every file it touches
        # A save that fails says so once, and not for each of its arrays.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        # Processes that are named synchronise through the coordinator, where a failed process is
        # missed after a timeout. Without names they would synchronise in collectives, and a failed
        # process would enter the wrong one. Barriers are numbered by each process, so a manager
        # that is made after a failure, or for the next part, needs a prefix of its own.
        self._folder.mkdir(parents=True, exist_ok=True)
        processes = set(range(jax.process_count())) if jax.process_count() > 1 else None
        meeting = ocp.options.MultiprocessingOptions(
            active_processes=processes, barrier_sync_key_prefix=f"{next(_managers)}"
        )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep,
            create=False,
            multiprocessing_options=meeting,
            cleanup_tmp_directories=True,  # what a save left whose process was killed
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "data": ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(_orbax(self._folder), options=options, item_handlers=handlers)

    def steps(self) -> list[int]:
        """Returns the steps of the whole checkpoints, in order."""
        if is_remote(self._folder):
            # Orbax would list less where the store fails to answer.
            found = [each for each in self._folder.glob("*") if each.name.isdecimal()]
            return sorted(int(each.name) for each in found if (each / _COMMITTED).exists())
        names = ocp.path.step.standard_name_format().find_all(self._folder)
        return sorted(found.step for found in names)

    # ------------------------------------------------------------------------------------ saving

    def save(self, step: int, state: Any, data: dict) -> None:
        """Begins to save, and returns once the arrays are copied.

        A step that was saved before stays as it is. A save that fails is reported; the next one is
        the next try.

        Args:
          step: the number of steps done.
          state: the training state.
          data: the stream's place, as JSON can hold it.

        Raises:
          TryAgain: several saves failed in a row.
        """
        self._finish()
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
        error, self._saving = None, step
        try:
            if step not in self._manager.all_steps():
                self._manager.save(step, args=items, force=True)
        except Exception as caught:  # the file system and tensorstore raise many kinds
            error = caught
        self._note(error)

    def save_now(self, step: int, state: Any, data: dict) -> None:
        """Saves, waits for the end, and tries again if that failed; for the last step of a run.

        Raises:
          TryAgain: several tries failed.
        """
        while True:
            self.save(step, state, data)
            self._finish()
            if not self._failures:
                return

    def _finish(self) -> None:
        """Waits for the save under way, and notes how it ended."""
        if self._saving is None:
            return
        error = None
        try:
            self._manager.wait_until_finished()
        except Exception as caught:
            error = caught
        self._note(error)
        if self._saving is not None:
            self._saving, self._failures = None, 0

    def _note(self, error: Exception | None) -> None:
        """Counts a failure, whichever process it happened on.

        Raises:
          TryAgain: several saves failed in a row.
        """
        if not (failed := _processes_where(error is not None)):
            return
        step, self._saving = self._saving, None
        self._failures += 1
        what = f"saving step {step} to {self._folder} failed: {_why(error, failed)}"
        if self._failures >= MAX_FAILURES:
            raise TryAgain(f"{what}; {self._failures} times in a row") from error
        warnings.warn(f"{what}; training goes on, and it is tried again", stacklevel=3)
        self.__dict__.pop("_manager", None)  # after a failure its record of steps may be wrong

    # ----------------------------------------------------------------------------------- restoring

    def restore(self, template: Any) -> tuple[Any, dict] | None:
        """Restores the newest whole checkpoint.

        A checkpoint that cannot be read is set aside with a warning, and the one before is taken.

        Args:
          template: a state of the wanted shapes, types and shardings.

        Returns:
          The state and the stream's place, or None if there is no checkpoint yet.

        Raises:
          UserError: the checkpoint is of another model.
          TryAgain: none can be read, or the processes do not see the same checkpoints.
        """
        steps = self.steps()
        newest = np.int64(steps[-1] if steps else -1)
        if jax.process_count() > 1 and len(set(multihost_utils.process_allgather(newest))) > 1:
            raise TryAgain(  # or a network disk shows the newest one late
                f"the processes do not see the same checkpoints in {self._folder}; accepted: a "
                "work folder that all of them share"
            )
        passed_over: dict[int, str] = {}
        for step in reversed(steps):
            for pause in (*(_PAUSES if is_remote(self._folder) else ()), None):
                restored = error = None
                try:
                    restored = self._restore(step, template)
                except UserError:
                    raise
                except Exception as caught:  # orbax and tensorstore raise many kinds
                    error = caught
                failed = _processes_where(error is not None)
                if not failed or pause is None:
                    break
                time.sleep(pause)  # a network disk or a store may answer then
            if failed:
                passed_over[step] = _why(error, failed)
                continue
            self._set_aside(passed_over, step)
            return restored
        if not passed_over:
            return None
        step, why = next(iter(passed_over.items()))
        raise TryAgain(  # the disk may be at fault, and not they
            f"none of the checkpoints in {self._folder} can be read; the newest, of step {step}: "
            f"{why}. To begin anew, remove that folder"
        )

    def _set_aside(self, steps: dict[int, str], taken: int) -> None:
        """Renames damaged checkpoints; on a store, where nothing is renamed, marks them unfinished.

        It does so only when another checkpoint could be read: a fault of the machine then costs
        none.
        """
        for step, why in steps.items():
            aside, marked = self._folder / f"damaged_{step}", self._folder / str(step) / _COMMITTED
            if is_lead() and is_remote(self._folder):
                marked.unlink(missing_ok=True)
            elif is_lead():
                shutil.rmtree(aside, ignore_errors=True)
                (self._folder / str(step)).rename(aside)
            done = f"is now named {aside.name}"
            if is_remote(self._folder):
                done = f"now lacks {_COMMITTED}"
            warnings.warn(
                f"the checkpoint of step {step} in {self._folder} cannot be read ({why}); it "
                f"{done}, and the run continues from the one of step {taken}",
                stacklevel=3,
            )
        if steps:
            self.__dict__.pop("_manager", None)
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("set aside")

    def _restore(self, step: int, template: Any) -> tuple[Any, dict]:
        """Restores one step with orbax's handlers; its manager would wait for other processes."""
        folder, handler = _orbax(self._folder / str(step)), ocp.StandardCheckpointHandler()
        saved = handler.metadata(folder / "state")
        shapes = [dict(_shapes(tree)) for tree in (getattr(saved, "tree", saved), template)]
        if shapes[0] != shapes[1]:
            names = sorted(
                k
                for k in shapes[0].keys() | shapes[1].keys()
                if shapes[0].get(k) != shapes[1].get(k)
            )
            models = [{k: v for k, v in each.items() if k.startswith("params/")} for each in shapes]
            what = "another model"
            averaged = all(any(k.startswith("ema/") for k in each) for each in shapes)
            if averaged and models[0] == models[1]:
                what = "a run that trained other parameters (the setting `trains`)"
            there, here = (shape.get(names[0], "absent") for shape in shapes)
            raise UserError(
                f"the checkpoint in {self._folder} is of {what}: {names[0]} is {there} in it, and "
                f"{here} by the config"
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        state = handler.restore(folder / "state", args=ocp.args.StandardRestore(abstract))
        data = ocp.JsonCheckpointHandler().restore(folder / "data", args=ocp.args.JsonRestore())
        return state, data

    def close(self) -> None:
        """Waits for the end of a save under way; `save_now` is for a save that must succeed."""
        if "_manager" in self.__dict__:
            with contextlib.suppress(Exception):
                self._manager.wait_until_finished()
            self._manager.close()


def _open_folder(folder: str | Path) -> Path:
    """Returns the folder of checkpoints as an absolute path; orbax is made ready for its store.

    Raises:
      UserError: its name holds what orbax takes for a pattern; it would lose every save.
    """
    folder = as_path(folder).absolute()
    if found := set("*?[") & set(str(folder)):
        raise UserError(
            f"{folder}: checkpoints in a folder whose name holds {' '.join(sorted(found))} could "
            "not be read again; accepted: a name without * ? ["
        )
    if str(folder).startswith("s3://"):
        from gen1_jax.training.s3_checkpoints import teach_orbax

        teach_orbax()
    return folder


def _orbax(folder: Path) -> epath.Path:
    """Returns a folder as orbax's own kind of path."""
    return epath.Path(os.fspath(folder))


def _processes_where(here: bool) -> list[int]:
    """Returns the processes on which the flag is set; every process must call it."""
    if jax.process_count() == 1:
        return [0] if here else []
    return np.flatnonzero(multihost_utils.process_allgather(np.bool_(here))).tolist()


def _why(error: Exception | None, processes: list[int]) -> str:
    """Returns the reason of a failure, or the processes that know it."""
    if error is None:
        return f"on process {', '.join(map(str, processes))}, which says why"
    return f"{type(error).__name__}: {one_line(error)[:200]}"


def read_params(folder: str | Path, template: Any, which: str = "ema") -> tuple[int, Any]:
    """Reads only the parameters of the newest checkpoint, to the host.

    Args:
      folder: the folder of a run's checkpoints.
      template: shapes and types of the parameters.
      which: "ema" for the moving average, or "raw" for the parameters themselves. A parameter that
        was not trained is its own average.

    Returns:
      The step, and the parameters.

    Raises:
      UserError: there is no checkpoint, it is of another model, or it is damaged.
    """
    steps = Checkpoints(folder).steps()
    if not steps:
        raise UserError(f"no checkpoint in {folder}; accepted: the `checkpoints` of a run")
    step = steps[-1]
    path = _orbax(_open_folder(folder) / str(step) / "state")
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.metadata(path).item_metadata.tree
            if dict(_shapes(tree["params"])) != dict(_shapes(template)):
                raise UserError(f"the checkpoint in {path.parent} is of another model")
            averaged = set(dict(_shapes(tree["ema"]))) if which == "ema" else set()
            item = jax.tree.map(lambda x: ocp.PLACEHOLDER, tree)
            item["params"] = _wanted(tree["params"], lambda path: path not in averaged)
            item["ema"] = _wanted(tree["ema"], lambda path: path in averaged)
            args = jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray), item)
            restored = checkpointer.restore(path, ocp.args.PyTreeRestore(item, restore_args=args))
    except UserError:
        raise
    except Exception as error:  # orbax and tensorstore raise many kinds
        raise UserError(
            f"the checkpoint in {path.parent} cannot be read: "
            f"{type(error).__name__}: {str(error)[:200]}"
        ) from error
    flat = {**_flatten(restored["params"]), **_flatten(restored["ema"])}
    return step, traverse_util.unflatten_dict(flat, sep="/")


def _wanted(tree: Any, choose: Callable[[str], bool]) -> Any:
    """Returns what orbax is to read of a tree: arrays where the path is chosen, else nothing."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    return traverse_util.unflatten_dict(
        {k: np.zeros(x.shape, x.dtype) if choose(k) else ocp.PLACEHOLDER for k, x in flat.items()},
        sep="/",
    )


def _flatten(tree: Any) -> dict[str, np.ndarray]:
    """Returns the arrays that were read, by path."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {path: x for path, x in flat.items() if x is not ocp.PLACEHOLDER}


def _shapes(tree: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the "/"-path and the shape of each array."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield (
            "/".join(
                str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path
            ),
            leaf.shape,
        )
