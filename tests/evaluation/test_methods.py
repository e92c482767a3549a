"""Rival methods: what each takes of the source, what it needs, and other systems' results."""

import argparse
import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_unet import drawn_params

from gen1_jax.commands.methods import (
    add_method_arguments,
    check_method_arguments,
    find_models,
    find_outputs,
)
from gen1_jax.errors import UserError
from gen1_jax.evaluation.clips import Clips, noise_seed
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.methods.outputs import Outputs
from gen1_jax.evaluation.methods.propagation import carry_on
from gen1_jax.evaluation.methods.registry import make_methods
from gen1_jax.evaluation.methods.stage import source_latents
from gen1_jax.evaluation.world_items import world_items
from gen1_jax.video.io import write_video
from gen1_jax.weights.folder import load_model, save_model

RIVALS = ("sdedit-per-frame", "sdedit-per-frame-fixed", "warp-and-renoise", "depth-per-frame")
SETTING = {"guidance_scale": 2.0, "strength": 0.5, "structure_level": 0}


@pytest.fixture(scope="module")
def depth_model(micro_run, tmp_path_factory):
    """An image model with depth, as a stage's `model` folder."""
    module, _ = load_model(micro_run / "image" / "model")
    module = module.clone(in_channels=module.out_channels + 8)
    folder = tmp_path_factory.mktemp("rival_depth") / "model"
    save_model(folder, module, drawn_params(module, seed=1))
    return folder


@pytest.fixture(scope="module")
def methods(editor, micro_run, depth_model):
    """The rivals with models of their own, by name."""
    models = {"image": micro_run / "image" / "model", "depth": depth_model}
    return {method.name: method for method in make_methods(RIVALS, editor, models)}


@pytest.fixture(scope="module")
def item(micro_run):
    """A clip of three frames, all different."""
    item = world_items(micro_run / "world", "test", "test", 1)[0]
    return dataclasses.replace(item, frames=item.frames[:3], depth=None, mask=None)


def clips_of(editor, item, frames=None):
    return Clips(editor, [item if frames is None else dataclasses.replace(item, frames=frames)], 0)


def difference(one, other) -> float:
    """Mean distance in levels of 256."""
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


# ---- SDEdit


def test_sdedit_noises_the_source_to_its_strength_and_denoises_it(
    methods, editor, item, quick, monkeypatch
):
    """With a network that predicts v = 0, the whole edit is known in closed form."""
    stage, clips = methods["sdedit-per-frame"]._stage, clips_of(editor, item)
    unet = stage._params["unet"]
    blank = unet | {"conv_out": jax.tree.map(np.zeros_like, unet["conv_out"])}
    monkeypatch.setattr(stage, "_params", stage._params | {"unet": blank})
    edit = methods["sdedit-per-frame"].edit(clips, SETTING, 4)
    source = np.asarray(source_latents(clips))
    noise = jax.vmap(lambda key: jax.random.normal(key, source.shape[1:]))(
        jax.vmap(jax.random.key)(np.asarray(clips.seeds, np.uint32))
    )
    alphas = np.asarray(stage.schedule.alphas_cumprod, np.float64)
    at, then = np.sqrt(alphas), np.sqrt(1 - alphas)
    z = at[251] * source + then[251] * np.asarray(noise)  # half of 751, 501, 251, 1
    for t, landing in ((251, 1), (1, 0)):
        z = (at[landing] * at[t] + then[landing] * then[t]) * z  # z_0 = √ᾱ z, ε = √(1−ᾱ) z
    wanted = editor.conditioner.decode(editor.params, np.asarray(z, np.float32))
    assert difference(edit, wanted) < 0.1
    assert difference(edit, clips.frames) > 1


def test_only_fixed_noise_gives_a_still_clip_equal_frames(methods, editor, item, quick):
    clips = clips_of(editor, item, np.repeat(item.frames[:1], 3, axis=0))
    fixed = methods["sdedit-per-frame-fixed"].edit(clips, SETTING, 4)[0].astype(int)
    free = methods["sdedit-per-frame"].edit(clips, SETTING, 4)[0].astype(int)
    assert np.abs(fixed - fixed[:1]).max() <= 1 < difference(free[0], free[1])


