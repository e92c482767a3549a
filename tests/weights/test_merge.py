"""Merging parameters of one model into another: every name is accounted for."""

import jax
import numpy as np
import pytest
from tiny_unet import drawn_params, flat

from gen1_jax.models.prior import PriorTransformer
from gen1_jax.weights.folder import init_params, param_template
from gen1_jax.weights.merge import merge_params
from gen1_jax.weights.naming import MismatchError


def old_and_new():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    old = {
        "conv_in": {"kernel": draw(3, 3, 4, 8), "bias": draw(8)},
        "block_0": {"conv": {"kernel": draw(3, 3, 8, 8)}},
        "text_proj": {"kernel": draw(6, 8)},
    }
    new = {
        "conv_in": {"kernel": draw(3, 3, 12, 8), "bias": draw(8)},
        "block_0": {"conv": {"kernel": draw(3, 3, 8, 8)}, "temporal": {"kernel": draw(3, 8, 8)}},
    }
    return old, new


def test_merge_accounts_for_every_name():
    old, new = old_and_new()
    params, report = merge_params(
        new, old, new=("/temporal/",), dropped=("^text_proj/",), widened=("^conv_in/",)
    )
    assert report.new == ("block_0/temporal/kernel",)
    assert report.dropped == ("text_proj/kernel",)
    assert report.widened == ("conv_in/kernel",)
    assert str(report) == (
        "1 new (block_0/temporal/kernel); 1 dropped (text_proj/kernel); 1 widened (conv_in/kernel)"
    )
    np.testing.assert_array_equal(params["conv_in"]["kernel"][:, :, :4], old["conv_in"]["kernel"])
    assert not params["conv_in"]["kernel"][:, :, 4:].any()
    assert params["conv_in"]["kernel"].shape == (3, 3, 12, 8)
    np.testing.assert_array_equal(params["conv_in"]["bias"], old["conv_in"]["bias"])
    np.testing.assert_array_equal(
        params["block_0"]["temporal"]["kernel"], new["block_0"]["temporal"]["kernel"]
    )
    np.testing.assert_array_equal(
        params["block_0"]["conv"]["kernel"], old["block_0"]["conv"]["kernel"]
    )


def test_merge_without_patterns_lists_everything():
    old, new = old_and_new()
    with pytest.raises(
        MismatchError, match="1 missing .*1 unexpected .*1 of another shape"
    ) as caught:
        merge_params(new, old)
    assert caught.value.missing == ("block_0/temporal/kernel",)
    assert caught.value.unexpected == ("text_proj/kernel",)
    assert caught.value.wrong_shapes == (("conv_in/kernel", (3, 3, 4, 8), (3, 3, 12, 8)),)
    # A pattern of one kind allows nothing of another kind.
    with pytest.raises(MismatchError, match="1 of another shape"):
        merge_params(new, old, new=(".*",), dropped=("text_proj",))
    with pytest.raises(MismatchError, match="1 unexpected"):
        merge_params(new, old, new=(".*",), widened=(".*",))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((3, 3, 4, 8), (3, 3, 4, 9)),  # more outputs
        ((3, 3, 4, 8), (5, 5, 12, 8)),  # a larger kernel too
        ((3, 3, 12, 8), (3, 3, 4, 8)),  # narrower
        ((4, 8), (3, 3, 12, 8)),  # of another rank
    ],
)
def test_only_more_input_channels_are_wider(old, new):
    trees = ({"conv": {"kernel": np.ones(shape, np.float32)}} for shape in (new, old))
    with pytest.raises(MismatchError, match="1 of another shape"):
        merge_params(*trees, widened=(".*",))


def test_vectors_are_not_widened():
    template, loaded = ({"norm": {"scale": np.ones((2, n), np.float32)}} for n in (4, 3))
    with pytest.raises(MismatchError):
        merge_params(template, loaded, widened=(".*",))


def test_dense_kernels_widen_too():
    template, loaded = ({"to_k": {"kernel": np.ones((n, 8), np.float32)}} for n in (6, 4))
    params, _ = merge_params(template, loaded, widened=("to_k",))
    assert params["to_k"]["kernel"].sum() == 4 * 8


def test_what_is_both_new_and_dropped_starts_afresh():
    template = {"to_k": {"kernel": np.full((6, 8), 2.0, np.float32)}}
    loaded = {"to_k": {"kernel": np.ones((4, 8), np.float32)}}
    params, report = merge_params(template, loaded, new=("to_k",), dropped=("to_k",))
    assert (params["to_k"]["kernel"] == 2).all()
    assert report.new == report.dropped == ("to_k/kernel",)


def test_what_starts_afresh_is_drawn_and_what_is_loaded_is_not():
    loaded_module, module = (
        PriorTransformer(
            num_attention_heads=2, attention_head_dim=4, num_layers=1, embedding_dim=width
        )
        for width in (6, 10)
    )
    loaded = drawn_params(loaded_module)
    both = ("^(embedding_proj|encoder_hidden_states_proj|proj_in|proj_to_clip_emb)", "^clip_")
    key = jax.random.key(0)
    start = init_params(module, key, known=loaded)
    params, report = merge_params(start, loaded, new=both, dropped=both)

    template, whole, known = (flat(t) for t in (param_template(module), start, loaded))
    afresh = {path for path, leaf in template.items() if known[path].shape != leaf.shape}
    assert afresh and afresh == set(report.new) == set(report.dropped)
    for path, value in flat(params).items():
        assert value.shape == template[path].shape and value.dtype == template[path].dtype
        if path in afresh:
            assert isinstance(whole[path], jax.Array), path
            np.testing.assert_array_equal(value, whole[path], err_msg=path)
            assert not path.endswith("kernel") or np.std(value) > 0, path
        else:  # the tree holds only its shape, because its initial value would not be used
            assert isinstance(whole[path], jax.ShapeDtypeStruct), path
            np.testing.assert_array_equal(value, known[path], err_msg=path)


def test_merge_takes_the_template_s_types():
    template = {"norm": {"scale": jax.numpy.ones(4, "bfloat16")}}
    params, report = merge_params(template, {"norm": {"scale": np.full(4, 3, np.float32)}})
    assert params["norm"]["scale"].dtype == jax.numpy.bfloat16
    assert str(report) == "0 new; 0 dropped; 0 widened"


def test_one_string_for_patterns_is_a_mistake():
    with pytest.raises(TypeError, match="sequence of strings"):
        merge_params({}, {}, new="temporal")
