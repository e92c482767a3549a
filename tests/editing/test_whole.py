"""Edits of whole videos: windows fused at every step, whatever the length, the pace or the mesh."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from tiny_unet import normal

from gen1_jax.diffusion.guidance import guided_prediction
from gen1_jax.diffusion.process import ddim_step, sampling_timesteps
from gen1_jax.diffusion.windows import place_windows
from gen1_jax.distributed import make_mesh
from gen1_jax.editing import VideoEditor
from gen1_jax.editing.structure import find_bounds
from gen1_jax.errors import UserError
from gen1_jax.video.io import write_video
from gen1_jax.video.streams import Stream

VIDEO = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
OPTIONS = {"prompt": "a red ball", "steps": 2, "seed": 3, "structure_level": 1}


@pytest.fixture(scope="module")
def editor(steady_editor):
    return steady_editor


def by_hand(editor, video, windows) -> np.ndarray:
    """The same edit with loops in the place of programs."""
    conditioner, params = editor.conditioner, editor.params
    depth = np.asarray(editor.estimate_depth(video[None]))
    low, high = np.quantile(depth, conditioner.recipe.depth.range)
    level = np.array([OPTIONS["structure_level"]])
    structure = jax.jit(conditioner.encode_structure)(params, depth.clip(low, high), level)[0]
    content = editor.text_content([OPTIONS["prompt"]], OPTIONS["seed"])[:, None]
    z = jax.random.normal(jax.random.key(OPTIONS["seed"]), structure.shape)

    @partial(jax.jit, static_argnames="num_video_branches")
    def network(*arguments, **keywords):
        return editor.unet.apply({"params": params["unet"]}, *arguments, **keywords)

    for t, t_next in zip(*sampling_timesteps(1000, OPTIONS["steps"]), strict=True):
        total = np.zeros(z.shape)
        for frames, weights in zip(*windows, strict=True):
            prediction = guided_prediction(
                network, z[frames][None], np.array([t]), content, structure[frames][None], level,
                1.0, editor.settings["guidance_scale"],
            )  # fmt: skip
            total[frames] += weights[:, None, None, None] * prediction[0]
        z = ddim_step(editor.schedule, total.astype(np.float32), z, t, t_next)
    return np.asarray(jax.jit(conditioner.decode)(params, z[None])[0])


@pytest.mark.parametrize(("overlap", "stride"), [(2, 1), (1, 2)])
def test_windows_are_fused_at_every_step(editor, overlap, stride):
    options = {"window": 4, "overlap": overlap, "window_stride": stride}
    edit = editor.edit(VIDEO, **OPTIONS, **options)
    wanted = by_hand(editor, VIDEO, place_windows(9, 4, overlap, stride))
    assert np.abs(edit.frames.astype(int) - wanted).max() <= 1
    np.testing.assert_array_equal(edit.source, VIDEO)
    assert edit.structure.shape == (9, 16, 16) and len(edit) == 9
    # Streams may be gone through again, and give the same.
    again = list(edit.streams.frames.pieces(4))
    assert [len(piece) for piece in again] == [4, 4, 1]
    np.testing.assert_array_equal(np.concatenate(again), edit.frames)


def test_solvers_and_lengths_between_powers_of_two_share_a_program(editor):
    options = OPTIONS | {"window": 4, "overlap": 2}
    predict = editor._whole._sampler._predict
    editor.edit(VIDEO[:8], **options)  # three windows
    programs = predict._cache_size()
    edit = editor.edit(VIDEO, **options)  # four
    for solver in ("dpm++", "unipc"):  # as do all solvers
        other = editor.edit(VIDEO, **options, solver=solver)
        assert np.abs(other.frames.astype(int) - edit.frames).max() > 5
    assert predict._cache_size() == programs


def test_devices_share_the_windows(editor, micro_run):
    """Over eight devices, at any batch size, the edit is the same."""
    mesh = make_mesh(data=2, frames=4)
    spread = VideoEditor.load(micro_run / "pipeline", mesh=mesh)
    spread.params = jax.device_put(editor.params, spread._everywhere)
    options = OPTIONS | {"window": 4, "overlap": 2}
    one = editor.edit(VIDEO, **options, batch_size=3)
    many = spread.edit(VIDEO, **options)
    assert np.abs(one.frames.astype(int) - many.frames).max() <= 1
    np.testing.assert_allclose(one.structure, many.structure, atol=1e-5)


def test_a_file_is_edited_whole(editor, tmp_path, monkeypatch):
    write_video(tmp_path / "film", VIDEO, 24)
    trained = {"size": [16, 16], "sizes": None, "num_frames": 4}
    monkeypatch.setattr(editor, "settings", editor.settings | trained)
    whole = editor.edit(tmp_path / "film", **OPTIONS)
    assert whole.fps == 24 and len(whole) == 9
    np.testing.assert_array_equal(whole.source, VIDEO)
    plain = editor.edit(VIDEO, window=4, **OPTIONS)
    np.testing.assert_array_equal(whole.frames, plain.frames)
    part = editor.open(tmp_path / "film", start=2, stride=3, num_frames=2)
    edit = editor.edit(part, **OPTIONS)
    assert edit.fps == 8 and len(edit) == 2
    np.testing.assert_array_equal(edit.source, VIDEO[[2, 5]])


def test_each_frame_alone_needs_no_overlap(editor):
    alone = editor.edit(VIDEO, per_frame=True, window=4, **OPTIONS)
    changed = VIDEO.copy()
    changed[8] = 0
    # The depth of the last frame changes the range of all, so a map is given.
    maps = np.random.default_rng(1).random((9, 16, 16))
    first = editor.edit(VIDEO, per_frame=True, window=4, structure=maps, **OPTIONS)
    other = editor.edit(changed, per_frame=True, window=4, structure=maps, **OPTIONS)
    np.testing.assert_array_equal(first.frames, other.frames)
    assert alone.frames.shape == VIDEO.shape


def test_bounds_are_quantiles_of_all_frames():
    maps = np.asarray(normal(0, 5, 6, 7))
    np.testing.assert_allclose(
        find_bounds(Stream.of(maps), (0.1, 0.8)), np.quantile(maps, (0.1, 0.8)), rtol=1e-6
    )
    np.testing.assert_array_equal(find_bounds(Stream.of(maps)), [maps.min(), maps.max()])
    flat = np.zeros((5, 6, 7))
    flat[2, 3, 3] = 1  # both quantiles are 0, so the extremes count
    np.testing.assert_array_equal(find_bounds(Stream.of(flat), (0.01, 0.99)), [0, 1])


# ---- content, starts and variations


def test_contents_are_mixed_and_change_over_time(editor, tmp_path):
    write_video(tmp_path / "film", VIDEO, 24)  # 4.5 s at the rate below
    film = dataclasses.replace(editor.open(tmp_path / "film", size=(16, 16)), fps=2)
    options = {"steps": 2, "seed": 3, "window": 4, "overlap": 2, "structure": VIDEO[..., 0]}
    red = editor.edit(film, prompt="a red ball", **options)
    blue = editor.edit(film, prompt="a blue box", **options)
    both = editor.edit(film, prompt=["0s: a red ball", "3s: a blue box"], **options)
    np.testing.assert_array_equal(both.frames[:2], red.frames[:2])  # of windows before 3 s
    assert (both.frames[-1] != red.frames[-1]).any() and (red.frames != blue.frames).any()
    with pytest.raises(UserError, match=r"a prompt at 5s; the video ends at 4.5s"):
        editor.edit(film, prompt={0: "a red ball", 5: "a blue box"}, **options)
    picture, other = VIDEO[0], VIDEO[5]

    def like(image, **more):
        return editor.edit(film, image=image, **options, **more).frames

    one = like([picture, other], image_shares=[1, 0])
    np.testing.assert_allclose(one, like(picture), rtol=0, atol=1)  # a slerp may round otherwise
    mixed = like([picture, other])
    assert (mixed != like(picture)).any() and (mixed != like(other)).any()
    np.testing.assert_array_equal(like(picture, prompt="a red ball", image_weight=0.0), red.frames)
    write_video(tmp_path / "example.gif", VIDEO[:3], 8)
    assert like(tmp_path / "example.gif").shape == VIDEO.shape


def test_a_negative_prompt_stands_in_the_place_of_none(editor):
    options = OPTIONS | {"window": 4, "overlap": 2}
    plain = editor.edit(VIDEO, **options, guidance_scale=3.0)
    led = editor.edit(VIDEO, **options, guidance_scale=3.0, negative_prompt="a blue box")
    assert (plain.frames != led.frames).any()
    # With the content itself in that place guidance has nothing to lead to.
    own = {"negative_prompt": OPTIONS["prompt"]}
    weak, strong = (
        editor.edit(VIDEO, **options, **own, guidance_scale=scale).frames for scale in (1.0, 9.0)
    )
    assert np.abs(weak.astype(int) - strong).max() <= 1


def test_a_weak_start_keeps_the_source_and_seeds_alone_differ(editor):
    options = OPTIONS | {"window": 4, "overlap": 2, "steps": 10}
    kept = np.asarray(
        editor.conditioner.decode(
            editor.params, editor.conditioner.encode_frames(editor.params, VIDEO[None])
        )[0]
    ).astype(int)
    far = [
        np.abs(editor.edit(VIDEO, **options, strength=strength).frames - kept).mean()
        for strength in (0.1, 0.5, 1.0)
    ]
    assert far[0] < far[1] < far[2]
    options = OPTIONS | {"window": 4, "overlap": 2}
    shown = []
    several = editor.vary(
        VIDEO,
        3,
        **options,
        on_preview=lambda number, decode: shown.append((number, decode().shape)),
    )
    assert shown == [(1, (4, 16, 16, 3)), (2, (4, 16, 16, 3))]
    for number, edit in enumerate(several):
        alone = editor.edit(VIDEO, **options | {"seed": OPTIONS["seed"] + number})
        assert np.abs(edit.frames.astype(int) - alone.frames).max() <= 1
    assert (several[0].frames != several[1].frames).any()
    with pytest.raises(UserError, match="3 variations from seed 4294967294 on; seeds end at"):
        editor.vary(VIDEO, 3, **options | {"seed": 2**32 - 2})