@pytest.mark.parametrize("name", ["sdedit-per-frame", "depth-per-frame"])
def test_a_frame_alone_does_not_depend_on_the_others(name, methods, editor, item, quick):
    other = clips_of(editor, item, np.stack([*item.frames[:2], 255 - item.frames[2]]))
    clips = clips_of(editor, item)
    # The estimated depth is scaled by the whole clip; the frames' own is not looked at here.
    clips.structure_map = np.linspace(0, 1, item.frames[..., 0].size).reshape(
        1, *item.frames.shape[:3]
    )
    other.structure_map = clips.structure_map.copy()
    other.structure_map[:, 2] = np.flip(clips.structure_map[:, 2])
    other.content = clips.content
    one, changed = (methods[name].edit(c, SETTING, 4)[0].astype(int) for c in (clips, other))
    assert np.abs(one[:2] - changed[:2]).max() <= 1 < difference(one[2], changed[2])


def test_seeds_decide_the_noise(methods, editor, item, quick):
    clips, other = clips_of(editor, item), Clips(editor, [item], 1)
    other.content = clips.content
    edits = [methods["sdedit-per-frame"].edit(c, SETTING, 4) for c in (clips, clips, other)]
    assert np.array_equal(edits[0], edits[1]) and difference(edits[0], edits[2]) > 1


# ---- along the flow


def test_a_first_frame_is_carried_on_by_a_known_translation():
    first = np.random.default_rng(0).integers(0, 256, (1, 12, 16, 3), np.uint8)
    backward = np.zeros((1, 3, 12, 16, 2), np.float32)
    backward[..., 0] = -2  # what is seen came from two pixels further left
    frames = carry_on(first, backward)
    assert frames.shape == (1, 4, 12, 16, 3)
    for i in range(4):
        assert np.array_equal(frames[0, i, :, 2 * i :], first[0, :, : 16 - 2 * i])
        # What has come into view has the colour of the nearest edge.
        assert np.array_equal(frames[0, i, :, 0], first[0, :, 0])


def test_the_first_frame_is_edited_as_a_picture_and_moves_with_the_source(editor, item, quick):
    still = np.repeat(item.frames[:1], 3, axis=0)
    (method,) = make_methods(["propagate-first-frame"], editor, {})
    frames = method.edit(clips_of(editor, item, still), SETTING, 1)[0]
    assert np.array_equal(frames, np.repeat(frames[:1], 3, axis=0))
    assert difference(frames[0], still[0]) > 1
    assert method.identity(item) == {} and method.controls == ("structure_level", "guidance_scale")


def test_warp_and_renoise_begins_as_sdedit_and_goes_on_from_its_own_output(
    methods, editor, item, quick
):
    still = clips_of(editor, item, np.repeat(item.frames[:1], 3, axis=0))
    first, second, _ = methods["warp-and-renoise"].edit(still, SETTING, 4)[0]
    one = clips_of(editor, item, item.frames[:1])
    one.content = still.content
    for number, start, frame in ((0, item.frames[0], first), (1, first, second)):
        one.frames = start[None, None]
        one.kept.clear()
        one.seeds = [noise_seed(seed, str(number)) for seed in still.seeds]
        wanted = methods["sdedit-per-frame"].edit(one, SETTING, 4)[0, 0]
        assert difference(frame, wanted) < 0.1
    assert difference(first, second) > 1


# ---- models


def test_the_model_is_a_part_of_what_edits_depend_on(methods, item):
    digests = {name: method.identity(item)["rival"] for name, method in methods.items()}
    assert digests["sdedit-per-frame"] == digests["warp-and-renoise"]
    assert digests["sdedit-per-frame"] != digests["depth-per-frame"]


