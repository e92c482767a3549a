"""The video UNet against its PyTorch module, and its spatial part against diffusers' UNet."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_unet import quick_jit

from gen1_jax.models.unet import VideoUNet
from gen1_jax.weights.folder import param_template
from gen1_jax.weights.naming import params_to_state_dict, state_dict_to_params

TOLERANCE = 1e-4  # largest error, in units of the reference's standard deviation

TINY = {
    "in_channels": 12,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (16, 24, 32),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "max_frames": 8,
}
EVERYWHERE = TINY | {
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "block_out_channels": (16, 24),
    "layers_per_block": 2,
    "attention_head_dim": (2, 3),
    "use_linear_projection": True,
}
# With one layer a block and two resolutions, networks compile in half the time.
ONE_LAYER = EVERYWHERE | {"layers_per_block": 1}
TWO_LEVELS = TINY | {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (16, 24),
}
# A single one is enough where the branches and frames are the point.
ONE_LEVEL = TINY | {
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
    "block_out_channels": (16,),
}


def drawn_params(module, seed=0):
    """Draws all parameters, so that none keeps its initial 0 or 1, temporal ones included."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 10
        offset = 1.0 if path[-1].key == "scale" else 0.0
        return (offset + rng.normal(0, fan_in**-0.5, leaf.shape)).astype(np.float32)

    return jax.tree.map_with_path(draw, param_template(module))


def inputs(config, batch, branches, frames, size, tokens, seed):
    rng = np.random.default_rng(seed)
    sample = rng.normal(size=(batch, branches, frames, *size, config["in_channels"]))
    context = rng.normal(size=(batch, branches, tokens, config["cross_attention_dim"]))
    timesteps = rng.integers(0, 1000, batch)
    return sample.astype(np.float32), timesteps.astype(np.int32), context.astype(np.float32)


def relative_error(got, want):
    return np.abs(np.asarray(got) - want).max() / want.std()


def one_thread_torch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch


@pytest.mark.parametrize(
    ("config", "seed", "batch", "branches", "video", "frames", "size", "tokens"),
    [
        (TINY, 0, 2, 1, None, 8, (8, 8), 1),
        (TWO_LEVELS, 1, 1, 3, 2, 3, (7, 5), 1),
        (ONE_LEVEL, 2, 2, 2, 0, 3, (5, 8), 2),
        (ONE_LEVEL, 3, 2, 1, None, 1, (7, 5), 1),
        (EVERYWHERE, 4, 1, 3, 2, 8, (4, 6), 1),
        (ONE_LAYER, 5, 2, 3, 1, 3, (7, 5), 4),
        (ONE_LEVEL, 6, 1, 3, 3, 3, (7, 5), 3),
        (ONE_LAYER | {"temporal": False}, 7, 1, 2, None, 3, (6, 7), 1),
    ],
)
def test_predicts_as_the_torch_module(config, seed, batch, branches, video, frames, size, tokens):
    torch = one_thread_torch()
    torch_unet = pytest.importorskip("gen1_jax.weights.pytorch.video_unet")
    module = VideoUNet(**config)
    params = drawn_params(module, seed)
    model = torch_unet.VideoUNet(**config)
    state_dict = {k: torch.from_numpy(v) for k, v in params_to_state_dict(params).items()}
    model.load_state_dict(state_dict, strict=True)
    args = inputs(config, batch, branches, frames, size, tokens, seed)
    with torch.no_grad():
        want = model(*map(torch.from_numpy, args), num_video_branches=video).numpy()
    apply = partial(module.apply, num_video_branches=video)
    got = quick_jit(apply)({"params": params}, *args)
    assert got.shape == want.shape and got.dtype == jnp.float32
    assert relative_error(got, want) < TOLERANCE


