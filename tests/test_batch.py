"""The batch schema: what it accepts, and the one line with which it refuses the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen1_jax.batch import SCHEMA, Batch
from gen1_jax.errors import UserError


def arrays(b=2, n=3):
    """Returns every field, as the schema wants it."""
    return {
        "frames": np.zeros((b, n, 16, 24, 3), np.uint8),
        "depth": np.zeros((b, n, 16, 24), np.float32),
        "tokens": np.zeros((b, 7), np.int32),
        "content_frame": np.zeros((b,), np.int32),
        "latents": np.zeros((b, n, 2, 3, 4), np.float32),
        "latents_logvar": np.zeros((b, n, 2, 3, 4), np.float32),
        "structure": np.zeros((b, n, 2, 3, 4), np.float32),
        "structure_level": np.zeros((b,), np.int32),
        "content": np.zeros((b, 5), np.float32),
    }


RAW = ("frames", "depth", "tokens", "content_frame")
ENCODED = ("latents", "latents_logvar", "structure", "structure_level", "content")


@pytest.mark.parametrize("names", [RAW, ENCODED, RAW + ENCODED, ("frames",), ("tokens", "content")])
def test_any_choice_of_fields_is_a_batch(names):
    given = {name: arrays()[name] for name in names}
    batch = Batch.from_dict(given)
    assert batch.size == 2 and batch.encoded == ("latents" in names)
    assert batch.fields().keys() == given.keys()
    assert all(batch.fields()[name] is given[name] for name in names)
    assert batch.num_frames == (3 if {"frames", "latents"} & set(names) else 1)


@pytest.mark.parametrize("name", ["latents", "content"])
def test_half_precision_is_accepted(name):
    value = jnp.asarray(arrays()[name], jnp.bfloat16)
    assert getattr(Batch.from_dict({name: value}), name) is value


def test_absent_fields_are_no_leaves_of_the_tree():
    batch = Batch.from_dict({name: arrays()[name] for name in RAW})
    assert len(jax.tree.leaves(batch)) == 4
    doubled = jax.jit(lambda x: jax.tree.map(lambda y: 2 * y, x))(batch)
    assert isinstance(doubled, Batch) and doubled.fields().keys() == set(RAW)


def test_the_schema_names_every_field():
    assert SCHEMA.keys() == arrays().keys() == Batch.__dataclass_fields__.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video": np.zeros((2,))}, "unknown batch field 'video'; known: frames, depth, tokens"),
        (
            {"frames": np.zeros((2, 16, 24, 3), np.uint8)},
            r"\(2, 16, 24, 3\); accepted: \[b n H W 3",
        ),
        ({"frames": np.zeros((2, 3, 16, 24, 4), np.uint8)}, "three colour channels"),
        ({"frames": np.zeros((2, 3, 16, 24, 3), np.float32)}, "frames holds float32; .* uint8"),
        ({"tokens": np.zeros((2, 7), np.float32)}, "tokens holds float32; accepted: integer"),
        ({"structure_level": np.zeros((2,))}, "structure_level holds float64; accepted: integer"),
        ({"structure_level": np.zeros((2, 1), np.int32)}, r"structure_level .* accepted: \[b\]"),
        ({"latents": np.zeros((2, 3, 2, 3, 4), np.int32)}, "latents holds int32; .* floating"),
        ({"content": np.zeros((3, 5), np.float32)}, "content holds 3 examples, others 2"),
        ({"depth": np.zeros((2, 4, 16, 24), np.float32)}, "number of frames: .*'depth': 4"),
        ({"depth": np.zeros((2, 3, 24, 16), np.float32)}, r"size of a frame: .*'depth': \(24, 16"),
        ({"structure": np.zeros((2, 3, 2, 4, 4), np.float32)}, "size of a frame: .*'structure'"),
        (dict.fromkeys(arrays()), "an empty batch"),
    ],
)
def test_what_breaks_the_schema_is_said_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        Batch.from_dict(arrays() | changes)
    assert "\n" not in str(error.value)
