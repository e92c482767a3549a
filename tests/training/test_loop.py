"""The loop, its settings and its log.

That a stopped run goes on to the same numbers stands in test_resume.py.
"""

import dataclasses
import itertools
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import micro
import numpy as np
import pytest
from conftest import compile_fast
from micro_run import SMALL, load
from safetensors.numpy import load_file
from tiny_unet import flat

from gen1_jax import cli
from gen1_jax.conditioning import Conditioner
from gen1_jax.data_pipelines.sources import make_stream
from gen1_jax.errors import UserError
from gen1_jax.resolve import resolve_training
from gen1_jax.tokenizer import load_tokenizer
from gen1_jax.training import objectives
from gen1_jax.training.checkpoint import Checkpoints
from gen1_jax.training.objectives import Objective
from gen1_jax.training.signals import Preempted, Stopped
from gen1_jax.weights.folder import load_model, save_model
from gen1_jax.workflow import train_on


def stream(config):
    return lambda: make_stream(config.data, config.seed)


def test_the_autoencoder_ends_with_latents_of_unit_deviation(micro_run, quick, tmp_path):
    config = load(micro_run, "autoencoder", **SMALL, log_every=3, num_steps=3)
    folder = train_on(config, tmp_path, stream(config), progress=False)
    vae, params = load_model(folder)
    frames = np.concatenate([next(stream(config)()).frames for _ in range(4)])
    latents = Conditioner(vae=vae).encode_frames({"vae": params}, frames)
    assert abs(latents.std() - 1) < 0.15 and vae.scaling_factor != 0.18215
    assert (tmp_path / "logs").is_dir() and not (tmp_path / "samples").exists()


def test_the_prior_keeps_the_statistics_of_its_data(micro_run, quick, tmp_path):
    """Gradients and weight decay do not reach the statistics."""
    decay = {"optimizer.weight_decay": 0.5}
    config = load(micro_run, "prior", **SMALL, log_every=5, num_steps=5, **decay)
    folder = train_on(config, tmp_path, stream(config), progress=False)
    batches = stream(config)()
    # 32 examples, as tests/micro.py says: 8 batches of 4.
    content = np.concatenate([next(batches).content for _ in range(8)]).astype(np.float32)
    _, params = load_model(folder)
    np.testing.assert_allclose(params["clip_mean"][0], content.mean(0), atol=1e-5)
    np.testing.assert_allclose(params["clip_std"][0], content.std(0), atol=2e-4)


def test_damaged_records_end_no_run_and_are_logged(micro_run, quick, tmp_path, scalars):
    """After a restart too, which reads the same records again."""
    encoded = tmp_path / "encoded"
    shutil.copytree(micro_run / "encoded" / "train", encoded / "train")
    path = encoded / "train" / "clips-000000.records"
    data = bytearray(path.read_bytes())
    data[8] ^= 0xFF  # of the first clip's latents
    path.write_bytes(data)
    changes = {"data.folder": str(encoded), "log_every": 5}
    config = load(micro_run, "prior", **SMALL, **changes, num_steps=5, checkpoint_every=5)
    for steps in (5, 10):
        config.num_steps = steps
        with pytest.warns(UserWarning, match="record 0 of .*train is damaged: its checksum"):
            train_on(config, tmp_path / "run", stream(config), progress=False)
    assert set(scalars["replaced_records"]) == {5, 10}
    assert scalars["replaced_records"][5] > 0


def test_a_prior_s_clip_knows_the_tokenizer_s_end(micro_run, quick, tmp_path, monkeypatch):
    """A CLIP that an earlier version imported still says OpenAI's 2; see `with_end_token`."""
    clip, params = load_model(micro_run / "clip" / "model")
    text = dataclasses.replace(clip.text_config, eos_token_id=2)
    save_model(tmp_path / "clip", clip.clone(text_config=text), params)

    def look(module, conditioner, *arguments, **settings):
        raise StopIteration(conditioner.clip.text_config.eos_token_id)

    monkeypatch.setattr(objectives, "prior", look)
    config = load(micro_run, "prior", **SMALL, **{"frozen.clip": str(tmp_path / "clip")})
    with pytest.raises(StopIteration) as found:
        train_on(config, tmp_path / "w", stream(config), progress=False)
    assert found.value.value == load_tokenizer(micro_run / "tokenizer").end_id


