"""Checkpoints come back as they were saved; those that do not fit are refused in one line."""

import contextlib
import gc
import os
import shutil
import sys
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from gen1_jax.distributed import make_mesh
from gen1_jax.errors import UserError
from gen1_jax.training.checkpoint import Checkpoints
from gen1_jax.training.sharding import state_sharding
from gen1_jax.training.state import TrainState, make_optimizer

WIDE = 3000  # numbers that tensorstore keeps in files of their own


def state(step: int = 0, width: int = 3) -> TrainState:
    params = {"dense": {"kernel": jnp.arange(2.0 * width).reshape(2, width) + step}}
    optimizer = make_optimizer(num_steps=4, learning_rate=1e-3, warmup_steps=1)
    return TrainState(
        jnp.asarray(step, jnp.int32), params, params, optimizer.init(params), jnp.int32(0)
    )


def saved(folder, *steps: int, keep: int = 2) -> None:
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, state(step), {"next": step * 10})
    checkpoints.close()


def test_the_newest_checkpoint_comes_back_whole(tmp_path):
    saved(tmp_path / "c", 1, 2, 5)
    template = jax.eval_shape(state)
    checkpoints = Checkpoints(tmp_path / "c")
    restored, data = checkpoints.restore(template)
    checkpoints.close()
    assert data == {"next": 50} and checkpoints.steps()[-1] == 5
    jax.tree.map(np.testing.assert_array_equal, restored, state(5))
    assert jax.tree.structure(restored) == jax.tree.structure(state(5))
    assert sorted(p.name for p in (tmp_path / "c").iterdir() if p.name.isdigit()) == ["2", "5"]


def test_a_run_without_checkpoints_makes_no_folder(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.restore(state()) is None and not checkpoints.steps()
    checkpoints.close()
    assert not any(tmp_path.iterdir())


def test_a_step_that_is_there_stays_as_it_is(tmp_path):
    saved(tmp_path, 2)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, state(7), {"next": 0})
    restored, data = checkpoints.restore(state())
    checkpoints.close()
    assert int(restored.step) == 2 and data == {"next": 20}


def refused(folder, template) -> str:
    checkpoints = Checkpoints(folder)
    with pytest.raises(UserError) as caught:
        checkpoints.restore(template)
    checkpoints.close()
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    saved(tmp_path, 1)
    line = refused(tmp_path, state(width=4))
    assert "another model" in line and "dense/kernel is (2, 3) in it, and (2, 4)" in line
    line = refused(tmp_path, {"params": state().params})
    assert "another model" in line and "absent" in line


def damage(folder, target: str) -> None:
    for file in (p for p in (folder / target).rglob("*") if p.is_file()):
        file.write_bytes(file.read_bytes()[:5])


@pytest.mark.parametrize("target", ["state", "data"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, target):
    saved(tmp_path, 1, 2)
    damage(tmp_path / "2", target)
    checkpoints = Checkpoints(tmp_path)
    with pytest.warns(UserWarning, match="step 2 .* is now named damaged_2, .* of step 1$"):
        restored, data = checkpoints.restore(state())
    assert int(restored.step) == 1 and data == {"next": 10}
    assert (tmp_path / "damaged_2").is_dir() and checkpoints.steps() == [1]
    checkpoints.save_now(2, state(2), {"next": 20})  # the place is free again
    assert int(checkpoints.restore(state())[0].step) == 2
    checkpoints.close()


def check_restored(folder) -> int:
    """Checks that the newest checkpoint that is whole comes back to the last bit → its step."""
    checkpoints = Checkpoints(folder)
    restored, data = checkpoints.restore(state(width=WIDE))
    step = int(restored.step)
    jax.tree.map(np.testing.assert_array_equal, restored, state(step, WIDE))
    assert data == {"next": step * 10}
    return step


def copies_during(folder, monkeypatch, work) -> list:
    """Copies a folder before each change of its names during `work`, as `cp -r` may at any time.

    A process that is killed at that moment leaves the same files.
    """
    copies, lock, busy = [], threading.Lock(), threading.local()

    def copying(call):
        def copy_first(*arguments, **keywords):
            if not getattr(busy, "copying", False):
                with lock:
                    busy.copying = True
                    copies.append(folder.with_name(f"copy_{len(copies)}"))
                    with contextlib.suppress(shutil.Error):  # files that vanish meanwhile
                        shutil.copytree(folder, copies[-1])
                    busy.copying = False
            return call(*arguments, **keywords)

        return copy_first

    with monkeypatch.context() as patch:
        for name in ("mkdir", "rename", "rmdir", "unlink"):
            patch.setattr(os, name, copying(getattr(os, name)))
        work()
    return copies


def test_a_run_copied_at_any_moment_of_a_save_keeps_its_whole_checkpoints(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "c")
    for step in (1, 2):
        checkpoints.save_now(step, state(step, WIDE), {"next": step * 10})

    def save() -> None:
        checkpoints.save_now(3, state(3, WIDE), {"next": 30})
        checkpoints.close()

    seen = set()
    for copy in copies_during(tmp_path / "c", monkeypatch, save):
        names = {path.name for path in copy.iterdir()}
        assert check_restored(copy) == (3 if "3" in names else 2)
        if frozenset(names) in seen:
            continue
        seen.add(frozenset(names))
        again = Checkpoints(copy)  # the next save finds its place, and clears what is half written
        again.save_now(4, state(4, WIDE), {"next": 40})
        again.close()
        assert {path.name for path in copy.iterdir()} == {"3" if "3" in names else "2", "4"}
        assert check_restored(copy) == 4
    assert {"3.orbax-checkpoint-tmp", "3"} <= set().union(*seen)


@pytest.fixture
def unawaited(monkeypatch):
    """Lets orbax leave coroutines behind that it does not await after a failure."""
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: None)
    yield
    gc.collect()


