"""Folders on object stores, against emulators that run here."""

import os
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from emulators import BUCKET, emulated, missing

from gen1_jax.errors import (
    EXIT_BAD_INPUT,
    EXIT_TRY_AGAIN,
    TryAgain,
    UserError,
    WritingFailed,
    exit_code,
)
from gen1_jax.files import (
    as_path,
    check_replaceable,
    is_remote,
    join,
    local_copy,
    read_json,
    replacing,
    replacing_folder,
    write_json,
)
from gen1_jax.programs import ProgramFiles

pytestmark = pytest.mark.skipif(
    bool(missing()), reason=f"the emulators need {', '.join(missing())}"
)


@pytest.fixture(scope="module")
def stores():
    """The environment of running emulators, which this process has too."""
    with emulated() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        import fsspec

        fsspec.filesystem("s3").mkdir(BUCKET)
        yield variables


@pytest.fixture(params=["gs", "s3"])
def root(stores, request):
    """A folder of the test's own on each store."""
    name = request.node.name.translate({ord("["): "-", ord("]"): None})
    return as_path(f"{request.param}://{BUCKET}/{name}")


def test_names_of_stores_and_of_this_machine(stores, tmp_path):
    assert not is_remote(as_path(tmp_path)) and as_path(tmp_path) == tmp_path
    path = as_path("gs://b/runs/video")
    assert is_remote(path) and as_path(path) == path
    assert str(path / "model" / "config.json") == "gs://b/runs/video/model/config.json"
    assert path.absolute() == path and pickle.loads(pickle.dumps(path)) == path
    assert type(path.parent) is type(path) and path.name == "video"
    assert join(path, "../vae/model") == "gs://b/runs/vae/model"
    assert join(tmp_path / "a", "../b") == str(tmp_path / "b")


def test_compiled_programs_lie_on_a_store(root):
    files = ProgramFiles(root / "programs", 10)
    assert files.get("a") is None
    files.put("a", b"program, longer than the limit of a folder")
    files.put("b", b"other")
    assert files.get("a").startswith(b"program") and files.get("b") == b"other"
    (root / "programs" / "a.program").write_bytes(b"prog")
    assert files.get("a") is None


def test_a_file_is_there_whole_or_not_at_all(root):
    path = root / "new" / "a.json"
    assert read_json(path) is None and not path.exists() and not list(root.glob("*"))
    with pytest.raises(FileNotFoundError):
        list(root.iterdir())
    for content in ({"a": [1, 2.5, None]}, {"b": "ä"}):
        write_json(path, content)
        assert read_json(path) == content
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("{")
        raise KeyboardInterrupt
    assert read_json(path) == {"b": "ä"}
    assert path.is_file() and path.parent.is_dir() and not path.is_dir()
    assert list(root.iterdir()) == [root / "new"] and list(root.glob("n*")) == [root / "new"]
    with path.open("rb") as file:
        assert file.read(2) == b"{\n" and path.size() > 2
    path.unlink()
    path.unlink(missing_ok=True)
    assert not root.exists()


def test_a_folder_is_known_by_its_marker(root):
    def write(names):
        with replacing_folder(root, marker="config.json") as new:
            for name in names:
                (new / name).parent.mkdir(exist_ok=True)
                (new / name).write_text(name)

    write(["config.json", "a/weights"])
    write(["config.json", "b"])
    assert [file.name for file in root.files()] == ["b", "config.json"]
    (root / "config.json").unlink()  # now it is somebody else's
    with pytest.raises(UserError, match="will not replace .*: it holds files but no config"):
        write(["config.json"])
    (root / ".unfinished").touch()  # as a killed process leaves it
    write(["config.json", "c"])
    assert [file.name for file in root.files()] == ["c", "config.json"]
    check_replaceable(root / "none", "config.json")


def test_what_another_process_writes_is_seen(root, stores):
    path = root / "a"
    assert not path.exists() and not list(root.glob("*"))
    code = f"from gen1_jax.files import as_path; as_path('{path}').write_text('b')"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **stores}, check=True)
    assert path.read_text() == "b" and list(root.iterdir()) == [path]


