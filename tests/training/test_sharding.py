"""Where the arrays of a training state lie on a mesh of eight virtual devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from gen1_jax.distributed import make_mesh
from gen1_jax.errors import UserError
from gen1_jax.training.sharding import describe_sharding, state_sharding


def devices(count=8):
    """Returns devices; conftest.py makes eight, other hardware may have fewer."""
    if len(jax.devices()) < count:
        pytest.skip(f"needs {count} devices")
    return jax.devices()[:count]


@pytest.mark.parametrize(
    ("shape", "fsdp", "spec"),
    [
        ((64, 256), 4, P(None, "fsdp")),
        ((1024, 16), 4, P(None, "fsdp")),
        ((3, 3, 64, 126), 4, P(None, None, "fsdp", None)),  # 126 does not divide
        ((129, 255), 2, P()),  # none divides
        ((64, 255), 4, P()),  # small
        ((), 4, P()),
        ((64, 256), 1, P()),
    ],
)
def test_parameters_lie_along_the_first_axis_that_divides(shape, fsdp, spec):
    mesh = make_mesh(-1, fsdp, devices=devices())
    sharding = state_sharding(mesh, {"x": jax.ShapeDtypeStruct(shape, jnp.float32)})["x"]
    assert sharding.spec == spec and sharding.mesh == mesh


def test_a_config_s_own_rules():
    mesh = make_mesh(2, 4, devices=devices())
    shapes = {"a": jax.ShapeDtypeStruct((3, 3, 64, 256), jnp.float32)}
    for rules, spec in (
        ((("in", "fsdp"),), P(None, None, "fsdp", None)),
        ((("out", "data"), ("in", "fsdp")), P(None, None, "fsdp", "data")),
        ((("place", "fsdp"),), P()),  # three places do not divide
        ((), P()),
    ):
        assert state_sharding(mesh, shapes, rules)["a"].spec == spec
    for rule in (("rows", "fsdp"), ("out", "model")):
        with pytest.raises(UserError, match="sharding rule .* accepted: one of in, out, place and"):
            state_sharding(mesh, shapes, (rule,))


def test_what_is_not_sharded_is_named_with_the_reason():
    shapes = {
        "conv": {"kernel": jax.ShapeDtypeStruct((3, 3, 64, 256), jnp.float32)},
        "odd": {"kernel": jax.ShapeDtypeStruct((129, 255), jnp.float32)},
        "norm": {"scale": jax.ShapeDtypeStruct((64,), jnp.float32)},
    }

    def described(fsdp: int) -> str:
        mesh = make_mesh(-1, fsdp, devices=devices())
        return describe_sharding(
            jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                shapes,
                state_sharding(mesh, shapes),
            )
        )

    assert described(1) == ""
    line = described(4)
    assert "\n" not in line and line.startswith("1 parameters (0.6 MiB) sharded; ")
    assert "1 parameters (0.0 MiB) below 16384 elements" in line
    assert line.endswith("1 parameters (0.1 MiB) whose axes no rule divides: odd/kernel [129, 255]")
