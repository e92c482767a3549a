"""Checkpoints: what is saved comes back; what does not fit is refused in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen1_jax.checkpoint import Checkpoints
from gen1_jax.errors import UserError
from gen1_jax.training import TrainState, make_optimizer


def state(step: int = 0, width: int = 3) -> TrainState:
    params = {"dense": {"kernel": jnp.arange(2.0 * width).reshape(2, width) + step}}
    optimizer = make_optimizer(num_steps=4, learning_rate=1e-3, warmup_steps=1)
    return TrainState(jnp.asarray(step, jnp.int32), params, params, optimizer.init(params))


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
    assert data == {"next": 50} and checkpoints.latest_step == 5
    jax.tree.map(np.testing.assert_array_equal, restored, state(5))
    assert jax.tree.structure(restored) == jax.tree.structure(state(5))
    assert sorted(p.name for p in (tmp_path / "c").iterdir() if p.name.isdigit()) == ["2", "5"]


def test_a_run_without_checkpoints_makes_no_folder(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.restore(state()) is None and checkpoints.latest_step is None
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
    assert "another model" in line and "dense/kernel is (2, 3) there and (2, 4)" in line
    line = refused(tmp_path, {"params": state().params})
    assert "another model" in line and "absent" in line


@pytest.mark.parametrize("target", ["state", "data"])
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path, target):
    saved(tmp_path, 1)
    files = [p for p in (tmp_path / "1" / target).rglob("*") if p.is_file()]
    for file in files:
        file.write_bytes(file.read_bytes()[:5])
    assert "cannot be read; remove that folder" in refused(tmp_path, state())
