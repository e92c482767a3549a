"""The naming rule: keys of public checkpoints, exact round trips, and every mismatch listed."""

import numpy as np
import pytest

from gen1_jax.errors import UserError
from gen1_jax.weights.naming import (
    MismatchError,
    params_to_state_dict,
    state_dict_to_params,
    to_flax,
    to_torch,
    torch_key,
)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("down_blocks_0/resnets_1/conv1/kernel", "down_blocks.0.resnets.1.conv1.weight"),
        ("mid_block/attentions_0/to_out_0/kernel", "mid_block.attentions.0.to_out.0.weight"),
        ("transformer_blocks_12/ff/net_0/proj/bias", "transformer_blocks.12.ff.net.0.proj.bias"),
        ("time_embedding/linear_1/kernel", "time_embedding.linear_1.weight"),
        ("linear_2/bias", "linear_2.bias"),
        ("reassemble/readout_projects_0_0/kernel", "reassemble.readout_projects.0.0.weight"),
        ("embeddings/token_embedding/embedding", "embeddings.token_embedding.weight"),
        ("vision_model/pre_layrnorm/scale", "vision_model.pre_layrnorm.weight"),
        ("embeddings/class_embedding", "embeddings.class_embedding"),
        ("logit_scale", "logit_scale"),
        ("conv_in/bias", "conv_in.bias"),
        (
            "text_model/encoder/layers_3/mlp/fc1/kernel",
            "text_model.encoder.layers.3.mlp.fc1.weight",
        ),
    ],
)
def test_keys(path, key):
    assert torch_key(tuple(path.split("/"))) == key


def test_transposition_by_rank():
    for shape, torch_shape in [
        ((3, 5), (5, 3)),  # [in, out] → [out, in]
        ((2, 3, 5), (5, 3, 2)),  # [w, in, out] → [out, in, w]
        ((2, 4, 3, 5), (5, 3, 2, 4)),  # [h, w, in, out] → [out, in, h, w]
    ]:
        kernel = np.arange(np.prod(shape)).reshape(shape)
        stored = to_torch(("conv", "kernel"), kernel)
        assert stored.shape == torch_shape and stored.flags.c_contiguous
        assert np.array_equal(to_flax(("conv", "kernel"), stored), kernel)
    table = np.arange(15.0).reshape(3, 5)
    assert np.array_equal(to_torch(("words", "embedding"), table), table)
    assert np.array_equal(to_torch(("position_embedding",), table), table)
    assert to_torch(("logit_scale",), np.float32(2)).shape == ()


def test_dense_and_convolutions_mean_the_same_as_in_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 6, 5, 3)).astype(np.float32)
    nchw = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    kernel = rng.normal(size=(3, 2, 3, 4)).astype(np.float32)  # HWIO
    weight = torch.from_numpy(to_torch(("conv", "kernel"), kernel))
    want = torch.nn.functional.conv2d(nchw, weight).numpy().transpose(0, 2, 3, 1)
    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 2), axis=(1, 2))  # [b h w c kh kw]
    np.testing.assert_allclose(np.einsum("bhwcij,ijco->bhwo", patches, kernel), want, atol=1e-4)
    dense = rng.normal(size=(3, 7)).astype(np.float32)
    weight = torch.from_numpy(to_torch(("dense", "kernel"), dense))
    want = torch.nn.functional.linear(torch.from_numpy(x), weight).numpy()
    np.testing.assert_allclose(x @ dense, want, atol=1e-5)


def params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "conv_in": {"kernel": rng.normal(size=(3, 3, 4, 8)), "bias": rng.normal(size=8)},
        "attn": {
            f"to_{name}": {"kernel": rng.normal(size=(8, 8)), "bias": rng.normal(size=8)}
            for name in ("q", "k", "v", "out_0")
        },
        "temporal": {"kernel": rng.normal(size=(3, 8, 16))},
        "logit_scale": np.asarray(rng.normal()),
    }


def assert_trees_equal(got, want):
    assert got.keys() == want.keys()
    for name, value in want.items():
        if isinstance(value, dict):
            assert_trees_equal(got[name], value)
        else:
            assert got[name].dtype == value.dtype and np.array_equal(got[name], value)


def test_round_trip_is_exact():
    tree = params()
    state_dict = params_to_state_dict(tree)
    assert state_dict["conv_in.weight"].shape == (8, 4, 3, 3)
    assert_trees_equal(state_dict_to_params(state_dict, tree), tree)


def test_old_attention_names_are_understood():
    tree = params()
    old = params_to_state_dict(tree)
    for new, name in (
        ("to_q", "query"),
        ("to_k", "key"),
        ("to_v", "value"),
        ("to_out.0", "proj_attn"),
    ):
        for leaf in ("weight", "bias"):
            old[f"attn.{name}.{leaf}"] = old.pop(f"attn.{new}.{leaf}")
    assert_trees_equal(state_dict_to_params(old, tree), tree)
    # If the new name is there too, the old one is unexpected.
    doubled = params_to_state_dict(tree) | {"attn.query.weight": old["attn.query.weight"]}
    with pytest.raises(MismatchError, match="1 unexpected .attn.query.weight"):
        state_dict_to_params(doubled, tree)
    # Layers that are really called `query` keep their name.
    dpt = {"attention": {"query": {"kernel": np.ones((2, 3))}}}
    assert_trees_equal(state_dict_to_params(params_to_state_dict(dpt), dpt), dpt)


def test_constants_of_old_checkpoints_are_passed_over():
    tree = params()
    state_dict = params_to_state_dict(tree) | {"text_model.embeddings.position_ids": np.arange(77)}
    assert_trees_equal(state_dict_to_params(state_dict, tree), tree)


def test_every_difference_is_listed():
    tree = params()
    state_dict = params_to_state_dict(tree)
    del state_dict["conv_in.bias"]
    state_dict["conv_out.bias"] = np.ones(3)
    state_dict["temporal.weight"] = np.ones((16, 8, 5))
    with pytest.raises(MismatchError) as caught:
        state_dict_to_params(state_dict, tree, "weights of x")
    error = caught.value
    assert isinstance(error, UserError)
    assert error.missing == ("conv_in.bias",)
    assert error.unexpected == ("conv_out.bias",)
    assert error.wrong_shapes == (("temporal.weight", (16, 8, 5), (16, 8, 3)),)
    assert str(error) == (
        "weights of x: 1 missing (conv_in.bias); 1 unexpected (conv_out.bias); "
        "1 of another shape (temporal.weight is [16, 8, 5], not [16, 8, 3])"
    )


def test_a_transposed_square_kernel_of_wrong_rank_is_a_wrong_shape():
    tree = {"proj_in": {"kernel": np.ones((1, 1, 4, 4))}}
    with pytest.raises(MismatchError, match=r"is \[4, 4\], not \[4, 4, 1, 1\]"):
        state_dict_to_params({"proj_in.weight": np.ones((4, 4))}, tree)


def test_long_lists_are_cut():
    tree = {f"layer_{i}": {"bias": np.ones(2)} for i in range(25)}
    with pytest.raises(MismatchError, match=r"25 missing .*layer\.9\.bias, and 15 more") as caught:
        state_dict_to_params({}, tree)
    assert len(caught.value.missing) == 25
    assert "\n" not in str(caught.value)


def test_two_paths_with_one_key_are_a_mistake():
    with pytest.raises(ValueError, match="two parameters"):
        params_to_state_dict({"norm": {"scale": np.ones(2), "kernel": np.ones(2)}})