def test_a_bucket_that_is_not_there_is_bad_input(root):
    with pytest.raises(
        WritingFailed, match="cannot write .*nobody/a: no such object or bu"
    ) as said:
        write_json(as_path(f"{root.scheme}://nobody/a"), {})
    assert exit_code(said.value) == EXIT_BAD_INPUT


def test_a_store_that_does_not_answer_is_no_missing_file(stores):
    code = """
from gen1_jax.errors import exit_code
from gen1_jax.files import as_path, read_json
try:
    read_json(as_path("s3://gen1/a"))
except Exception as error:
    print(error)
    raise SystemExit(exit_code(error))
"""
    dead = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **stores, **dead},
        capture_output=True,
        text=True,
    )
    assert done.returncode == EXIT_TRY_AGAIN, done.stderr
    assert done.stdout.startswith("cannot read s3://gen1/a: ") and "127.0.0.1:9" in done.stdout


def test_a_missing_package_is_named():
    code = """
import sys
from functools import partial
sys.modules["gcsfs"] = None
from gen1_jax.files import as_path
as_path("gs://b/a")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UserError: gs:// needs gcsfs" in done.stderr and "gen1-jax[stores]" in done.stderr


# ---- encoded data


def test_encoded_clips_are_read_from_a_store(root, tmp_path):
    """Entry by entry, and from whole copies, of which few stay."""
    from encoded_files import COUNT, record, write_folder

    from gen1_jax.data_pipelines.encoded.reader import EncodedSource
    from gen1_jax.data_pipelines.shards import ShardCache
    from gen1_jax.stores import upload_folder

    local = write_folder(tmp_path / "train")
    upload_folder(local, root / "train", last="meta.json")
    size = (local / "clips-000000.records").stat().st_size
    cache = partial(ShardCache, str(tmp_path / "cache"), 2 * size)
    asked = EncodedSource(root / "train")
    copied = pickle.loads(pickle.dumps(EncodedSource(str(root / "train"), cache)))
    assert len(asked) == len(copied) == COUNT and asked.shard_counts == [4, 4, 2]
    for index in (9, 0, 5, 1):
        assert asked[index]["tokens"][0] == copied[index]["tokens"][0] == index
        assert (asked[index]["structure"][1] == record(index)["structure"][1]).all()
    copies = list((tmp_path / "cache").iterdir())
    assert len(copies) == 2 and {each.suffix for each in copies} == {".copy"}
    # Other clips at the same place are not taken for those that were copied.
    upload_folder(write_folder(tmp_path / "other", vae="y", start=100), root / "train")
    assert EncodedSource(root / "train", cache)[5]["tokens"][0] == 105
    (root / "train" / "clips-000001.records").unlink()
    with pytest.raises(UserError, match="train lacks clips-000001.records"):
        EncodedSource(root / "train")


def test_a_store_that_fails_is_no_damage(root, tmp_path, monkeypatch):
    from encoded_files import write_folder

    from gen1_jax.data_pipelines import shards
    from gen1_jax.data_pipelines.encoded.reader import EncodedSource
    from gen1_jax.stores import upload_folder

    monkeypatch.setattr(shards, "_PAUSES", (0,))
    upload_folder(write_folder(tmp_path / "train"), root / "train")
    source = EncodedSource(root / "train")
    (root / "train" / "clips-000000.records").unlink()
    with pytest.raises(TryAgain, match="cannot read .*clips-000000.records: no such object"):
        source[0]["tokens"]
    assert not source.damage.records


# ---- what is written there


def test_addresses_of_a_run(stores, tmp_path):
    from ml_collections import ConfigDict

    from gen1_jax.config import resolve_paths

    config = ConfigDict({"frozen": {"vae": "../vae/model"}, "data": "s3://b/encoded"})
    resolved = resolve_paths(config, as_path("gs://b/runs/video"))
    assert resolved.to_dict() == {"frozen": {"vae": "gs://b/runs/vae/model"}, "data": config.data}


def test_a_folder_is_copied_once_and_again_when_it_has_changed(root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = root / "model"
    assert local_copy(folder, "config.json") == folder  # nothing is there
    write_json(folder / "config.json", {"a": 1})
    (folder / "sub" / "weights").write_bytes(b"1")
    first = local_copy(folder, "config.json")
    assert read_json(first / "config.json") == {"a": 1}
    assert (first / "sub" / "weights").read_bytes() == b"1"
    assert local_copy(folder) == first and first.is_relative_to(tmp_path)
    (folder / "sub" / "weights").write_bytes(b"2")
    second = local_copy(folder)
    assert second != first and (second / "sub" / "weights").read_bytes() == b"2"
    assert not first.exists()  # there is room for one


_SAVING = """
import sys
from functools import partial
import numpy as np
from gen1_jax.training.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
for step in range(1, 1000):
    checkpoints.save_now(step, {"a": np.full(100_000, step, np.float32)}, {"place": step})
    print(step, flush=True)
