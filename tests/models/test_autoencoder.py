"""The autoencoder against diffusers' `AutoencoderKL`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen1_jax.errors import UserError
from gen1_jax.models.autoencoder import AutoencoderKL
from gen1_jax.weights.folder import param_template
from gen1_jax.weights.naming import state_dict_to_params

TINY = {
    "_class_name": "AutoencoderKL",
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [16, 32, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
SD = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.2.2",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def reference(config, seed):
    """Returns diffusers' module, with all parameters moved away from their initial 0 or 1."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = diffusers.AutoencoderKL.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


def ours(config, model):
    module = AutoencoderKL.from_config(config)
    state_dict = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return module, state_dict_to_params(state_dict, param_template(module))


def drawn_params(module, seed=0):
    """Draws parameters with NumPy, about as large as a new model's, without compiling `init`."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        spread = np.prod(leaf.shape[:-1]) ** -0.5 if len(leaf.shape) > 1 else 1.0
        return rng.normal(0, spread, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, param_template(module))


def relative_error(got, want):
    return np.abs(np.asarray(got) - want).max() / want.std()


@pytest.mark.parametrize(
    ("seed", "batch", "size", "changes"),
    [
        (0, 2, (64, 64), {}),
        (1, 1, (56, 32), {}),
        (2, 3, (24, 40), {"layers_per_block": 2, "block_out_channels": [8, 16, 24]}),
        (3, 1, (16, 48), {"mid_block_add_attention": False, "use_quant_conv": False}),
        (4, 2, (32, 8), {"latent_channels": 8, "use_post_quant_conv": False}),
    ],
)
def test_encodes_and_decodes_as_diffusers(seed, batch, size, changes):
    torch = pytest.importorskip("torch")
    config = TINY | changes
    model = reference(config, seed)
    module, params = ours(config, model)
    images = np.random.default_rng(seed).uniform(-1, 1, (batch, *size, 3)).astype(np.float32)
    with torch.no_grad():
        posterior = model.encode(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).latent_dist
        decoded = model.decode(posterior.mean).sample
    want = [x.numpy().transpose(0, 2, 3, 1) for x in (posterior.mean, posterior.logvar, decoded)]

    @jax.jit
    def run(params, images, latents):
        mean, logvar = module.apply({"params": params}, images, method="encode")
        return mean, logvar, module.apply({"params": params}, latents, method="decode")

    got = run(params, images, want[0])
    assert got[0].shape == (batch, size[0] // 4, size[1] // 4, module.latent_channels)
    # With random weights the decoder differs from float64 by up to 2e-5, in torch as in JAX.
    for x, y, tolerance in zip(got, want, (1e-5, 1e-5, 1e-4), strict=True):
        assert x.dtype == jnp.float32 and x.shape == y.shape
        assert relative_error(x, y) < tolerance


def test_logvar_is_clamped_as_in_diffusers():
    torch = pytest.importorskip("torch")
    model = reference(TINY, 0)
    model.quant_conv.weight.data.mul_(200)
    module, params = ours(TINY, model)
    images = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        moments = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        want = model.encode(moments).latent_dist.logvar.numpy().transpose(0, 2, 3, 1)
    encode = jax.jit(lambda params, x: module.apply({"params": params}, x, method="encode"))
    _, logvar = encode(params, images)
    assert want.min() == -30 and want.max() == 20
    assert relative_error(logvar, want) < 1e-4


def test_full_size_has_the_public_checkpoint_s_parameters():
    leaves = jax.tree.leaves(param_template(AutoencoderKL.from_config(SD)))
    assert len(leaves) == 248
    assert sum(leaf.size for leaf in leaves) == 83_653_863


def test_reconstruction_is_decode_of_the_mode():
    module = AutoencoderKL.from_config(TINY)
    assert module.spatial_factor == 4
    assert AutoencoderKL.from_config(SD).spatial_factor == 8
    params = {"params": drawn_params(module)}
    images = jax.random.uniform(jax.random.key(1), (1, 8, 8, 3), minval=-1)

    @jax.jit
    def run(params, images):
        mean, _ = module.apply(params, images, method="encode")
        return module.apply(params, images), module.apply(params, mean, method="decode")

    got, want = run(params, images)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    module = AutoencoderKL.from_config(TINY)
    params = {"params": drawn_params(module)}
    half = AutoencoderKL.from_config(TINY, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(param_template(half))} == {
        jnp.dtype(jnp.float32)
    }
    images = jax.random.uniform(jax.random.key(1), (1, 16, 16, 3), minval=-1)
    want, got = (np.asarray(jax.jit(m.apply)(params, images)) for m in (module, half))
    assert got.dtype == np.float32
    assert 0 < relative_error(got, want) < 0.2


def test_config_round_trip():
    diffusers = pytest.importorskip("diffusers")
    module = AutoencoderKL.from_config(SD)
    assert AutoencoderKL.from_config(module.to_config()) == module
    theirs = diffusers.AutoencoderKL.from_config(TINY).config
    config = AutoencoderKL.from_config(TINY).to_config()
    assert {key: config[key] for key in theirs if not key.startswith("_")} == {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in theirs.items()
        if not key.startswith("_")
    }


@pytest.mark.parametrize(
    "change",
    [
        {"act_fn": "mish"},
        {"down_block_types": ["AttnDownEncoderBlock2D"] * 3},
        {"up_block_types": ["UpDecoderBlock2D"] * 2},
        {"shift_factor": 0.1},
        {"latents_mean": [0.0] * 4},
        {"norm_num_groups": 32},
        {"temporal_compression_ratio": 4},
    ],
)
def test_unsupported_settings_are_named(change):
    (name,) = change
    with pytest.raises(UserError, match=f"{name}="):
        AutoencoderKL.from_config(TINY | change)


def test_settings_that_are_off_may_be_unknown():
    module = AutoencoderKL.from_config(TINY | {"new_feature": False, "other": None})
    assert module == AutoencoderKL.from_config(TINY)


def test_sizes_that_do_not_fit_are_refused():
    module = AutoencoderKL.from_config(TINY)
    with pytest.raises(UserError, match="30 x 32"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 30, 32, 3)))
