"""Stable Diffusion 2's depth model as a rival, against diffusers' own pipeline of it."""

import argparse
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from public_models import SD_2, UNET, VAE
from tiny_unet import ONE_LEVEL

from gen1_jax.commands.methods import add_method_arguments, find_models
from gen1_jax.errors import UserError
from gen1_jax.evaluation.clips import Clips
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.methods.registry import make_methods
from gen1_jax.tokenizer import train_tokenizer

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULE |= {"set_alpha_to_one": False, "clip_sample": False, "steps_offset": 1}
# One resolution compiles in half the time.
SMALL_UNET = UNET | SD_2 | ONE_LEVEL | {"attention_head_dim": [2]}
PROMPT, LENGTH = "a blue ball over snow", 12
SETTING = {"guidance_scale": 3.0, "strength": 0.5}


def make_parts(folder):
    """Returns random parts of a StableDiffusionDepth2ImgPipeline."""
    torch = pytest.importorskip("torch")
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train_tokenizer([PROMPT, "a red cube"], folder, 150, LENGTH)
    # Stable Diffusion 2 pads by "!".
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, pad_token="!")
    text = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=SD_2["cross_attention_dim"],
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    parts = {
        "unet": diffusers.UNet2DConditionModel(**SMALL_UNET, in_channels=5),
        "vae": diffusers.AutoencoderKL(**VAE),
        "text_encoder": transformers.CLIPTextModel(text),
        "tokenizer": tokenizer,
        "scheduler": diffusers.DDIMScheduler(**SCHEDULE),
    }
    with torch.no_grad():
        for parameter in parts["text_encoder"].parameters():
            parameter.normal_(std=0.5)
        for name in ("unet", "vae"):
            for parameter in parts[name].parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        # The posterior is its mean, so that diffusers' sample of it is no noise of its own.
        quant = parts["vae"].quant_conv
        quant.weight[4:], quant.bias[4:] = 0, -100
    return parts


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return make_parts(tmp_path_factory.mktemp("trained") / "tokenizer")


@pytest.fixture(scope="module")
def published(parts, tmp_path_factory):
    """The folder, as diffusers writes it."""
    whole = tmp_path_factory.mktemp("published")
    for name, part in parts.items():
        part.save_pretrained(whole / name)
    index = {"_class_name": "StableDiffusionDepth2ImgPipeline"}
    (whole / "model_index.json").write_text(json.dumps(index))
    return whole


@pytest.fixture
def folder(published, tmp_path):
    """A copy, which a test may change."""
    return shutil.copytree(published, tmp_path / "sd2-depth")


def make(folder, editor):
    (method,) = make_methods(["depth-per-frame"], editor, {"depth": folder})
    return method


