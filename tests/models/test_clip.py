"""CLIP against transformers' PyTorch module: random weights, float32."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gen1_jax.errors import UserError
from gen1_jax.models.clip import CLIPModel, CLIPTextConfig
from gen1_jax.models.preprocess import IMAGE_MEAN, IMAGE_STD, preprocess_for_clip
from gen1_jax.weights.folder import param_template
from gen1_jax.weights.naming import params_to_state_dict, state_dict_to_params

# Largest difference in units of the reference's spread. Measured: at most 3e-6.
TOLERANCE = 2e-5

TINY = {
    "model_type": "clip",
    "projection_dim": 24,
    "logit_scale_init_value": 1.5,
    "text_config": {
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 12,
        "eos_token_id": 99,
    },
    "vision_config": {
        "hidden_size": 40,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "image_size": 32,
        "patch_size": 8,
    },
}
VIT_L14 = {
    "projection_dim": 768,
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
    },
}


def tiny_config(eos_token_id=99, hidden_act="quick_gelu"):
    config = json.loads(json.dumps(TINY))
    config["text_config"] |= {"eos_token_id": eos_token_id, "hidden_act": hidden_act}
    config["vision_config"] |= {"hidden_act": hidden_act}
    return config


def make_tokens():
    """Returns two texts that end at different places in 99, the largest id, the pad."""
    tokens = np.random.default_rng(0).integers(3, 99, (2, 12))
    tokens[0, 7:], tokens[1, 4:] = 99, 99
    return tokens


def random_params(module):
    """Draws parameters with NumPy; compiling a module's own `init` takes far longer."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        return 0.1 * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree.map(draw, param_template(module))


def error(ours, reference):
    reference = reference.detach().numpy()
    assert ours.shape == reference.shape
    return np.abs(np.asarray(ours) - reference).max() / reference.std()


@pytest.mark.parametrize(
    "seed, eos_token_id, hidden_act", [(0, 99, "quick_gelu"), (1, 2, "gelu"), (2, 2, "quick_gelu")]
)
def test_equals_transformers(seed, eos_token_id, hidden_act):
    torch = pytest.importorskip("torch")
    import transformers

    config = tiny_config(eos_token_id, hidden_act)
    torch.manual_seed(seed)
    reference = transformers.CLIPModel(transformers.CLIPConfig(**config)).eval()
    with torch.no_grad():  # away from the symmetric initial values, so that every tensor counts
        for parameter in reference.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    state_dict = {key: tensor.numpy() for key, tensor in reference.state_dict().items()}
    module = CLIPModel.from_config(config)
    params = state_dict_to_params(state_dict, param_template(module))

    def ours(method, *inputs):
        return jax.jit(lambda p: module.apply({"params": p}, *inputs, method=method))(params)

    tokens = make_tokens()
    pixels = np.random.default_rng(seed).standard_normal((2, 32, 32, 3)).astype(np.float32)
    torch_tokens = torch.from_numpy(tokens)
    torch_pixels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        texts = reference.get_text_features(torch_tokens)
        images = reference.get_image_features(torch_pixels)
        both = reference(torch_tokens, torch_pixels)

    assert error(ours("encode_image", pixels), images.pooler_output) < TOLERANCE
    assert error(ours("encode_text", tokens), texts.pooler_output) < TOLERANCE
    states, pooled = ours("text_hidden_states", tokens)
    assert error(states, texts.last_hidden_state) < TOLERANCE
    assert error(pooled, texts.pooler_output) < TOLERANCE
    image_embeds, text_embeds, scale = ours("__call__", pixels, tokens)
    assert error(image_embeds, both.image_embeds) < TOLERANCE
    assert error(text_embeds, both.text_embeds) < TOLERANCE
    assert error(scale * image_embeds @ text_embeds.T, both.logits_per_image) < TOLERANCE


def test_saved_names_and_config_are_those_of_transformers():
    torch = pytest.importorskip("torch")
    import transformers

    module = CLIPModel.from_config(tiny_config())
    config = transformers.CLIPConfig(**module.to_config())
    assert CLIPModel.from_config(config.to_dict()) == module
    state_dict = params_to_state_dict(random_params(module))
    tensors = {key: torch.from_numpy(array.copy()) for key, array in state_dict.items()}
    transformers.CLIPModel(config).load_state_dict(tensors, strict=True)


def test_vit_l14_has_the_published_number_of_parameters():
    torch = pytest.importorskip("torch")
    import transformers

    module = CLIPModel.from_config(VIT_L14)
    count = sum(leaf.size for leaf in jax.tree.leaves(param_template(module)))
    with torch.device("meta"):
        reference = transformers.CLIPModel(transformers.CLIPConfig(**module.to_config()))
    assert count == sum(p.numel() for p in reference.parameters()) == 427_616_513


