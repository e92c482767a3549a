"""DPT against transformers' PyTorch module: random weights, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gen1_jax.errors import UserError
from gen1_jax.models.dpt import DPTConfig, DPTForDepthEstimation, Head
from gen1_jax.models.layers import ConvTranspose
from gen1_jax.models.preprocess import depth_input_size, preprocess_for_depth, resize_depth
from gen1_jax.weights.folder import param_template
from gen1_jax.weights.naming import params_to_state_dict, state_dict_to_params

# Largest difference in units of the reference's spread. Measured: at most 1e-5, no more than
# PyTorch's own distance from its result in float64.
TOLERANCE = 4e-5

TINY = {
    "hidden_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 8,
    "backbone_out_indices": [0, 2, 3, 4],
    "neck_hidden_sizes": [12, 24, 48, 40],
    "fusion_hidden_size": 16,
}
DPT_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "backbone_out_indices": [5, 11, 17, 23],
    "neck_hidden_sizes": [256, 512, 1024, 1024],
}


def random_params(module):
    """Draws parameters with NumPy; compiling a module's own `init` takes far longer."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        return 0.1 * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree.map(draw, param_template(module))


def transformers_model(config, seed):
    """Returns a random PyTorch model whose output is positive nearly everywhere."""
    torch = pytest.importorskip("torch")
    import transformers

    torch.manual_seed(seed)
    model = transformers.DPTForDepthEstimation(transformers.DPTConfig(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            is_kernel = parameter.dim() in (2, 4)
            std = (parameter.numel() / len(parameter)) ** -0.5 if is_kernel else 0.1
            parameter += std * torch.randn_like(parameter)  # otherwise the output is nearly flat
        model.head.head[4].weight.abs_()
        model.head.head[4].bias.abs_()
    return model


def transformers_depth(model, pixels):
    """Runs the model's parts for images that are not square; its own path takes squares only."""
    torch = pytest.importorskip("torch")

    pixels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    height, width = (side // model.config.patch_size for side in pixels.shape[2:])
    with torch.no_grad():
        if height == width:
            return model(pixels).predicted_depth.numpy()
        states = model.dpt(pixels, output_hidden_states=True).hidden_states[1:]
        states = [states[i] for i in model.config.backbone_out_indices]
        return model.head(model.neck(states, height, width)).numpy()


@pytest.mark.parametrize(
    "seed, changes, height, width",
    [
        (0, {}, 64, 64),
        (1, {"readout_type": "ignore", "qkv_bias": False}, 64, 64),
        (2, {"readout_type": "add", "use_bias_in_fusion_residual": False}, 32, 32),
        (3, {"hidden_act": "relu", "head_in_index": 2}, 96, 96),  # larger: positions interpolated
        (4, {}, 56, 32),  # an odd number of patches: a fused map that its finer one does not fit
        (5, {"reassemble_factors": [2, 1, 0.5, 0.25]}, 64, 96),
        (6, {"add_projection": True, "fusion_hidden_size": 256}, 32, 32),
    ],
)
def test_equals_transformers(seed, changes, height, width):
    config = TINY | changes
    reference = transformers_model(config, seed)
    state_dict = {key: tensor.numpy() for key, tensor in reference.state_dict().items()}
    module = DPTForDepthEstimation.from_config(config)
    params = state_dict_to_params(state_dict, param_template(module))
    pixels = np.random.default_rng(seed).uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
    expected = transformers_depth(reference, pixels)
    apply = jax.jit(lambda p, x: module.apply({"params": p}, x, method="predicted_depth"))
    ours = apply(params, pixels)
    assert ours.shape == expected.shape
    assert (expected > 0).mean() > 0.5
    assert np.abs(ours - expected).max() / expected.std() < TOLERANCE


def test_saved_names_and_config_are_those_of_transformers():
    torch = pytest.importorskip("torch")
    import transformers

    module = DPTForDepthEstimation.from_config(TINY)
    config = transformers.DPTConfig(**module.to_config())
    assert DPTForDepthEstimation.from_config(config.to_dict()) == module
    state_dict = params_to_state_dict(random_params(module))
    tensors = {key: torch.from_numpy(array.copy()) for key, array in state_dict.items()}
    transformers.DPTForDepthEstimation(config).load_state_dict(tensors, strict=True)


def test_dpt_large_has_the_published_number_of_parameters():
    torch = pytest.importorskip("torch")
    import transformers

    module = DPTForDepthEstimation.from_config(DPT_LARGE)
    count = sum(leaf.size for leaf in jax.tree.leaves(param_template(module)))
    with torch.device("meta"):
        reference = transformers.DPTForDepthEstimation(transformers.DPTConfig(**module.to_config()))
    assert count == sum(p.numel() for p in reference.parameters()) == 343_030_465


def test_conv_transpose_equals_pytorch():
    torch = pytest.importorskip("torch")

    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    module = ConvTranspose(6, 4)
    params = module.init(jax.random.key(0), x)["params"]
    params["bias"] = jnp.arange(6.0)
    reference = torch.nn.ConvTranspose2d(5, 6, kernel_size=4, stride=4)
    weights = params_to_state_dict(params)
    reference.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in weights.items()})
    expected = reference(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    expected = expected.detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize("factors", [(4, 2, 1, 0.5), (2, 1, 0.5, 0.25)])
def test_depth_has_the_size_of_the_image(factors, dtype):
    module = DPTForDepthEstimation.from_config(TINY | {"reassemble_factors": factors}, dtype)
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 64, 32, 3)).astype(np.float32)

    @jax.jit
    def apply(params):
        return [
            module.apply({"params": params}, pixels, method=m) for m in (None, "predicted_depth")
        ]

    depth, raw = apply(random_params(module))
    assert depth.shape == (2, 64, 32) and depth.dtype == jnp.float32 and (depth >= 0).all()
    if raw.shape == depth.shape:
        assert factors == (2, 1, 0.5, 0.25)
        np.testing.assert_array_equal(raw, depth)
    else:  # halving by bilinear interpolation averages squares of four
        expected = raw.reshape(2, 64, 2, 32, 2).mean((2, 4))
        np.testing.assert_allclose(depth, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_fresh_head_is_alive(seed):
    head = Head(DPTConfig(fusion_hidden_size=16))
    features = jax.random.normal(jax.random.key(seed), (1, 16, 16, 16))
    variables = head.init(jax.random.key(seed + 100), features)
    assert (
        head.apply(variables, features) > 0
    ).mean() > 0.9  # its last ReLU lets gradients through


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "zoedepth"},
        {"is_hybrid": True},
        {"backbone_config": {"model_type": "dinov2"}},
        {"use_batch_norm_in_fusion_residual": True},
        {"readout_type": "mean"},
        {"hidden_act": "tanh"},
        {"patch_size": [8, 4]},
        {"patch_size": 128},
        {"backbone_out_indices": [0, 1, 2, 5]},
        {"backbone_out_indices": [0, 1, 2, 2]},
        {"reassemble_factors": [4, 2, 1]},
        {"head_in_index": 4},
        {"num_attention_heads": 5},
        {"add_projection": True},
    ],
)
def test_unsupported_settings_are_refused_by_name(changes):
    (name,) = changes
    with pytest.raises(UserError, match=f"{name}="):
        DPTForDepthEstimation.from_config(TINY | changes)