"""


def kill_in_a_save(root, variables):
    """Saves steps in a process that is killed once step 3 is begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SAVING, str(root)],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    while process.stdout.readline() not in (b"2\n", b""):
        pass
    while not (root / "3").exists():
        pass
    process.kill()
    process.wait()


def test_checkpoints_outlive_a_kill_and_damage(root, stores):
    """A killed save is passed over, and saved again; a damaged one gives way to the one before."""
    from gen1_jax.training.checkpoint import Checkpoints

    def state(step):
        return {"a": np.full(100_000, step, np.float32)}

    if root.scheme == "s3":
        kill_in_a_save(root, stores)
    else:  # what is left then, without the seconds that a process takes
        checkpoints = Checkpoints(root)
        for step in (1, 2, 3):
            checkpoints.save_now(step, state(step), {"place": step})
        checkpoints.close()
        (root / "3" / "commit_success.txt").unlink()
        (root / "3" / "state" / "_METADATA").unlink()
    steps = Checkpoints(root).steps()
    newest = steps[-1]
    assert newest in (2, 3)  # and it is whole
    checkpoints = Checkpoints(root)
    restored, place = checkpoints.restore(state(0))
    assert place == {"place": newest}
    np.testing.assert_array_equal(restored["a"], state(newest)["a"])
    checkpoints.save_now(newest + 1, restored, {"place": newest + 1})
    checkpoints.close()
    assert Checkpoints(root).steps() == [newest, newest + 1]

    for file in (root / str(newest + 1) / "state").files():
        if "/d/" in str(file):
            file.write_bytes(b"damaged")
    checkpoints = Checkpoints(root)
    with pytest.warns(UserWarning, match=f"now lacks commit_success.txt.* of step {newest}$"):
        assert checkpoints.restore(state(0))[1] == {"place": newest}
    assert checkpoints.steps() == [newest]


def test_a_log_is_put_to_its_store(stores):
    from gen1_jax.training import telemetry

    root = as_path(f"gs://{BUCKET}/log")
    with telemetry.EventLog(root / "logs", 0) as log:
        log.add_scalar("loss", 1.0, 1)
    (file,) = root.files()
    assert file.parent == root / "logs" and b"loss" in file.read_bytes()


def test_programs_of_a_job_are_kept_on_its_store(root):
    from gen1_jax.programs import ProgramFiles

    files = ProgramFiles(root / "programs", 0)
    assert files.get("a") is None
    files.put("a", b"program")
    assert files.get("a") == b"program"
    (root / "programs" / "a.program").write_bytes(b"damaged")
    assert files.get("a") is None


def test_what_is_read_from_disks_alone_is_refused_by_name(stores):
    from gen1_jax.data_pipelines.footage.reader import open_footage
    from gen1_jax.data_pipelines.moving_shapes.builder import load

    with pytest.raises(UserError, match="^gs://b/footage: what `gen1 ingest` wrote is read from"):
        open_footage("gs://b/footage")
    with pytest.raises(UserError, match="^s3://b/world: a moving-shapes world is read from a disk"):
        load("s3://b/world", "test", "train")
