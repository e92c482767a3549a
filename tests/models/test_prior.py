"""The prior against diffusers' `PriorTransformer`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen1_jax.errors import UserError
from gen1_jax.models.prior import PriorTransformer
from gen1_jax.weights.folder import init_params, param_template
from gen1_jax.weights.naming import state_dict_to_params

TINY = {
    "_class_name": "PriorTransformer",
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "num_layers": 2,
    "embedding_dim": 64,
    "num_embeddings": 32,
    "additional_embeddings": 4,
}
KARLO = {
    "_class_name": "PriorTransformer",
    "_diffusers_version": "0.12.0.dev0",
    "additional_embeddings": 4,
    "attention_head_dim": 64,
    "dropout": 0.0,
    "embedding_dim": 768,
    "num_attention_heads": 32,
    "num_embeddings": 77,
    "num_layers": 20,
}


def reference(config, seed):
    """Returns diffusers' module, with all parameters moved away from their initial 0 or 1."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = diffusers.PriorTransformer.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or name.endswith(("_embedding", "clip_mean", "clip_std")):
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


def ours(config, model):
    module = PriorTransformer.from_config(config)
    state_dict = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return module, state_dict_to_params(state_dict, param_template(module))


def inputs(config, batch, seed):
    rng = np.random.default_rng(seed)
    dim, length = config["embedding_dim"], config["num_embeddings"]
    lengths = rng.integers(1, length + 1, batch)
    lengths[0] = length
    return (
        rng.normal(size=(batch, dim)).astype(np.float32),
        rng.integers(0, 1000, batch).astype(np.int32),
        rng.normal(size=(batch, config.get("embedding_proj_dim") or dim)).astype(np.float32),
        rng.normal(size=(batch, length, dim)).astype(np.float32),
        np.arange(length) < lengths[:, None],
    )


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
    ("seed", "batch", "changes"),
    [
        (0, 3, {}),
        (1, 1, {"num_embeddings": 7, "num_layers": 3}),
        (2, 5, {"norm_in_type": "layer", "embedding_proj_norm_type": "layer"}),
        (3, 2, {"time_embed_dim": 48, "embedding_proj_dim": 40, "clip_embed_dim": 64}),
        (4, 2, {"time_embed_act_fn": "gelu", "attention_head_dim": 10, "embedding_dim": 24}),
        (5, 2, {"added_emb_type": None, "additional_embeddings": 3}),
    ],
)
def test_predicts_as_diffusers(seed, batch, changes):
    torch = pytest.importorskip("torch")
    config = TINY | changes
    model = reference(config, seed)
    module, params = ours(config, model)
    args = inputs(config, batch, seed)
    with torch.no_grad():
        want = model(*map(torch.from_numpy, args)).predicted_image_embedding
        want_embedding = model.post_process_latents(want).numpy()
    want = want.numpy().reshape(batch, -1)  # without the learned token diffusers keeps a token axis
    got = jax.jit(module.apply)({"params": params}, *args)
    assert got.shape == want.shape and got.dtype == jnp.float32
    assert relative_error(got, want) < 1e-5
    embedding = module.apply({"params": params}, want, method="post_process_latents")
    assert relative_error(embedding, want_embedding.reshape(batch, -1)) < 1e-5


def test_padding_tokens_have_no_influence_and_an_empty_mask_is_finite():
    module = PriorTransformer.from_config(TINY)
    params = {"params": drawn_params(module)}
    predict = jax.jit(module.apply)
    x, t, embed, hidden, mask = inputs(TINY, 3, 0)
    mask[:] = np.arange(32) < 9
    other = np.where(mask[..., None], hidden, 100 * hidden[::-1])
    first = predict(params, x, t, embed, hidden, mask)
    np.testing.assert_array_equal(first, predict(params, x, t, embed, other, mask))
    changed = hidden.copy()
    changed[:, 8] += 1
    assert np.abs(first - predict(params, x, t, embed, changed, mask)).max() > 1e-3
    empty = predict(params, x, t, embed, hidden, np.zeros_like(mask))
    assert np.isfinite(empty).all()


def test_masks_of_numbers_and_of_booleans_are_the_same():
    module = PriorTransformer.from_config(TINY)
    params = {"params": drawn_params(module)}
    predict = jax.jit(module.apply)
    *args, mask = inputs(TINY, 2, 1)
    want = predict(params, *args, mask)
    np.testing.assert_array_equal(predict(params, *args, mask.astype(np.int32)), want)


def test_full_size_has_the_public_checkpoint_s_parameters():
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    template = param_template(PriorTransformer.from_config(KARLO))
    leaves = jax.tree.leaves(template)
    assert len(leaves) == 338
    with torch.device("meta"):
        model = diffusers.PriorTransformer.from_config(KARLO)
    assert sum(leaf.size for leaf in leaves) == sum(p.numel() for p in model.parameters())


def test_a_new_model_s_statistics_change_nothing():
    module = PriorTransformer.from_config(TINY | {"num_layers": 0})
    params = {"params": init_params(module, jax.random.key(0))}
    x = jax.random.normal(jax.random.key(1), (2, 64))
    np.testing.assert_array_equal(module.apply(params, x, method="post_process_latents"), x)


def test_config_round_trip():
    module = PriorTransformer.from_config(KARLO)
    assert PriorTransformer.from_config(module.to_config()) == module
    assert module.to_config()["_class_name"] == "PriorTransformer"


@pytest.mark.parametrize(
    "change",
    [
        {"encoder_hid_proj_type": None},
        {"norm_in_type": "group"},
        {"embedding_proj_norm_type": "rms"},
        {"added_emb_type": "cls"},
        {"additional_embeddings": 0},
        {"dropout": 0.1},
        {"time_embed_act_fn": "mish"},
        {"attention_head_dim": 2**20},
        {"rotary": True},
    ],
)
def test_unsupported_settings_are_named(change):
    ((name, value),) = change.items()
    with pytest.raises(UserError, match=f"{name}={value!r}"):
        PriorTransformer.from_config(TINY | change)


def test_text_of_another_length_is_refused():
    module = PriorTransformer.from_config(TINY)
    args = inputs(TINY | {"num_embeddings": 31}, 1, 0)
    with pytest.raises(UserError, match="32 text tokens"):
        jax.eval_shape(module.init, jax.random.key(0), *args)