def test_gradients_are_those_of_the_torch_module():
    torch = one_thread_torch()
    torch_unet = pytest.importorskip("gen1_jax.weights.pytorch.video_unet")
    module = VideoUNet(**TWO_LEVELS)
    params = drawn_params(module)
    args = inputs(TWO_LEVELS, 2, 1, 3, (7, 5), 1, 0)
    model = torch_unet.VideoUNet(**TWO_LEVELS)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in params_to_state_dict(params).items()})
    model(*map(torch.from_numpy, args)).square().mean().backward()
    want = {
        name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy()
        for name, p in model.named_parameters()
    }

    def loss(params):
        return jnp.square(module.apply({"params": params}, *args)).mean()

    got = params_to_state_dict(quick_jit(jax.grad(loss))(params))
    assert got.keys() == want.keys()
    largest = max(np.abs(gradient).max() for gradient in want.values())
    for name, gradient in want.items():
        assert np.abs(got[name] - gradient).max() < TOLERANCE * largest, name


@pytest.mark.parametrize(
    ("seed", "size", "changes"),
    [
        (0, (8, 8), {"use_linear_projection": False, "attention_head_dim": 4}),
        (1, (6, 9), {"use_linear_projection": False, "layers_per_block": 1}),
        (2, (7, 5), {"use_linear_projection": True, "norm_eps": 1e-3}),
    ],
)
def test_spatial_part_predicts_as_diffusers(seed, size, changes):
    torch = one_thread_torch()
    diffusers = pytest.importorskip("diffusers")
    config = EVERYWHERE | {"temporal": False} | changes
    module = VideoUNet(**config)
    torch.manual_seed(seed)
    stock = diffusers.UNet2DConditionModel.from_config(module.to_config()).eval()
    for parameter in stock.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    state_dict = {name: tensor.numpy() for name, tensor in stock.state_dict().items()}
    params = state_dict_to_params(state_dict, param_template(module))
    sample, timesteps, context = inputs(config, 3, 1, 1, size, 2, seed)
    with torch.no_grad():
        nchw = torch.from_numpy(sample[:, 0, 0].transpose(0, 3, 1, 2).copy())
        want = stock(nchw, torch.from_numpy(timesteps), torch.from_numpy(context[:, 0])).sample
    want = want.numpy().transpose(0, 2, 3, 1)
    got = quick_jit(module.apply)({"params": params}, sample, timesteps, context)
    assert relative_error(got[:, 0, 0], want) < TOLERANCE


@pytest.mark.parametrize("config", [TINY, EVERYWHERE])
def test_torch_module_loads_into_diffusers(config):
    """Without its temporal tensors, the PyTorch module has diffusers' names and shapes."""
    torch = one_thread_torch()
    torch_unet = pytest.importorskip("gen1_jax.weights.pytorch.video_unet")
    diffusers = pytest.importorskip("diffusers")
    image = VideoUNet(**config, temporal=False).to_config()
    with torch.device("meta"):
        model = torch_unet.VideoUNet.from_config(VideoUNet(**config).to_config())
        stock = diffusers.UNet2DConditionModel.from_config(image)
        image_model = torch_unet.VideoUNet.from_config(image | {"temporal": False})
    spatial = {k: v.shape for k, v in model.state_dict().items() if "temporal" not in k}
    assert spatial == {k: v.shape for k, v in stock.state_dict().items()}
    assert spatial == {k: v.shape for k, v in image_model.state_dict().items()}


def test_torch_module_starts_equal_to_the_image_network():
    torch = one_thread_torch()
    torch_unet = pytest.importorskip("gen1_jax.weights.pytorch.video_unet")
    model = torch_unet.VideoUNet(**TINY)
    sample, timesteps, context = map(torch.from_numpy, inputs(TINY, 1, 2, 3, (7, 5), 1, 0))
    with torch.no_grad():
        video = model(sample, timesteps, context)
        images = model(sample, timesteps, context, num_video_branches=0)
        with pytest.raises(ValueError, match="at most 8"):
            model(sample.repeat(1, 1, 3, 1, 1, 1), timesteps, context)
    torch.testing.assert_close(video, images, rtol=0, atol=0)
