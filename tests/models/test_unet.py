"""The video UNet: it is diffusers' network on each frame, plus its temporal layers."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from tiny_unet import (
    ONE_LEVEL,
    TINY,
    drawn_params,
    flat,
    normal,
    quick_jit,
    split_temporal,
    tiny,
)

from gen1_jax.errors import UserError
from gen1_jax.flops import count_flops
from gen1_jax.models.temporal import TemporalTransformer
from gen1_jax.models.unet import VideoUNet
from gen1_jax.weights.folder import init_params, param_template
from gen1_jax.weights.naming import state_dict_to_params


def small(**changes):
    return tiny(**ONE_LEVEL | changes)


def inputs(b=2, g=1, n=3, h=8, w=8, seed=0):
    """Returns sample, timesteps and context.

    The context has two tokens, because attention to a single token has a constant weight of 1.
    """
    return (
        normal(seed, b, g, n, h, w, TINY["in_channels"]),
        np.arange(1, b + 1, dtype=np.int32) * 321,
        normal(seed + 1, b, g, 2, TINY["cross_attention_dim"]),
    )


def apply(module, params, *args, **keywords):
    return quick_jit(lambda p, *a: module.apply({"params": p}, *a, **keywords))(params, *args)


@pytest.fixture(scope="module")
def inflated():
    """Parameters of `small()` right after inflation: spatial ones trained, temporal ones new."""
    spatial = split_temporal(drawn_params(small()))[0]
    known = traverse_util.unflatten_dict(spatial, sep="/")
    new = flat(init_params(small(), jax.random.key(0), known))
    return traverse_util.unflatten_dict(new | spatial, sep="/")


def gradient(module, params, args):
    """Returns the spatial and the temporal gradients of a loss, each by path."""

    def loss(params):
        return jnp.square(module.apply({"params": params}, *args)).mean()

    return split_temporal(quick_jit(jax.grad(loss))(params))


# ---- image and video


def test_inflation_adds_temporal_parameters_and_no_others():
    image = flat(param_template(tiny(temporal=False)))
    spatial, temporal = split_temporal(param_template(tiny()))
    assert spatial == image and len(temporal) > 0


@pytest.mark.parametrize("compiled", [False, True])
def test_an_inflated_network_is_the_image_network_on_every_frame(inflated, compiled):
    """The networks agree bit for bit operation by operation, and to rounding when compiled.

    XLA fuses the two programs differently: it rounds a multiplication and an addition together at
    different places. The image network differs as much between one frame a call and several.
    """
    spatial = traverse_util.unflatten_dict(split_temporal(inflated)[0], sep="/")
    sample, t, context = inputs()
    n = sample.shape[2]
    # The image network takes each frame as an example of its own.
    frames = sample.reshape(-1, 1, 1, *sample.shape[3:])
    wrap = jax.jit if compiled else lambda f: f
    got = wrap(small().apply)({"params": inflated}, sample, t, context)
    image = wrap(small(temporal=False).apply)
    want = image({"params": spatial}, frames, t.repeat(n), context.repeat(n, 0)).reshape(got.shape)
    if compiled:
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())
    else:
        np.testing.assert_array_equal(got, want)


def test_a_clip_without_branches_is_a_clip_of_one_branch():
    module = small()
    params = drawn_params(module)
    sample, t, context = inputs(g=1)
    one_branch = apply(module, params, sample, t, context)
    plain = apply(module, params, sample[:, 0], t, context[:, 0])
    np.testing.assert_array_equal(plain, one_branch[:, 0])


def test_image_batches_do_not_touch_temporal_parameters():
    module = small()
    spatial, temporal = gradient(module, drawn_params(module), inputs(n=1))
    assert temporal and all((value == 0).all() for value in temporal.values())
    still = [path for path, value in spatial.items() if not np.abs(value).max() > 0]
    assert not still, still


def test_the_first_video_batch_moves_what_inflation_left_at_zero(inflated):
    zero = {path for path, value in split_temporal(inflated)[1].items() if not np.any(value)}
    spatial, temporal = gradient(small(), inflated, inputs())
    outputs = {path for path in temporal if "proj_out" in path or "temporal_conv" in path}
    assert len(outputs) == 2 * (4 + 2 * 5)  # kernel and bias; 4 attentions, 5 residual blocks
    assert outputs <= zero
    still = [path for path in outputs if not np.abs(temporal[path]).max() > 0]
    assert not still, still
    assert all(np.abs(value).max() > 0 for value in spatial.values())


def test_trained_temporal_layers_join_frames_of_video_branches_only():
    module = small()
    params = drawn_params(module)
    sample, t, context = inputs(b=1, g=2)
    changed = sample.copy()
    changed[:, :, 0] += 1

    @quick_jit
    def run(params, sample):
        return module.apply({"params": params}, sample, t, context, num_video_branches=1)

    difference = np.abs(run(params, changed) - run(params, sample)).max((0, 3, 4, 5))  # [g n]
    assert (difference[0] > 1e-3).all(), "video: every frame sees the first"
    assert difference[1, 0] > 1e-3 and (difference[1, 1:] == 0).all(), "images: each alone"

    # Attention alone does not depend on the order of frames; learned positions make it depend.
    def turned(*zeroed):
        def change(path, value):
            return 0 * value if any(name in path for name in zeroed) else value

        new = {path: change(path, value) for path, value in flat(params).items()}
        new = traverse_util.unflatten_dict(new, sep="/")
        difference = run(new, sample[:, :, ::-1])[:, :, ::-1] - run(new, sample)
        return np.abs(difference[:, 0]).max()

    assert turned("temporal_conv") > 1e-3
    assert turned("temporal_conv", "position_embedding") < 1e-5


def test_a_clip_may_begin_at_any_row_of_the_position_table():
    """Each clip of a batch reads its own rows, and a clip without a row begins at the first."""
    layer, x = TemporalTransformer(2, 4, 6), normal(0, 2, 3, 1, 2, 2, 8)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda s: normal(s.size, *s.shape), shapes)
    run = quick_jit(lambda params, x, first: layer.apply({"params": params}, x, first))
    plain = quick_jit(lambda params, x: layer.apply({"params": params}, x))
    got = run(params, x, np.array([0, 2]))
    np.testing.assert_allclose(got[:1], plain(params, x[:1]), rtol=1e-5, atol=1e-6)
    table = params["position_embedding"]
    moved = params | {"position_embedding": np.roll(table, -2, axis=0)}
    np.testing.assert_allclose(got[1:], plain(moved, x[1:]), rtol=1e-5, atol=1e-6)
    assert np.abs(got[1:] - plain(params, x[1:])).max() > 1e-3


@pytest.mark.parametrize(("n", "fits"), [(6, True), (7, False)])
def test_clips_longer_than_the_position_table_are_refused(n, fits):
    module = small()
    params = param_template(module)

    def shape(**keywords):
        def run(p):
            return module.apply({"params": p}, *inputs(n=n), **keywords)

        return jax.eval_shape(run, params).shape

    if fits:
        assert shape() == (2, 1, n, 8, 8, 4)
    else:
        with pytest.raises(UserError, match="7 frames"):
            shape()
    assert shape(num_video_branches=0) == (2, 1, n, 8, 8, 4)  # images have no positions


@pytest.mark.parametrize("change", [0, 1, 2])
def test_arrays_of_a_wrong_shape_are_found_when_the_program_is_traced(change):
    module, args = small(), [*inputs()]
    args[change] = args[change][..., :-1]
    with pytest.raises(AssertionError):
        jax.eval_shape(lambda p: module.apply({"params": p}, *args), param_template(module))


def test_bfloat16_is_near_float32():
    args = inputs()
    params = drawn_params(small())
    want = apply(small(), params, *args)
    got = apply(small(dtype=jnp.bfloat16), params, *args)
    assert got.dtype == jnp.float32
    assert 0 < np.abs(got - want).mean() < 0.03 * np.abs(want).mean()


# ---- against diffusers

DIFFUSERS = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 5,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


def test_predicts_as_diffusers():
    """SD 1.x's kinds of blocks; tests/models/test_unet_parity.py has SD 2.x's too."""
    changes, size = {"layers_per_block": 2}, (7, 5)  # sizes that do not halve
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = diffusers.UNet2DConditionModel.from_config(DIFFUSERS | changes).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    module = VideoUNet.from_config(dict(model.config))
    assert not module.temporal
    state_dict = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    params = state_dict_to_params(state_dict, param_template(module))
    sample, t, context = normal(0, 2, *size, 5), np.array([3, 977]), normal(1, 2, 3, 6)
    with torch.no_grad():
        image = torch.from_numpy(sample).permute(0, 3, 1, 2)
        want = model(image, torch.from_numpy(t), torch.from_numpy(context)).sample
    want = want.permute(0, 2, 3, 1).numpy()
    got = apply(module, params, sample[:, None, None], t, context[:, None])[:, 0, 0]
    assert np.abs(got - want).max() < 2e-5 * np.abs(want).max()


def test_full_size_has_stable_diffusion_1_5_s_parameters():
    leaves = jax.tree.leaves(param_template(VideoUNet(temporal=False)))
    assert len(leaves) == 686
    assert sum(leaf.size for leaf in leaves) == 859_520_964


# ---- config.json


@pytest.mark.parametrize(
    "module",
    [
        tiny(),
        tiny(temporal=False, max_frames=32),
        tiny(attention_head_dim=(2, 4), sample_size=8),
        VideoUNet(),
    ],
)
def test_config_round_trip(module):
    config = json.loads(json.dumps(module.to_config()))
    assert VideoUNet.from_config(config) == module
    name = "VideoUNet" if module.temporal else "UNet2DConditionModel"
    assert config["_class_name"] == name and ("max_frames" in config) == module.temporal


def test_compute_type_is_no_part_of_the_config():
    module = tiny(dtype=jnp.bfloat16)
    assert "dtype" not in module.to_config()
    assert VideoUNet.from_config(module.to_config(), dtype=jnp.bfloat16) == module


@pytest.mark.parametrize(
    "change",
    [
        {"act_fn": "gelu"},
        {"class_embed_type": "timestep"},
        {"addition_embed_type": "text_time"},
        {"transformer_layers_per_block": [1, 2]},
        {"only_cross_attention": [True, False]},
        {"resnet_time_scale_shift": "scale_shift"},
        {"time_embedding_type": "fourier"},
        {"conv_in_kernel": 5},
        {"num_attention_heads": 4},
        {"mid_block_type": "UNetMidBlock2D"},
        {"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]},
        {"up_block_types": ["UpBlock2D", "SkipUpBlock2D"]},
        {"up_block_types": ["UpBlock2D"]},
        {"attention_head_dim": [2, 4, 8]},
        {"attention_head_dim": 3},
        {"norm_num_groups": 3},
        {"layers_per_block": 0},
        {"max_frames": "16"},
    ],
)
def test_unsupported_settings_are_named(change):
    (name,) = change
    with pytest.raises(UserError, match=f"{name}=") as error:
        VideoUNet.from_config(tiny().to_config() | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"only_cross_attention": [False, False], "transformer_layers_per_block": [1, 1]},
        {"_diffusers_version": "0.36.0", "dropout": 0.0, "attention_type": "default"},
    ],
)
def test_the_same_said_in_another_way_is_accepted(change):
    assert VideoUNet.from_config(tiny().to_config() | change) == tiny()


def test_recomputed_values_give_the_same_gradient():
    """Recomputing layers costs a forward pass more; recomputing all but products costs little."""
    # The middle block has attention; without it elsewhere, a gradient compiles in half the time.
    module = small(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    params = drawn_params(module)
    sample, t, context = normal(0, 1, 2, 4, 4, 4), np.array([700]), normal(1, 1, 1, 6)

    def gradient(remat):
        def loss(params):
            v = module.clone(remat=remat).apply(
                {"params": params}, sample, t, context, first_frame=np.array([3])
            )
            return jnp.square(v).mean()

        return jax.grad(loss)

    plain = gradient("none")
    want, flops = quick_jit(plain)(params), count_flops(plain, params)
    for remat, extra in (("products", 1.1), ("layer", 1.33)):
        assert module.clone(remat=remat).to_config() == module.to_config()
        chex.assert_trees_all_close(quick_jit(gradient(remat))(params), want, atol=1e-5)
        ratio = count_flops(gradient(remat), params) / flops
        assert ratio == pytest.approx(extra, abs=0.07), remat