def test_text_is_causal_and_ends_at_the_first_end_token():
    module = CLIPModel.from_config(tiny_config())
    params = random_params(module)
    apply = jax.jit(lambda t: module.apply({"params": params}, t, method="text_hidden_states"))
    tokens = make_tokens()
    changed = tokens.copy()
    changed[:, 8:] = 5  # after the end token
    (states, pooled), (other_states, other_pooled) = apply(tokens), apply(changed)
    np.testing.assert_array_equal(pooled, other_pooled)
    np.testing.assert_array_equal(states[:, :8], other_states[:, :8])
    assert np.abs(states[:, 8:] - other_states[:, 8:]).max() > 0


def test_bfloat16_computes_near_float32_and_returns_float32():
    config = tiny_config()
    params = random_params(CLIPModel.from_config(config))
    pixels = np.random.default_rng(1).standard_normal((2, 32, 32, 3), np.float32)
    tokens = make_tokens()
    full, half = (
        jax.jit(CLIPModel.from_config(config, dtype).apply)({"params": params}, pixels, tokens)
        for dtype in (None, jnp.bfloat16)
    )
    for ours, other in zip(full[:2], half[:2], strict=True):
        assert other.dtype == jnp.float32
        assert jnp.sum(ours * other, axis=-1).min() > 0.999  # a cosine


def test_old_configs_count_the_repeated_settings():
    config = {"text_config": {"hidden_size": 64}, "text_config_dict": {"hidden_size": 128}}
    assert CLIPModel.from_config(config).text_config == CLIPTextConfig(hidden_size=128)


@pytest.mark.parametrize(
    "config, name",
    [
        ({"model_type": "siglip"}, "model_type='siglip'"),
        ({"text_config": {"hidden_act": "tanh"}}, "hidden_act='tanh'"),
        ({"text_config": []}, "text_config="),
        ({"vision_config": {"image_size": [224, 196]}}, "image_size="),
        ({"text_config": {"num_attention_heads": 7}}, "num_attention_heads=7"),
        ({"vision_config": {"patch_size": 500}}, "patch_size=500"),
        ({"projection_dim": "512"}, "projection_dim='512'"),
    ],
)
def test_wrong_config_is_refused(config, name):
    with pytest.raises(UserError, match=name):
        CLIPModel.from_config(config)


def test_wrong_inputs_are_refused():
    module = CLIPModel.from_config(tiny_config())
    variables = {"params": param_template(module)}

    def apply(method, shape):
        inputs = jax.ShapeDtypeStruct(shape, jnp.int32 if method == "encode_text" else jnp.float32)
        return jax.eval_shape(lambda v, x: module.apply(v, x, method=method), variables, inputs)

    with pytest.raises(UserError, match="13 tokens"):
        apply("encode_text", (1, 13))
    with pytest.raises(UserError, match=r"\(32, 40, 3\)"):
        apply("encode_image", (1, 32, 40, 3))


def smooth_frames(height, width):
    """[2 height width 3] uint8 with some structure, so that resizing is not all noise."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 9, 13, 3), np.uint8)
    resized = [Image.fromarray(x).resize((width, height), Image.Resampling.BICUBIC) for x in noise]
    return np.stack([np.asarray(x) for x in resized])


@pytest.mark.parametrize("height, width", [(64, 96), (80, 45), (20, 33)])
def test_preprocess_equals_pillow(height, width):
    frames, size = smooth_frames(height, width), 32
    shorter = min(height, width)
    new_height, new_width = size * height // shorter, size * width // shorter
    top, left = (new_height - size) // 2, (new_width - size) // 2
    expected = []
    for frame in frames:
        image = Image.fromarray(frame).resize((new_width, new_height), Image.Resampling.BICUBIC)
        expected.append(np.asarray(image.crop((left, top, left + size, top + size))))
    expected = (np.stack(expected) / 255 - IMAGE_MEAN) / IMAGE_STD
    ours = jax.jit(preprocess_for_clip, static_argnums=1)(frames, size)
    assert ours.shape == (2, size, size, 3) and ours.dtype == jnp.float32
    difference = np.abs(ours - expected) * IMAGE_STD * 255
    assert difference.max() < 1.01  # one 8-bit step, where rounding falls to the other side
    assert difference.mean() < 0.01


def test_preprocess_leaves_the_size_alone_where_it_fits():
    frames = smooth_frames(32, 32)[None]
    expected = (frames / 255 - IMAGE_MEAN) / IMAGE_STD
    np.testing.assert_allclose(preprocess_for_clip(frames, 32), expected, atol=1e-5)
