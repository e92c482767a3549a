"""The held-out loss: what it is measured on, that it repeats itself, and where it is written."""

import json
from itertools import islice

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from micro_run import load
from tiny_unet import normal

from gen1_jax.batch import Batch
from gen1_jax.data_pipelines.sources import make_stream, make_validation_streams
from gen1_jax.distributed import make_mesh, replicated
from gen1_jax.errors import UserError
from gen1_jax.training.state import make_optimizer, new_state
from gen1_jax.training.validation import HeldOutLoss
from gen1_jax.training_checks import check_settings
from gen1_jax.workflow import train_on


def toy_loss(params, encoder_params, batch, key):
    noise = jax.random.normal(key, batch.content.shape)
    return jnp.square((batch.content + noise) @ params["kernel"]).mean(), {}


def measure(streams, devices: int = 1, num_batches: int = 3, **options) -> dict[str, float]:
    mesh = make_mesh(devices=jax.devices()[:devices])
    optimizer = make_optimizer(num_steps=2, learning_rate=0.1, warmup_steps=0)
    state = jax.device_put(new_state(optimizer, {"kernel": np.eye(3)}), replicated(mesh))
    held_out = HeldOutLoss(
        toy_loss, streams, num_batches=num_batches, template=state, dtype="float32", **options
    )
    first = held_out.measure(state.ema, {})
    assert held_out.measure(state.ema, {}) == first  # the same batches and noise
    return first


def test_a_measurement_is_the_mean_over_its_batches_of_each_kind():
    content = normal(0, 5, 8, 3)
    streams = {
        "image": lambda: (Batch(content=c) for c in content),
        "video": lambda: (Batch(content=2 * c) for c in content),
    }
    found = measure(streams)
    each = [
        measure({"image": lambda c=c: iter([Batch(content=c)])}, num_batches=1)["image"]
        for c in content[:3]
    ]
    assert found.keys() == streams.keys() and found["image"] < found["video"]
    # Batch 0 has the same key in both; batches 1 and 2 have keys of their own.
    one = measure({"image": streams["image"]}, num_batches=1)["image"]
    assert one == each[0] and found["image"] != pytest.approx(np.mean(each), rel=1e-6)
    if len(jax.devices()) >= 8:
        chex.assert_trees_all_close(measure(streams, devices=8), found, rtol=1e-5)
    assert measure({}) == {}


def test_the_streams_are_those_of_the_kinds_that_training_reads(micro_run, tmp_path):
    for fraction, kinds in ((0.0, ["video"]), (0.25, ["video", "image"]), (1.0, ["image"])):
        data = load(micro_run, "blur", **{"data.image_fraction": fraction}).data
        streams = make_validation_streams(data)
        assert list(streams) == kinds
        for kind, make in streams.items():
            batches = [list(islice(make(), 2)) for _ in range(2)]
            chex.assert_trees_all_equal(*batches)
            assert all((b.num_frames == 1) == (kind == "image") for b in batches[0])
    (tmp_path / "train").symlink_to(micro_run / "encoded" / "train")
    data.folder = str(tmp_path)
    with pytest.warns(UserWarning, match="no held-out loss of images: .* no validation split"):
        assert make_validation_streams(data) == {}  # training's split is not held out


def test_a_run_ends_with_its_held_out_loss(micro_run, quick, tmp_path, scalars, capsys):
    """Measuring it changes nothing in the model, and neither does data that cannot be read."""

    def unreadable():
        raise UserError("record 3 is damaged")
        yield

    models = []
    for name, every in (("whole", 2), ("damaged", 2), ("none", 0)):
        config = load(micro_run, "clip", num_steps=3, eval_every=every, eval_batches=2)
        damaged = {"image": unreadable} if name == "damaged" else None
        folder = train_on(
            config,
            tmp_path / name,
            lambda config=config: make_stream(config.data, 0),
            make_validation=lambda config=config, damaged=damaged: (
                damaged or make_validation_streams(config.data)
            ),
            progress=False,
        )
        models.append((folder / "model.safetensors").read_bytes())
        finished = json.loads((folder.parent / "finished.json").read_text())
        assert finished.keys() == {"steps"} | ({"validation_loss"} if name == "whole" else set())
        if name == "whole":
            found = scalars["validation_loss/image"]
            assert list(found) == [2, 3] and "validation_loss/video" not in scalars
            assert finished == {"steps": 3, "validation_loss": {"image": found[3]}}
    assert models[0] == models[1] == models[2]
    said = "clip: no held-out loss at step 2: record 3 is damaged; training goes on"
    assert [line for line in capsys.readouterr().out.splitlines() if "held-out" in line] == [said]
    assert scalars["errors/held-out_loss"] == {2: 1, 3: 2}


@pytest.mark.parametrize(("key", "value", "low"), [("eval_every", -1, 0), ("eval_batches", 0, 1)])
def test_counts_that_measure_nothing_are_refused(micro_run, key, value, low):
    with pytest.raises(UserError, match=f"{key} is {value}; a whole number of {low} or more is"):
        check_settings(load(micro_run, "clip", **{key: value}))
