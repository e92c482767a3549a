"""Compiled programs on disk: whole, this key's own, or not there."""

import os
import subprocess
import sys
import warnings

import pytest

from gen1_jax.programs import ProgramFiles

START = """
from collections import Counter
from gen1_jax import cli
cli.main([])
import jax
from gen1_jax.programs import keep_programs
keep_programs()
seen = Counter()
jax.monitoring.register_event_listener(lambda event, **_: seen.update([event.split("/")[-1]]))
x = jax.numpy.ones((8, 8))
jax.jit(lambda x: (x @ x).sum())(x)
print(seen["compile_requests_use_cache"] - seen["cache_hits"])
"""


def start(cache) -> int:
    """Starts a process whose warnings are errors; returns how many programs it compiled."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TF_CPP", "JAX_"))}
    kept |= {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", START],
        env=kept,
        capture_output=True,
        text=True,
    )
    # jaxlib 0.10.1 would log two lines for each program that it loads (jax#38445).
    assert done.returncode == 0 and not done.stderr, done.stderr
    return int(done.stdout.split()[-1])


def test_a_second_start_compiles_nothing_and_damaged_files_are_compiled_in_silence(tmp_path):
    count = start(tmp_path)
    files = sorted(tmp_path.rglob("*.program"))
    assert count == len(files) > 1
    whole = [path.read_bytes() for path in files]
    files[0].write_bytes(whole[0][:-7])
    files[1].write_bytes(whole[0])  # another program's
    assert start(tmp_path) == 2
    assert [len(path.read_bytes()) for path in files[:2]] == [len(x) for x in whole[:2]]
    assert start(tmp_path) == 0


def test_what_does_not_check_is_not_there(tmp_path):
    files = ProgramFiles(tmp_path / "new", 2**20)
    assert files.get("a") is None
    files.put("a", b"program")
    assert files.get("a") == b"program"
    path = tmp_path / "new" / "a.program"
    whole = path.read_bytes()
    for damaged in (b"", whole[:3], whole[:-1], whole + b"x", b"0000" + whole[4:]):
        path.write_bytes(damaged)
        assert files.get("a") is None
        files.put("a", b"again")
        assert files.get("a") == b"again"
    (tmp_path / "new" / "b.program").write_bytes(whole)
    assert files.get("b") is None


def test_the_programs_that_were_not_read_for_longest_go_first(tmp_path):
    files = ProgramFiles(tmp_path, 3 * 104)
    for age, key in enumerate("abc"):
        files.put(key, bytes(100))
        os.utime(tmp_path / f"{key}.program", (1000 + age, 1000 + age))
    (tmp_path / "other").write_bytes(bytes(1000))
    assert files.get("a")
    files.put("d", bytes(100))
    assert [key for key in "abcd" if files.get(key)] == ["a", "c", "d"]
    assert (tmp_path / "other").exists()


def test_a_folder_that_cannot_be_written_is_named_once(tmp_path):
    (tmp_path / "file").touch()
    files = ProgramFiles(tmp_path / "file", 2**20)
    with pytest.warns(UserWarning, match="compiled programs are not kept in .*file: .*next start"):
        files.put("a", b"program")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files.put("a", b"program")
        assert files.get("a") is None