@pytest.mark.usefixtures("unawaited")
@pytest.mark.parametrize("left", ["a half", "its temporary file"])
def test_a_copy_that_broke_off_goes_on_from_a_whole_checkpoint(tmp_path, left):
    """Each file of the newest one in turn, as rsync leaves the file that it was at."""
    for step in (1, 2):
        checkpoints = Checkpoints(tmp_path / "c")
        checkpoints.save_now(step, state(step, WIDE), {"next": step * 10})
        checkpoints.close()
    passed_over = 0
    for file in [path for path in (tmp_path / "c" / "2").rglob("*") if path.is_file()]:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "c", tmp_path / "copy")
        torn, whole = tmp_path / "copy" / file.relative_to(tmp_path / "c"), file.read_bytes()
        half = whole[: len(whole) // 2]
        torn.unlink()
        if left == "its temporary file":
            torn.with_name(f".{torn.name}.k3Jx0P").write_bytes(half)
        else:
            torn.write_bytes(half)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            step = check_restored(tmp_path / "copy")
        assert step == (1 if any("now named damaged_2" in str(w.message) for w in said) else 2)
        passed_over += step == 1
    assert passed_over > 3


def test_damaged_checkpoints_alone_do_not_begin_a_run_anew(tmp_path):
    saved(tmp_path, 1, 2)
    damage(tmp_path / "1", "state")
    damage(tmp_path / "2", "data")
    for _ in range(2):  # as a cluster starts it again
        assert "can be read; the newest, of step 2: " in refused(tmp_path, state())
    assert Checkpoints(tmp_path).steps() == [1, 2]


def test_a_fault_that_is_not_the_checkpoints_costs_none(tmp_path, monkeypatch):
    saved(tmp_path, 1, 2)
    with monkeypatch.context() as patch:

        def full(self, *arguments, **keywords):
            raise MemoryError("no room on the device")

        patch.setattr(ocp.StandardCheckpointHandler, "restore", full)
        assert "MemoryError: no room on the device" in refused(tmp_path, state())
    assert int(Checkpoints(tmp_path).restore(state())[0].step) == 2


def failing_saves(monkeypatch) -> list[bool]:
    """Returns a list; each of the next saves takes its last entry and fails if that is True."""
    save, fail = ocp.CheckpointManager.save, []

    def full(self, *arguments, **keywords):
        if fail and fail.pop():
            raise OSError("no space left on device")
        return save(self, *arguments, **keywords)

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    return fail


def test_a_failed_save_is_tried_again_and_ends_a_run_only_when_it_goes_on(tmp_path, monkeypatch):
    checkpoints, fail = Checkpoints(tmp_path), failing_saves(monkeypatch)
    for start in (0, 3):
        for step in (start + 1, start + 2):
            fail.append(True)
            with pytest.warns(UserWarning, match=f"saving step {step} .* no space left .* goes on"):
                checkpoints.save(step, state(step), {"next": step})
        if start == 0:
            checkpoints.save(3, state(3), {"next": 3})
            checkpoints.close()
            assert checkpoints.steps() == [3]
    fail.append(True)
    with pytest.raises(UserError, match="saving step 6 .* 3 times in a row"):
        checkpoints.save(6, state(6), {"next": 6})
    checkpoints.close()


def test_the_last_save_is_tried_again_at_once(tmp_path, monkeypatch):
    checkpoints, fail = Checkpoints(tmp_path), failing_saves(monkeypatch)
    fail += [True, True]
    with pytest.warns(UserWarning, match="saving step 7 .* tried again"):
        checkpoints.save_now(7, state(7), {"next": 70})
    assert checkpoints.steps() == [7] and not fail
    fail += [True] * 3
    with pytest.warns(UserWarning), pytest.raises(UserError, match="step 8 .* 3 times in a row"):
        checkpoints.save_now(8, state(8), {"next": 80})
    checkpoints.close()


def test_a_checkpoint_of_many_devices_comes_back_on_few_and_the_other_way_round(tmp_path):
    if len(jax.devices()) < 8:
        pytest.skip("needs 8 devices")

    def lay_out(tree, count: int, fsdp: int):
        mesh = make_mesh(fsdp=fsdp, devices=jax.devices()[:count])
        return jax.tree.map(jax.device_put, tree, state_sharding(mesh, tree))

    whole = state(3, width=2**14)
    for number, (before, after) in enumerate(
        [((8, 4), (1, 1)), ((1, 1), (8, 8)), ((8, 2), (4, 4))]
    ):
        folder = tmp_path / str(number)
        checkpoints = Checkpoints(folder)
        checkpoints.save(3, lay_out(whole, *before), {"next": 30})
        checkpoints.close()
        wanted = lay_out(state(0, width=2**14), *after)
        restored, _ = Checkpoints(folder).restore(wanted)
        jax.tree.map(np.testing.assert_array_equal, restored, whole)
        for got, want in zip(*map(jax.tree.leaves, (restored, wanted)), strict=True):
            assert got.sharding.is_equivalent_to(want.sharding, got.ndim)


def test_a_folder_that_orbax_takes_for_a_pattern_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"whose name holds \[ could not be read again"):
        Checkpoints(tmp_path / "run[1]")
