"""The options `--mesh` and `--dtype` of every command that runs models."""

import argparse

import jax
import pytest

from gen1_jax import cli
from gen1_jax.commands.mesh import make_mesh_of
from gen1_jax.errors import UserError


def mesh(*entries):
    return make_mesh_of(argparse.Namespace(mesh=entries or None))


def test_as_many_devices_as_asked_for_are_taken():
    assert mesh() is None
    assert dict(mesh("frames=1").shape) == {"data": 1, "fsdp": 1, "frames": 1}
    if len(jax.devices()) >= 4:
        made = mesh("frames=2", "data=2")
        assert dict(made.shape) == {"data": 2, "fsdp": 1, "frames": 2} and made.size == 4


@pytest.mark.parametrize("entry", ["data", "data=", "data=0", "data=-1", "fsdp=2", "frames=two"])
def test_wrong_entries_are_refused(entry):
    with pytest.raises(UserError, match=f"--mesh {entry}; accepted: data=N or frames=N"):
        mesh(entry)


def test_a_command_accepts_its_own_axes():
    with pytest.raises(UserError, match="--mesh frames=2; accepted: data=N, N a number of devices"):
        make_mesh_of(argparse.Namespace(mesh=["frames=2"]), axes=("data",))


def test_every_command_that_runs_models_has_both():
    parser = cli.make_parser()
    required = {
        "edit": ["clip.mp4", "--prompt", "a"],
        "evaluate": ["--prompts", "p.jsonl", "-o", "x"],
        "precompute": ["--config", "tiny:encoded", "--workdir", "x"],
    }
    for name, arguments in required.items():
        given = ["--mesh", "data=2", "--dtype", "bfloat16"]
        args = parser.parse_args([name, *arguments, *given])
        assert (args.mesh, args.dtype) == (["data=2"], "bfloat16"), name


def test_too_many_devices_are_refused():
    many = len(jax.devices()) + 1
    with pytest.raises(UserError, match=f"--mesh data={many} needs {many} devices; jax sees "):
        mesh(f"data={many}")
