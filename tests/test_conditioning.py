"""The frozen networks: frames, texts and depth to what the UNet reads."""

import dataclasses
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from tiny_unet import normal

from gen1_jax.batch import Batch
from gen1_jax.conditioning import Conditioner, to_content
from gen1_jax.errors import UserError
from gen1_jax.tokenizer import load_tokenizer

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (2, 3, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def models(micro_run):
    names = ("vae", "clip", "depth", "prior")
    return Conditioner.load({name: micro_run / "pipeline" / name for name in names})


def structure_of(models, level):
    """FRAMES' structure latents at a level each, in two steps."""
    conditioner, encoder_params = models
    depth = jax.jit(conditioner.estimate_depth)(encoder_params, FRAMES)
    return jax.jit(conditioner.encode_structure)(encoder_params, depth, level)


def test_content_keeps_the_direction_and_has_unit_variance():
    x = normal(0, 5, 16)
    content = to_content(x)
    np.testing.assert_allclose(np.linalg.norm(content, axis=-1), 4, rtol=1e-5)
    np.testing.assert_allclose(to_content(100 * x), content, rtol=1e-5)
    assert np.isfinite(to_content(np.zeros((1, 16)))).all()


def test_latents_and_frames_have_each_others_shapes(models, quick):
    conditioner, encoder_params = models
    latents = jax.jit(conditioner.encode_frames)(encoder_params, FRAMES)
    assert latents.shape == (2, 3, 8, 8, 4)
    frames = jax.jit(conditioner.decode)(encoder_params, latents)
    assert frames.shape == FRAMES.shape and frames.dtype == np.uint8
    # A frame's latents are its own, whatever stands beside it.
    alone = jax.jit(conditioner.encode_frames)(encoder_params, FRAMES[:1, 1:2])
    np.testing.assert_allclose(alone[0, 0], latents[0, 1], atol=1e-4)


def test_frames_are_the_autoencoder_s_of_latents_without_their_scale(models, quick):
    conditioner, encoder_params = models
    latents = normal(0, 2, 3, 8, 8, 4)
    scale = conditioner.vae.scaling_factor
    assert scale != 1
    images = jax.jit(conditioner.vae.apply, static_argnames="method")(
        {"params": encoder_params["vae"]}, latents.reshape(6, 8, 8, 4) / scale, method="decode"
    )
    frames = jax.jit(conditioner.decode)(encoder_params, latents)
    expected = np.clip(np.round((np.asarray(images) + 1) * 127.5), 0, 255)
    assert expected.std() > 1
    np.testing.assert_allclose(frames.reshape(images.shape), expected, atol=1)


def test_content_is_that_of_pixels_normalised_as_clip_s_were(models, quick):
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    conditioner, encoder_params = models
    pixels = (FRAMES[0] / 255 - OPENAI_CLIP_MEAN) / OPENAI_CLIP_STD
    embedding = jax.jit(conditioner.clip.apply, static_argnames="method")(
        {"params": encoder_params["clip"]}, pixels.astype(np.float32), method="encode_image"
    )
    content = jax.jit(conditioner.image_content)(encoder_params, FRAMES[0])
    np.testing.assert_allclose(content, to_content(embedding), atol=1e-4)


@pytest.mark.parametrize("size", [(16, 16), (20, 30), (7, 33)])
def test_depth_has_the_size_of_the_frames_whatever_it_is(models, quick, size):
    conditioner, encoder_params = models
    frames = RNG.integers(0, 256, (1, 2, *size, 3), np.uint8)
    depth = jax.jit(conditioner.estimate_depth)(encoder_params, frames)
    assert depth.shape == (1, 2, *size) and np.isfinite(depth).all()


def test_tokens_count_up_to_the_first_end(models, micro_run):
    conditioner, _ = models
    tokens = load_tokenizer(micro_run / "tokenizer").encode(["", "a red ball"])
    mask = np.asarray(conditioner.token_mask(tokens))
    assert mask[0].sum() == 2 and mask[0, :2].all()
    ends = (tokens[1] == tokens[1, -1]).argmax()
    np.testing.assert_array_equal(mask[1], np.arange(tokens.shape[1]) <= ends)


def test_an_added_token_ends_no_text(models, quick):
    """OpenAI's files say that the end token is 2; textual inversion adds tokens behind it."""
    conditioner, encoder_params = models
    clip = conditioner.clip
    end, added = 58, 59
    text = dataclasses.replace(clip.text_config, eos_token_id=2)
    published = dataclasses.replace(conditioner, clip=clip.clone(text_config=text))
    told = published.with_end_token(end)
    assert told.clip.text_config.eos_token_id == end
    assert told.with_end_token(7).clip == told.clip  # the folder's own word counts
    tokens = np.full((2, clip.text_config.max_position_embeddings), end, np.int32)
    tokens[:, :4] = [[57, 5, added, 9], [57, 5, 8, 9]]
    mask = np.asarray(told.token_mask(tokens))
    np.testing.assert_array_equal(mask, [np.arange(len(tokens[0])) <= 4] * 2)
    embed = jax.jit(told.embed_text)(encoder_params, tokens)
    # Without an added token, the largest id is the end.
    np.testing.assert_array_equal(published.token_mask(tokens[1:]), mask[1:])
    plain = jax.jit(published.embed_text)(encoder_params, tokens)
    np.testing.assert_allclose(embed[1], plain[1], atol=1e-5)
    assert np.abs(embed[0] - plain[0]).max() > 1e-3


def test_a_batch_is_encoded_as_it_says(models, quick):
    conditioner, encoder_params = models
    level, frame = np.array([2, 5], np.int32), np.array([2, 0], np.int32)
    raw = Batch(
        frames=FRAMES, structure_level=level, content_frame=frame, tokens=np.zeros((2, 5), np.int32)
    )
    batch = jax.jit(conditioner.encode_batch)(encoder_params, raw)
    batch.check()
    assert batch.encoded and batch.content_frame is None
    np.testing.assert_array_equal(batch.structure_level, level)
    np.testing.assert_allclose(batch.structure, structure_of(models, level), atol=1e-4)
    content = jax.jit(conditioner.image_content)(encoder_params, FRAMES[[0, 1], frame])
    np.testing.assert_allclose(batch.content, content, atol=1e-4)
    # The moments are the autoencoder's, of scaled latents.
    scale = conditioner.vae.scaling_factor
    mean, logvar = jax.jit(conditioner.vae.apply, static_argnames="method")(
        {"params": encoder_params["vae"]}, FRAMES[0] / np.float32(127.5) - 1, method="encode"
    )
    np.testing.assert_allclose(batch.latents[0], mean * scale, atol=1e-4)
    deviation = np.exp(batch.latents_logvar[0] / 2)
    np.testing.assert_allclose(deviation, np.exp(logvar / 2) * scale, rtol=1e-4)


@pytest.mark.parametrize("name", ["structure_level", "content_frame"])
def test_a_raw_batch_must_say_what_is_encoded(models, name):
    zeros = np.zeros(2, np.int32)
    raw = Batch(frames=FRAMES, structure_level=zeros, content_frame=zeros).replace(**{name: None})
    with pytest.raises(UserError, match=f"need {name} beside the frames: add it to data.fields"):
        models[0].encode_batch(models[1], raw)


def test_what_precompute_stores_is_what_a_batch_would_hold(models, quick):
    conditioner, encoder_params = models
    levels = np.array([[0, 3], [0, 7]])
    record = jax.jit(conditioner.encode_record)(encoder_params, FRAMES, levels)
    assert {k: v.shape for k, v in record.items()} == {
        "latents": (2, 3, 8, 8, 4),
        "latents_logvar": (2, 3, 8, 8, 4),
        "structure": (2, 2, 3, 8, 8, 4),
        "content": (2, 3, 16),
    }
    second = structure_of(models, np.array([3, 7]))
    np.testing.assert_allclose(record["structure"][:, 1], second, atol=1e-4)


def test_content_of_a_text_is_drawn_by_the_prior(models, micro_run, quick):
    conditioner, encoder_params = models
    tokenizer = load_tokenizer(micro_run / "tokenizer")
    tokens, null = tokenizer.encode(["a red ball", "a blue cube"]), tokenizer.encode([""])

    @jax.jit
    def draw(tokens, key):
        return conditioner.text_content(encoder_params, tokens, null, key, num_steps=2)

    content = draw(tokens, jax.random.key(0))
    assert content.shape == (2, 16) and np.isfinite(content).all()
    np.testing.assert_array_equal(content, draw(tokens, jax.random.key(0)))
    assert np.abs(content - draw(tokens, jax.random.key(1))).max() > 1e-3
    assert np.abs(content - draw(tokens[::-1], jax.random.key(0))).max() > 1e-3


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ({"vae": "clip"}, "clip holds CLIPModel; vae must be AutoencoderKL"),
        ({"prior": "unet"}, "unet holds VideoUNet; prior must be PriorTransformer"),
        ({"depth": "nowhere"}, "no model folder"),
        ({"unet": "unet"}, "unknown frozen model 'unet'; accepted: vae, clip, depth, prior"),
    ],
)
def test_wrong_folders_are_refused(micro_run, folders, words):
    with pytest.raises(UserError, match=words) as caught:
        Conditioner.load({k: micro_run / "pipeline" / v for k, v in folders.items()})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_damaged_model_folders_are_refused(micro_run, tmp_path, file):
    shutil.copytree(micro_run / "pipeline" / "depth", tmp_path / "depth")
    path = tmp_path / "depth" / file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=file) as caught:
        Conditioner.load({"depth": tmp_path / "depth"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [FRAMES.shape[:-1], FRAMES.shape])
def test_maps_of_the_host_are_encoded_in_place_of_estimates(models, shape):
    """Grey or in colours; a record of them has the same fields and shapes."""
    levels = np.array([[0, 3], [0, 5]])
    record = partial(jax.eval_shape, models[0].encode_record, models[1], FRAMES, levels)
    assert record(np.zeros(shape, np.uint8)) == record()


def test_what_the_host_makes_is_not_made_in_the_training_step(models):
    recipe = dataclasses.replace(models[0].recipe, extractor="canny")
    conditioner = dataclasses.replace(models[0], recipe=recipe)
    zeros = np.zeros(2, np.int32)
    raw = Batch(frames=FRAMES, structure_level=zeros, content_frame=zeros)
    with pytest.raises(UserError, match="structure of canny is not made in the training step: enc"):
        conditioner.encode_batch(models[1], raw)
