"""`gen1 precompute`: the same bytes however it is run; training from them is training from raw."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import footage_files
import jax
import numpy as np
import pytest
from micro_run import load
from ml_collections import ConfigDict
from test_processes import ROOT, launch
from tiny_unet import QUICK_FLAGS

from gen1_jax.conditioning import Conditioner
from gen1_jax.data_pipelines.encoded.reader import EncodedSource
from gen1_jax.data_pipelines.encoded.writer import EncodedWriter
from gen1_jax.data_pipelines.footage import records
from gen1_jax.data_pipelines.sources import make_stream
from gen1_jax.errors import UserError
from gen1_jax.structure_settings import DepthSettings
from gen1_jax.training.objectives import make_objective
from gen1_jax.weights.folder import load_model
from gen1_jax.workflow import run_part

JOB = {"batch_size": 2, "records_per_shard": 4}


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def arguments(workdir: Path, processes: int = 1, **changes) -> list[str]:
    settings = [f"{name}={value}" for name, value in (JOB | changes).items()]
    return [
        "-m", "gen1_jax.cli", "precompute", "--config", "tests/micro.py:encoded", "--workdir",
        str(workdir), "--no-progress", "--processes", str(processes), "--set", *settings,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def alone(micro_run):
    """What one process with one device makes of it, uninterrupted."""
    folder = micro_run / "encoded_alone"
    done = launch(1, 1, *arguments(folder))
    assert done.returncode == 0, done.stdout[-3000:]
    return files(folder)


def test_the_job_leaves_its_shards_and_nothing_else(alone):
    names = [f"train/clips-{k:06d}.records" for k in range(6)]
    names += [f"validation/clips-{k:06d}.records" for k in range(2)]
    assert sorted(alone) == sorted([*names, "train/meta.json", "validation/meta.json"])


def test_processes_and_devices_change_no_byte(micro_run, alone):
    folder = micro_run / "encoded_by_two"
    flags = ("--mesh", "data=2", "--dtype", "float32")
    done = launch(2, 3, *arguments(folder, processes=2), *flags)
    assert done.returncode == 0, done.stdout[-3000:]
    assert files(folder) == alone


def test_killed_it_ends_with_the_same_bytes(micro_run, alone):
    """Real kills, each somewhere in a shard; finished shards are kept as they are."""
    folder, rng, kept = micro_run / "encoded_killed", np.random.default_rng(0), {}
    environment = os.environ | {"XLA_FLAGS": QUICK_FLAGS}
    command = [sys.executable, *arguments(folder)]
    for _ in range(2):
        with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
            while process.poll() is None and len(shards(folder)) <= len(kept):
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL and not (folder / "train/meta.json").exists()
        assert kept.items() < shards(folder).items()
        kept = shards(folder)
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    assert kept.items() < shards(folder).items() and files(folder) == alone


def shards(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("clips-*.records")}


@pytest.mark.parametrize("finished", [False, True])
def test_a_job_goes_on_with_its_settings_only(micro_run, quick, tmp_path, monkeypatch, finished):
    write = EncodedWriter.write

    def interrupted(self, shard, records):
        write(self, shard, records)
        raise KeyboardInterrupt

    def run(**changes):
        settings = load(micro_run, "encoded", **(JOB | changes))
        run_part(settings, tmp_path / "x", progress=False)

    if finished:
        run()
    else:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(EncodedWriter, "write", interrupted)
            run()
    before = files(tmp_path / "x")
    for name, value, was in (
        ("seed", 1, "0"),
        ("levels_per_clip", 3, "2"),
        ("precision", "float32", '"float16"'),
    ):
        with pytest.raises(UserError) as caught:
            run(**{name: value})
        assert str(caught.value).startswith(f"{tmp_path}/x/train was begun with {name} {was}, ")
        assert "\n" not in str(caught.value)
    assert files(tmp_path / "x") == before
    run(batch_size=1, num_threads=1)  # which decide how much memory it takes
    source = EncodedSource(tmp_path / "x" / "train")
    assert len(source) == 24
    if not finished:
        whole = EncodedSource(micro_run / "encoded" / "train")
        for name in ("latents", "content", "structure"):
            np.testing.assert_allclose(source[20][name], whole[20][name], atol=2e-3, err_msg=name)


def test_a_job_that_ran_out_of_memory_goes_on_with_less(micro_run, quick, tmp_path, monkeypatch):
    """Nothing of it is stored yet, so all of its settings may be others."""
    from gen1_jax import precompute

    def run(**changes):
        changes = JOB | {"splits": ("validation",)} | changes
        run_part(load(micro_run, "encoded", **changes), tmp_path / "x", progress=False)

    def launch(*_):
        raise RuntimeError("INTERNAL: YNNPACK operation failed: error allocate")

    lower = "out of memory while encoding validation; lower --set batch_size, which is 2;"
    with monkeypatch.context() as patch, pytest.raises(UserError, match=lower):
        patch.setattr(precompute.Encoder, "_launch", launch)
        run()
    assert list(files(tmp_path / "x")) == ["validation/.job.json"]
    run(batch_size=1, seed=1)
    assert len(EncodedSource(tmp_path / "x" / "validation")) == 8


def test_a_process_whose_disk_is_full_ends_the_job_in_one_line(micro_run):
    """The limit on the size of files is the second's alone; the first would wait for its shards."""
    folder = micro_run / "encoded_full"
    limited = 'if [ "$GEN1_PROCESS" = 1 ]; then ulimit -f 100; fi; exec "$0" "$@"'
    command = [sys.executable, *arguments(folder, processes=2)]
    launcher = [sys.executable, ROOT / "launch" / "local.py", "--processes", "2", "--devices", "1"]
    with subprocess.Popen(
        [*map(str, launcher), "--", "bash", "-c", limited, *command],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": QUICK_FLAGS},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        # Compiled programs, which are larger than the limit too, are a note.
        lines = (line for line in process.stdout if line.startswith("[1] gen1: "))
        said = next(line for line in lines if ": note: " not in line)
        time.sleep(1)  # it has ended then; the signal is for the first
        process.terminate()
        process.stdout.read()
    assert said == f"[1] gen1: cannot write {folder}/train: File too large\n"
    assert process.returncode == 2


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"levels_per_clip": 9}, "levels_per_clip is 9"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"dtype": "float64"}, "dtype is 'float64'"),
        ({"data.form": "films"}, "'films'"),
        ({"data.world": "nowhere"}, "nowhere"),
        ({"splits": ("training",)}, "'training'"),
        ({"frozen.depth": "nowhere"}, "nowhere"),
        ({"tokenizer": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_settings_are_one_line(micro_run, tmp_path, changes, culprit):
    config = load(micro_run, "encoded", **changes)
    with pytest.raises(UserError, match=culprit) as caught:
        run_part(config, tmp_path / "x", progress=False)
    assert "\n" not in str(caught.value) and not (tmp_path / "x").exists()


def test_numbers_that_cannot_be_stored_name_their_record(micro_run, quick, tmp_path):
    shutil.copytree(micro_run / "pipeline" / "vae", tmp_path / "vae")
    path = tmp_path / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": 1e7}))
    changes = {"frozen.vae": str(tmp_path / "vae"), "tokenizer": "", "splits": ("validation",)}
    with pytest.raises(UserError, match="record 0 of .*/x/validation: latents.*float16"):
        run_part(load(micro_run, "encoded", **changes), tmp_path / "x", progress=False)
    assert list(files(tmp_path / "x")) == ["validation/.job.json"]
    changes["precision"] = "float32"
    run_part(load(micro_run, "encoded", **changes), tmp_path / "y", progress=False)
    assert "tokens" not in EncodedSource(tmp_path / "y" / "validation")[0]


# ------------------------------------------------------------------------------- equal to raw

SIZES = ((16, 24), (24, 16))  # of images; clips have the first
RAW = ("frames", "structure_level", "content_frame")


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """Clips and images of noise, so that everything about them differs."""
    rng = np.random.default_rng(0)

    def frames(n, height, width):
        return rng.integers(0, 256, (n, height, width, 3), np.uint8)

    folder = tmp_path_factory.mktemp("footage")
    clips = [
        records.encode_clip(frames(4, *SIZES[0]), np.arange(4.0), "a red ball" * (i % 2), "x", i)
        for i in range(9)
    ]
    footage_files.write(footage_files.Clips, folder, {"train": clips})
    images = {
        f"train_{h}x{w}": [records.encode_image(frames(1, h + 2, w + 6)[0], "", "x")] * 2
        + [records.encode_image(frames(1, h, w)[0], "", "x")] * (4 - k)
        for k, (h, w) in enumerate(SIZES)
    }
    footage_files.write(footage_files.Images, folder, images)
    return folder


def encode_footage(micro_run, footage, workdir, size=SIZES[0], **changes):
    config = load(micro_run, "encoded", **{"levels_per_clip": 8, "batch_size": 4}, **changes)
    config.data = {"form": "footage", "folder": str(footage), "size": size}
    with pytest.warns(UserWarning, match="has no split .validation., so"):
        run_part(config, workdir, progress=False)


def test_footage_is_read_encoded_as_it_is_read_raw(micro_run, quick, footage, tmp_path):
    """Batch by batch: kinds, sizes, records, frames, levels, and the numbers."""
    encode_footage(micro_run, footage, tmp_path, precision="float32")
    encode_footage(micro_run, footage, tmp_path, precision="float32", size=None)  # it is the same
    cut = pytest.warns(UserWarning, match="clips/train: 16×24 .*, 33 % cut off → 8×8 .data.size")
    with pytest.raises(UserError, match=r"begun with data .*\[16, 24\].* now it is"), cut:
        encode_footage(micro_run, footage, tmp_path, precision="float32", size=(8, 8))
    # A folder of an earlier version does not say how depth was estimated, and is taken as it is.
    for path in tmp_path.glob("*/*/meta.json"):
        meta = json.loads(path.read_text())
        assert meta.pop("depth")["resizing"] == "shorter_side"
        assert meta.pop("structure")["extractor"] == "depth"
        path.write_text(json.dumps(meta))
    defaults = dataclasses.asdict(DepthSettings())
    options = {"precision": "float32"} | {f"depth.{key}": x for key, x in defaults.items()}
    encode_footage(micro_run, footage, tmp_path, **options)
    with pytest.raises(UserError, match=r"begun with depth .*shorter_side.* now it is .*0\.5"):
        encode_footage(micro_run, footage, tmp_path, **options | {"depth.range": (0.0, 0.5)})
    shared = {"batch_size": 2, "image_batch_size": 3, "image_fraction": 0.5, "num_frames": 4}
    shared |= {"levels": (0, 2, 5), "num_threads": 0}
    raw = {"form": "footage", "folder": str(footage), "random_crop": False}
    raw |= {"buckets": SIZES[:1], "image_buckets": SIZES, "fields": RAW}
    stored = {
        "form": "encoded",
        "folder": str(tmp_path / "clips"),
        "image_folders": tuple(str(tmp_path / f"images_{h}x{w}") for h, w in SIZES),
        "image_buckets": tuple((h // 2, w // 2) for h, w in SIZES),
        "fields": ("latents", "latents_logvar", "structure", "structure_level", "content"),
    }
    raw, stored = (make_stream(ConfigDict({**x, **shared}), 7) for x in (raw, stored))
    folders = {name: micro_run / "pipeline" / name for name in ("vae", "clip", "depth")}
    conditioner, encoder_params = Conditioner.load(folders)
    encode, seen = jax.jit(conditioner.encode_batch), set()
    for _ in range(8):
        wanted = encode(encoder_params, next(raw)).fields()
        batch = next(stored).fields()
        assert wanted.keys() == batch.keys()
        for name in batch:
            np.testing.assert_allclose(batch[name], wanted[name], atol=2e-5, err_msg=name)
        seen.add(batch["latents"].shape[:-1])
    assert seen == {(2, 4, 8, 12), (3, 1, 8, 12), (3, 1, 12, 8)}


def test_several_folders_of_footage_are_refused(micro_run, footage, tmp_path):
    """The records of both would go to one folder."""
    config = load(micro_run, "encoded")
    config.data = {"form": "footage", "folder": (str(footage), "other"), "size": SIZES[0]}
    with pytest.raises(UserError, match="one folder is accepted"):
        run_part(config, tmp_path, progress=False)


def test_training_from_encoded_is_training_from_raw(micro_run, quick, tmp_path):
    """The same seeds give the same loss and gradient, within what the storage precision rounds."""
    module, params = load_model(micro_run / "blur" / "model")
    folders = {name: micro_run / "pipeline" / name for name in ("vae", "clip", "depth")}
    conditioner, encoder_params = Conditioner.load(folders)
    loss = make_objective("diffusion", module, conditioner, {}).loss
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def run(**data):
        data = {"batch_size": 2, "image_fraction": 0.0, "num_frames": 8, "num_threads": 0} | data
        stream = make_stream(ConfigDict(data), 3, split="validation")
        batches = (next(stream).widened() for _ in range(2))
        both = [step(params, encoder_params, x, jax.random.key(i)) for i, x in enumerate(batches)]
        values, gradients = zip(*((value, gradient) for (value, _), gradient in both), strict=True)
        return np.array(values), np.concatenate([x.ravel() for x in jax.tree.leaves(gradients)])

    world = {"world": str(micro_run / "world"), "builder": "test", "buckets": ((32, 32),)}
    wanted, gradient = run(form="raw", fields=RAW, **world)
    # Measured: 7e-8 and 3e-5 of the gradient.
    for precision, tolerance in (("float32", 2e-6), ("float16", 5e-4)):
        folder = tmp_path / precision
        config = load(micro_run, "encoded", levels_per_clip=8, precision=precision)
        config.splits = ("validation",)
        run_part(config, folder, progress=False)
        values, other = run(form="encoded", folder=str(folder))
        np.testing.assert_allclose(values, wanted, rtol=tolerance)
        distance = np.linalg.norm(other - gradient)
        assert 0 < distance < tolerance * np.linalg.norm(gradient)