def test_a_stage_keeps_the_schedule_of_its_training(editor, micro_run, tmp_path):
    def stage(**loss):
        (tmp_path / "config.json").write_text(json.dumps({"loss": loss}))
        (method,) = make_methods(["sdedit-video"], editor, {"video": tmp_path / "model"})
        return method._stage

    (tmp_path / "model").symlink_to(micro_run / "image" / "model")
    plain, noise, zero = (
        stage(),
        stage(prediction_type="epsilon"),
        stage(zero_terminal_snr=True),
    )
    assert noise.schedule.prediction_type == "epsilon"
    assert float(zero.schedule.alphas_cumprod[-1]) == 0 < float(plain.schedule.alphas_cumprod[-1])
    assert len({plain.digest, noise.digest, zero.digest}) == 3


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sdedit-per-frame", {"in_channels": 12}, "12 channels; one without structure"),
        ("depth-per-frame", {}, "4 channels; one with structure"),
        ("sdedit-video", {"cross_attention_dim": 8}, "content of width 8; the pipeline's has 16"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(name, change, message, editor, micro_run, tmp_path):
    module, _ = load_model(micro_run / "image" / "model")
    module = module.clone(**change)
    save_model(tmp_path / "model", module, drawn_params(module))
    models = dict.fromkeys(("image", "video", "depth"), tmp_path / "model")
    with pytest.raises(UserError, match=message):
        make_methods([name], editor, models)


def parse(*arguments, model):
    parser = argparse.ArgumentParser()
    add_method_arguments(parser)
    args = parser.parse_args(arguments)
    args.model = model
    return args


def test_models_are_those_of_the_run_unless_given(micro_run, depth_model):
    asked = ("--method", "sdedit-per-frame", "sdedit-video", "depth-per-frame")
    args = parse(*asked, "--depth-model", str(depth_model), model=micro_run / "pipeline")
    assert find_models(args) == {
        "image": micro_run / "image" / "model",
        "video": micro_run / "video" / "model",
        "depth": depth_model,
    }
    with pytest.raises(UserError, match="rival_depth.*--depth-model"):
        check_method_arguments(parse(*asked, model=micro_run / "pipeline"))


# ---- results of other systems


def clip(name: str = "films/wolf.mp4#a1") -> Item:
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)
    return Item(clip=name, video="wolf", frames=frames, prompt="a dog")


def test_results_are_found_by_the_clips_name(tmp_path):
    from PIL import Image

    item, outputs = clip(), Outputs("vace", tmp_path)
    assert outputs.name == "outputs:vace" and outputs.controls == ()
    with pytest.raises(UserError, match=r"no result of the clip films/wolf.mp4#a1; films-wolf"):
        outputs.identity(item)
    folder = tmp_path / "films-wolf.mp4-a1"
    folder.mkdir()
    for i, frame in enumerate(item.frames):
        Image.fromarray(255 - frame).save(folder / f"{i:05d}.png")
    assert np.array_equal(outputs.read(item), 255 - item.frames)
    before = outputs.identity(item)
    Image.fromarray(item.frames[0]).save(folder / "00001.png")
    assert Outputs("vace", tmp_path).identity(item) != before


def test_results_of_another_size_are_scaled_and_of_another_shape_refused(tmp_path, capsys):
    item, outputs = clip("wolf"), Outputs("vace", tmp_path)
    path = tmp_path / "wolf.mp4"
    write_video(path, np.full((3, 64, 96, 3), 90, np.uint8), 8)
    frames = outputs.read(item)
    assert frames.shape == item.frames.shape and abs(int(frames.mean()) - 90) <= 3
    said = capsys.readouterr()
    assert "64x96; it is scaled to the clip's 32x48" in said.out + said.err
    write_video(path, np.full((3, 64, 64, 3), 90, np.uint8), 8, overwrite=True)
    with pytest.raises(UserError, match="64x64; the clip is 32x48, of another shape"):
        outputs.read(item)
    write_video(path, np.full((2, 32, 48, 3), 90, np.uint8), 8, overwrite=True)
    with pytest.raises(UserError, match="wolf.mp4 has 2 frames; the clip has 3"):
        outputs.read(item)


def test_one_result_is_not_taken_for_two_clips(tmp_path):
    write_video(tmp_path / "a-b.mp4", clip().frames, 8)
    outputs = Outputs("vace", tmp_path)
    assert outputs.identity(clip("a/b")) == outputs.identity(clip("a/b"))
    with pytest.raises(UserError, match="two clips, a/b and a-b"):
        outputs.identity(clip("a-b"))


@pytest.mark.parametrize("entry", ["vace", "=x", "va/ce=.", "vace="])
def test_a_wrong_folder_of_results_is_named(entry, tmp_path):
    with pytest.raises(UserError, match="NAME=DIR is accepted"):
        find_outputs(parse("--outputs", entry, model=tmp_path))
