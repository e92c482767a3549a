"""The whole way from a text to an image embedding, against diffusers' own prior pipelines.

Small random weights in the layouts of Karlo and Kandinsky 2.1 go through `gen1 import`. Tokens,
both text outputs, the mask, guidance, clamping, the sampler and the statistics are diffusers' own
on one side and ours on the other; the noise alone is given to both.
"""

import dataclasses

import jax
import numpy as np
import pytest
from public_models import gen1
from tiny_unet import quick_jit

from gen1_jax.conditioning import Conditioner, to_content
from gen1_jax.pipeline import ENCODERS
from gen1_jax.tokenizer import load_tokenizer, train_tokenizer

PROMPTS = ["a blue ball over snow", "snow!"]
WIDTH, LENGTH, STEPS, GUIDANCE = 16, 16, 4, 4.0
TOWER = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 1}
TOWER |= {"num_attention_heads": 2, "projection_dim": WIDTH}
PRIOR = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1}
PRIOR |= {"embedding_dim": WIDTH, "num_embeddings": LENGTH}
# The folder of the sampler, its clamp, and the tokenizer's padding. Both publish the end token; "!"
# is that of Stable Diffusion 2.
PIPELINES = {
    "Karlo": ("prior_scheduler", 5.0, "!"),
    "Kandinsky": ("scheduler", 10.0, "<|endoftext|>"),
}


def make_public(folder, sampler, clamp, padding):
    """Writes the parts as their pipelines publish them; returns them as diffusers has them."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    import transformers

    torch.manual_seed(0)
    train_tokenizer([*PROMPTS, "a red cube by the sea"], folder / "trained", 150, LENGTH)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "trained", pad_token=padding)
    text = transformers.CLIPTextConfig(
        **TOWER, vocab_size=len(tokenizer), max_position_embeddings=LENGTH, eos_token_id=2
    )
    vision = transformers.CLIPVisionConfig(**TOWER, image_size=8, patch_size=4)
    parts = {
        "text_encoder": transformers.CLIPTextModelWithProjection(text),
        "image_encoder": transformers.CLIPVisionModelWithProjection(vision),
        "prior": diffusers.PriorTransformer(**PRIOR),
        "tokenizer": tokenizer,
        sampler: diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=clamp
        ),
    }
    with torch.no_grad():
        for name, spread in (("text_encoder", 0.5), ("prior", 0.5)):
            for parameter in parts[name].parameters():
                parameter.normal_(std=spread)
        parts["prior"].proj_to_clip_embeddings.weight.normal_(std=2.0)  # so that the clamp acts
        parts["text_encoder"].text_projection.weight.normal_(std=0.1)  # the length is not √d
        parts["prior"].clip_std.uniform_(0.3, 0.6)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    return {name: part.eval() if hasattr(part, "eval") else part for name, part in parts.items()}


class Finished(Exception):
    """Ends UnCLIPPipeline where its decoder would begin."""


def run_theirs(name, parts, sampler, noise, monkeypatch):
    """Returns the text condition (null prompts first) and the image embeddings of diffusers."""
    import diffusers
    import torch
    from diffusers.schedulers import scheduling_unclip

    draws = iter(torch.from_numpy(noise[1:]))
    monkeypatch.setattr(scheduling_unclip, "randn_tensor", lambda *_, **__: next(draws))
    shared = {key: parts[key] for key in ("prior", "text_encoder", "tokenizer")}
    first = torch.from_numpy(noise[0])
    if name == "Kandinsky":
        pipeline = diffusers.KandinskyPriorPipeline(
            **shared, image_encoder=parts["image_encoder"], scheduler=parts[sampler],
            image_processor=None,
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "latents": first}
        image = pipeline(PROMPTS, **options).image_embeds
    else:

        class Stop(torch.nn.Module):
            device = first.device

            def forward(self, image_embeddings, **_):
                raise Finished(image_embeddings)

        rest = ("decoder", "super_res_first", "super_res_last", "decoder_scheduler")
        pipeline = diffusers.UnCLIPPipeline(
            **shared, text_proj=Stop(), prior_scheduler=parts[sampler], super_res_scheduler=None,
            **dict.fromkeys(rest),
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        options = {"prior_num_inference_steps": STEPS, "prior_guidance_scale": GUIDANCE}
        with pytest.raises(Finished) as caught:
            pipeline(PROMPTS, prior_latents=first, **options)
        (image,) = caught.value.args
    with torch.no_grad():
        text = pipeline._encode_prompt(PROMPTS, torch.device("cpu"), 1, True)
    return [x.numpy() for x in text], image.numpy()


@pytest.mark.parametrize("name", PIPELINES)
def test_a_text_becomes_the_image_embedding_of_diffusers(name, tmp_path, capsys, monkeypatch):
    sampler, clamp, padding = PIPELINES[name]
    public, run = tmp_path / "public", tmp_path / "run"
    parts = make_public(public, sampler, clamp, padding)
    flags = ("text-encoder", "image-encoder", "tokenizer", "prior")
    words = [word for flag in flags for word in (f"--{flag}", public / flag.replace("-", "_"))]
    gen1(capsys, run, *words)

    conditioner, params = Conditioner.load(
        {part: run / ENCODERS[part].run_folder / "model" for part in ("clip", "prior")}
    )
    assert conditioner.prior.text_embedding_scale == "raw"
    assert conditioner.prior.clip_sample_range == clamp
    tokenizer = load_tokenizer(run / "tokenizer")
    tokens, null = tokenizer.encode(PROMPTS), tokenizer.encode([""])
    key, shape = jax.random.key(3), (len(PROMPTS), WIDTH)
    noise = np.stack([jax.random.normal(jax.random.fold_in(key, i), shape) for i in range(STEPS)])
    text, image = run_theirs(name, parts, sampler, noise, monkeypatch)

    ours = quick_jit(conditioner.text_condition)(params, np.concatenate([null, null, tokens]))
    np.testing.assert_allclose(ours.embed, text[0], atol=1e-5)
    np.testing.assert_allclose(ours.hidden, text[1], atol=1e-5)
    np.testing.assert_array_equal(ours.mask, text[2])

    def draw(conditioner, **options):
        def program(params, tokens, null, key):
            return conditioner.text_content(
                params, tokens, null, key, num_steps=STEPS, guidance_scale=GUIDANCE, **options
            )

        return quick_jit(program)(params, tokens, null, key)

    # Content has unit variance; ours keeps the direction of theirs.
    content, theirs = draw(conditioner), to_content(image)
    np.testing.assert_allclose(content, theirs, atol=1e-4)
    if name == "Kandinsky":  # each of the two settings counts
        assert np.abs(draw(conditioner, clamp=5.0) - theirs).max() > 1e-2
        prior = conditioner.prior.clone(text_embedding_scale="content")
        other = dataclasses.replace(conditioner, prior=prior)
        assert np.abs(draw(other) - theirs).max() > 1e-2