def clips_of(editor, count=2):
    """One clip of unequal frames, with a depth map that is unequal in each."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    frames = coarse.repeat(8, axis=1).repeat(8, axis=2)
    clips = Clips(editor, [Item(clip="a", video="a", frames=frames, prompt=PROMPT)], 0)
    clips.depth = rng.uniform(0, 5, (1, count, 32, 32)).astype(np.float32)
    return clips


def edit_in_diffusers(parts, clips, num_steps, monkeypatch):
    """Returns the frames [n H W 3] in [0, 255], by diffusers, from our noise and our depth."""
    import torch
    from diffusers import StableDiffusionDepth2ImgPipeline
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_depth2img as module

    pipe = StableDiffusionDepth2ImgPipeline(**parts, depth_estimator=None, feature_extractor=None)
    pipe.set_progress_bar_config(disable=True)
    n = clips.frames.shape[1]
    noise = jax.random.normal(jax.random.key(np.uint32(clips.seeds[0])), (n, 16, 16, 4))
    noise = torch.from_numpy(np.array(noise)).permute(0, 3, 1, 2)
    monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: noise.reshape(shape))
    pixels = torch.from_numpy(clips.frames[0]).permute(0, 3, 1, 2).float() / 255
    images = pipe(
        [PROMPT] * n,
        image=pixels,
        depth_map=torch.from_numpy(clips.depth[0]),
        num_inference_steps=num_steps,
        output_type="np",
        **SETTING,
    ).images
    return 255 * images


def test_frames_are_those_of_diffusers(parts, folder, editor, monkeypatch, quick):
    method, clips = make(folder, editor), clips_of(editor)
    frames = method.edit(clips, SETTING, 4)[0].astype(float)
    wanted = edit_in_diffusers(parts, clips, 4, monkeypatch)
    assert 10 < wanted.std() and 5 < np.abs(wanted - clips.frames[0]).mean()
    assert np.abs(frames - wanted).max() < 0.6  # ours are rounded to whole levels
    # Guidance and depth count; strength does, because the reference has it.
    plain = method.edit(clips, SETTING | {"guidance_scale": 1.0}, 4)[0]
    clips.depth = clips.depth[..., ::-1].copy()
    clips.kept.clear()
    turned = method.edit(clips, SETTING, 4)[0]
    for other in (plain, turned):
        assert np.abs(frames - other).max() > 2


def test_the_schedule_is_the_folders(folder, editor):
    method, path = make(folder, editor), folder / "scheduler/scheduler_config.json"
    changed = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    edit_json(path, **changed)
    other = make(folder, editor)
    assert method._schedule.prediction_type == "epsilon" and method._spacing == "leading"
    assert other._schedule.prediction_type == "v_prediction" and other._spacing == "trailing"
    assert float(other._schedule.alphas_cumprod[-1]) == 0 < method._schedule.alphas_cumprod[-1]
    assert method.digest != other.digest


def test_older_files_name_the_text_encoder_with_a_prefix(folder, editor):
    from safetensors.numpy import load_file, save_file

    digest, file = make(folder, editor).digest, folder / "text_encoder" / "model.safetensors"
    tensors = {name.removeprefix("text_model."): array for name, array in load_file(file).items()}
    save_file({f"text_model.{name}": array for name, array in tensors.items()}, file)
    (folder / "model_index.json").unlink()  # is known by its unet too
    assert make(folder, editor).digest == digest
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    (folder / "text_encoder" / "config.json").write_text(
        json.dumps(config | {"hidden_act": "quick_gelu"})
    )
    assert make(folder, editor).digest != digest


def test_pictures_are_refused_and_records_say_whose_autoencoder_it_is(folder, editor):
    method, item = make(folder, editor), clips_of(editor).items[0]
    assert method.identity(item) == {
        "rival": method.digest,
        "autoencoder": "the rival's own",
    }
    assert method.controls == ("guidance_scale", "strength")
    with pytest.raises(UserError, match="clip a takes its content from a picture.*prompts only"):
        method.identity(dataclasses.replace(item, image=item.frames[0]))


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: edit_json(f / "model_index.json", _class_name="X"), "is a X; accepted: a Stab"),
        (lambda f: shutil.rmtree(f / "scheduler"), "no .*scheduler_config.json; accepted"),
        (
            lambda f: edit_json(f / "scheduler/scheduler_config.json", beta_schedule="linear"),
            "beta_schedule='linear'; accepted: 'scaled_linear'",
        ),
        (lambda f: shutil.rmtree(f / "vae"), "no model folder .*vae"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "no tokenizer in"),
        (
            lambda f: edit_json(f / "text_encoder/config.json", model_type="t5"),
            "holds 't5'; accepted: a CLIPTextModel",
        ),
        (
            lambda f: edit_json(f / "text_encoder/config.json", num_hidden_layers=1),
            "weights in .*text_encoder do not fit",
        ),
        (
            lambda f: edit_json(f / "tokenizer/tokenizer_config.json", model_max_length=77),
            "context length is 77; accepted: up to 12",
        ),
    ],
)
def test_a_bad_folder_ends_in_one_line(spoil, message, folder, editor):
    spoil(folder)
    with pytest.raises(UserError, match=message) as error:
        make(folder, editor)
    assert "\n" not in str(error.value)


def test_the_command_takes_the_whole_folder(folder, tmp_path):
    parser = argparse.ArgumentParser()
    add_method_arguments(parser)
    args = parser.parse_args(["--method", "depth-per-frame", "--depth-model", str(folder)])
    args.model = tmp_path / "pipeline"
    assert find_models(args) == {"depth": folder}
    args = parser.parse_args(["--method", "sdedit-per-frame", "--image-model", str(folder)])
    args.model = tmp_path / "pipeline"
    with pytest.raises(UserError, match="needs a model that is not at"):
        find_models(args)


def test_a_unet_of_text_alone_is_refused(folder, editor):
    import diffusers

    diffusers.UNet2DConditionModel(**SMALL_UNET).save_pretrained(folder / "unet")
    with pytest.raises(UserError, match="unet: in_channels is 4; accepted: 5"):
        make(folder, editor)


def test_the_unet_alone_says_to_give_the_whole(folder, editor):
    with pytest.raises(UserError, match="takes 5 channels.*give the whole pipeline, .*sd2-depth$"):
        make(folder / "unet", editor)
