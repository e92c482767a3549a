"""The option `--mesh` of `gen1 edit` and `gen1 evaluate`."""

import argparse

import jax
import pytest

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


def test_too_many_devices_are_refused():
    many = len(jax.devices()) + 1
    with pytest.raises(UserError, match=f"--mesh data={many} needs {many} devices; jax sees "):
        mesh(f"data={many}")