@pytest.mark.parametrize("part", ["autoencoder", "prior"])
def test_fine_tuning_keeps_what_the_model_before_found_out(micro_run, quick, tmp_path, part):
    """At a rate of 0 nothing changes: no log variance, statistics or scale of latents."""
    before, (was, want) = tmp_path / "before", load_model(micro_run / part / "model")
    was = was.clone(scaling_factor=0.7) if part == "autoencoder" else was
    save_model(before, was, want)
    config = load(micro_run, part, **SMALL, num_steps=1, sample_every=0, init_from=str(before))
    config.optimizer.learning_rate = 0.0
    config = resolve_training(config)
    now, got = load_model(train_on(config, tmp_path / "w", stream(config), progress=False))
    assert now.to_config() == was.to_config()
    for path, value in flat(want).items():
        np.testing.assert_allclose(flat(got)[path], value, rtol=2e-7, err_msg=path)


def test_clip_compares_all_examples_of_a_batch(micro_run, tmp_path):
    config = load(micro_run, "clip", microbatches=2)
    with pytest.raises(UserError, match="clip: microbatches is 2; this part accepts 1"):
        train_on(config, tmp_path / "w", stream(config), progress=False)


def test_a_run_over_eight_devices_logs_the_losses_of_one(
    micro_run, monkeypatch, tmp_path, capsys, scalars
):
    """CLIP's loss compares all examples of a batch, wherever they are; parameters are sharded."""
    losses = []
    for devices in (1, 8):
        if len(jax.devices()) < devices:
            pytest.skip("needs 8 devices")
        with monkeypatch.context() as patch:
            compile_fast(patch, micro_run, devices)
            config = load(micro_run, "clip", num_steps=3, **{"mesh.fsdp": min(2, devices)})
            train_on(config, tmp_path / str(devices), stream(config), progress=False)
        losses.append(list(scalars.pop("loss/image").values()))
        assert ("sharded; replicated: " in capsys.readouterr().out) == (devices > 1)
    assert len(losses[0]) == 3
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_finished_run_is_not_run_again(micro_run, tmp_path):
    config = load(micro_run, "clip")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "finished.json").write_text('{"steps": 2}')
    assert train_on(config, tmp_path, lambda: pytest.fail("read data")) == tmp_path / "model"


def test_a_run_that_does_not_fit_the_memory_names_what_to_lower(micro_run, monkeypatch, tmp_path):
    def exhaust(*arguments, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8192 bytes.")

    monkeypatch.setattr("gen1_jax.training.loop.train", exhaust)
    with pytest.raises(UserError, match=r"8 KiB .* training clip; lower data.batch_size .* remat"):
        train_on(load(micro_run, "clip"), tmp_path, lambda: None)


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("num_steps", 0, "1 or more"),
        ("log_every", 0, "1 or more"),
        ("sample_every", -1, "0 or more"),
        ("checkpoint_every", 0, "1 or more"),
        ("keep_checkpoints", 0, "1 or more"),
        ("seed", -1, "0 to"),
        ("dtype", "float33", "bfloat16"),
        ("dtype", "float16", "gradients below 6e-8 vanish; bfloat16 and float32 are accepted"),
        ("objective", "guess", "'autoencoder', 'contrastive'"),
        ("loss", {"kl": 1.0}, "kl_weight"),
        ("frozen", {"unet": "x"}, "frozen.vae, frozen.clip"),
        ("frozen", {"vae": "nowhere"}, "nowhere"),
        ("init_from", "nowhere", "nowhere"),
        ("mesh.data", 3, "mesh"),
        ("microbatches", 3, "data.image_batch_size is 8, which does not divide into 3 microb"),
    ],
)
def test_bad_settings_are_refused_and_leave_nothing(micro_run, tmp_path, key, value, part):
    config = load(micro_run, "autoencoder")
    if isinstance(value, dict):
        config[key] = value
    else:
        config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=part) as caught:
        train_on(config, tmp_path / "w", stream(config), progress=False)
    assert "\n" not in str(caught.value) and not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("remat", "all", "'none', 'products' or 'layer' is accepted"),
        ("microbatches", 0, "microbatches is 0"),
        ("mesh.frames", 2, r"mesh.frames=2 shards .* 8 clips over 4 x 2 devices needs microb.*=2"),
    ],
)
def test_what_saves_memory_is_checked(micro_run, tmp_path, key, value, message):
    config = load(micro_run, "blur", **{key: value})
    with pytest.raises(UserError, match=message):
        train_on(config, tmp_path / "w", stream(config), progress=False)


@pytest.mark.parametrize(
    ("part", "message"),
    [("blur", "data.batch_size is 8; .* a multiple of 16 is accepted"), ("clip", "'no': CLIP's")],
)
def test_gradients_are_reduced_once_where_devices_can_compute_alone(
    micro_run, tmp_path, part, message
):
    config = load(micro_run, part, reduce_once="float32", microbatches=2)
    with pytest.raises(UserError, match=message):
        train_on(config, tmp_path / "w", stream(config), progress=False)