def test_wrong_inputs_are_refused():
    module = DPTForDepthEstimation.from_config(TINY)
    with pytest.raises(UserError, match="64, 60, 3"):
        jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 60, 3), "f4"))


@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
def test_preprocess_of_older_pipelines_equals_pillow(shape):
    noise = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    image = Image.fromarray(noise).resize((90, 70), Image.Resampling.BICUBIC)
    resized = np.asarray(image.resize(shape[::-1], Image.Resampling.BICUBIC))
    expected = (resized / 255 - 0.5) / 0.5
    resize = jax.jit(preprocess_for_depth, static_argnums=(1, 2))
    ours = resize(np.asarray(image)[None], shape, "shorter_side")
    assert ours.shape == (1, *shape, 3) and ours.dtype == jnp.float32
    difference = np.abs(ours[0] - expected) * 127.5
    assert difference.max() < 1.01  # one 8-bit step, where rounding falls to the other side
    assert difference.mean() < 0.01
    fitting = jnp.asarray(resized)[None]
    np.testing.assert_allclose(
        preprocess_for_depth(fitting, shape, "shorter_side")[0], expected, atol=1e-5
    )


@pytest.mark.parametrize(
    ("frames", "size", "older"),
    [
        ((256, 448), (224, 384), (384, 672)),  # the paper's clips, and two of its image sizes
        ((448, 256), (384, 224), (672, 384)),
        ((320, 384), (320, 384), (384, 464)),
        ((320, 320), (384, 384), (384, 384)),
        ((1080, 1920), (384, 672), (384, 688)),
        ((320, 480), (384, 576), (384, 576)),  # both sides would change by a fifth
        ((480, 320), (384, 256), (576, 384)),
    ],
)
def test_the_network_sees_frames_at_the_size_of_midas(frames, size, older):
    assert depth_input_size(*frames, 384, 16, "minimal") == size
    assert depth_input_size(*frames, 384, 16, "shorter_side") == older
    transformers = pytest.importorskip("transformers.models.dpt.image_processing_pil_dpt")
    # transformers has the rule of MiDaS too, for other checkpoints than Intel/dpt-large.
    there = transformers.get_resize_output_image_size(np.empty((3, *frames)), (384, 384), True, 32)
    assert (there.height, there.width) == size


@pytest.mark.parametrize("shape", [(24, 40), (9, 100), (70, 90)])
def test_frames_and_depth_are_resized_as_midas_does(shape):
    """OpenCV's and PyTorch's bicubic kernel, without antialiasing and without rounding."""
    torch = pytest.importorskip("torch")
    frames = np.random.default_rng(0).integers(0, 256, (2, 70, 90, 3), np.uint8)
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).double() / 255
    x = torch.nn.functional.interpolate(x, shape, mode="bicubic", align_corners=False)
    expected = ((x - 0.5) / 0.5).permute(0, 2, 3, 1)
    ours = jax.jit(preprocess_for_depth, static_argnums=1)(frames, shape)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    depth = resize_depth(frames[..., 0].astype(np.float32), shape, "minimal")
    np.testing.assert_allclose(depth, 255 * x[:, 0], atol=2e-3)