def test_several_steps_without_numbers_end_the_run_and_keep_the_batch(
    micro_run, quick, tmp_path, monkeypatch, capsys
):
    def loss(params, encoder_params, batch, key):
        return jax.tree.leaves(params)[0].sum() * jnp.nan, {}

    monkeypatch.setattr(objectives, "make_objective", lambda *_: Objective(loss))
    config = load(micro_run, "autoencoder", log_every=1000, checkpoint_every=1000, num_steps=9)
    with pytest.raises(UserError, match="at step 5 the loss is nan.* the 5th in a row; its batch"):
        train_on(config, tmp_path, stream(config), progress=False)
    assert "4 in a row" in capsys.readouterr().out
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "model").exists()
    batch = np.load(tmp_path / "bad_batch_5_0.npz")
    expected = list(itertools.islice(stream(config)(), 5))[-1]
    np.testing.assert_array_equal(batch["frames"], expected.frames)


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [(signal.SIGINT, Stopped, 130), (signal.SIGTERM, Preempted, 75)],
)
def test_a_signal_saves_and_has_its_own_exit_code(micro_run, quick, tmp_path, number, kind, code):
    config = load(micro_run, "autoencoder", **SMALL, num_steps=9, checkpoint_every=100)

    class Signalled:
        """A stream that sends the process a signal with its fourth batch."""

        def __init__(self):
            self._stream, self._count = stream(config)(), 0
            self.get_state, self.set_state = self._stream.get_state, self._stream.set_state

        def __iter__(self):
            return self

        def __next__(self):
            self._count += 1
            if self._count == 4:
                os.kill(os.getpid(), number)
            return next(self._stream)

    with pytest.raises(kind, match="stopped and saved at step 4 of 9") as stopped:
        train_on(config, tmp_path, Signalled, progress=False)
    assert getattr(stopped.value, "exit_code", 130) == code
    assert Checkpoints(tmp_path / "checkpoints").steps()[-1] == 4


def test_a_run_says_where_its_time_goes(micro_run, quick, tmp_path, scalars):
    config = load(micro_run, "autoencoder", **SMALL, num_steps=6)
    train_on(config, tmp_path, stream(config), progress=False, profile=2)
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    profile = jax.profiler.ProfileData.from_file(str(trace))  # owns the memory of its events
    events = [event for plane in profile.planes for line in plane.lines for event in line.events]
    assert [dict(event.stats)["step_num"] for event in events if event.name == "train"] == [2, 3]
    # Python calls (`$file.py:1 name`) are not traced: that can crash a process with threads.
    assert not [event.name for event in events if event.name.startswith("$")]
    for name in ("examples_per_second", "model_teraflops_per_second", "time/data", "time/other"):
        assert len(scalars[name]) == 6 and min(scalars[name].values()) > 0, name
    assert scalars["time/compile"][1] > 0 and "mfu" not in scalars  # nobody rates a CPU so


def test_the_image_stage_starts_from_an_imported_checkpoint(micro_run, quick, tmp_path, capsys):
    """diffusers' file → `gen1 import` → `train`: at a rate of 0 the same tensors come out."""
    diffusers = pytest.importorskip("diffusers")
    settings = {k: v for k, v in micro.get_config("image").model.items() if k[0] != "_"}
    reference = diffusers.UNet2DConditionModel(**settings)
    reference.save_pretrained(tmp_path / "published")
    run = tmp_path / "run"
    assert cli.main(["import", "--unet", str(tmp_path / "published"), "-o", str(run)]) == 0
    config = load(micro_run, "image", init_from=str(run / "unet" / "model"), num_steps=1)
    config.optimizer.learning_rate = 0.0
    folder = train_on(config, run / "image", stream(config), progress=False)
    assert "new (" not in capsys.readouterr().out
    got = load_file(folder / "diffusion_pytorch_model.safetensors")
    want = reference.state_dict()
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        # The moving average of a constant is rounded.
        np.testing.assert_allclose(got[name], tensor.numpy(), rtol=2e-7, err_msg=name)


@pytest.mark.parametrize(
    ("stage", "init_from", "name"),
    [("structure", "image", "temporal_conv1"), ("blur", "clip", "logit_scale")],
)
def test_a_stage_from_the_wrong_model_names_its_tensors(
    micro_run, quick, tmp_path, stage, init_from, name
):
    config = load(micro_run, stage, init_from=str(micro_run / init_from / "model"))
    with pytest.raises(UserError, match=name) as caught:
        train_on(config, tmp_path / "w", stream(config), progress=False)
    assert "do not merge" in str(caught.value) and not (tmp_path / "w").exists()
