"""Edits and pipelines that are not accepted are refused in one line, which says what is."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_unet import normal

from gen1_jax.controls import Controls
from gen1_jax.editing import VideoEditor
from gen1_jax.errors import UserError

CLIPS = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), np.uint8)
GREY = Image.fromarray(CLIPS[0, 0, ..., 0])


# ---- controls


@pytest.mark.parametrize(
    ("controls", "words"),
    [
        ({"structure_level": 8}, "structure level 8"),
        ({"structure_level": -1}, "structure level -1"),
        ({"structure_level": 1.5}, "structure level 1.5"),
        ({"structure_level": np.array([0, 9])}, "structure level .*9"),
        ({"temporal_scale": float("nan")}, "temporal scale nan"),
        ({"guidance_scale": np.array([1.0, np.inf])}, "guidance scale .*inf"),
        ({"steps": 0}, "steps 0"),
        ({"steps": 1001}, "steps 1001"),
        ({"steps": 2.5}, "steps 2.5"),
        ({"steps": "2"}, "steps '2'; whole numbers 1 to 1000"),
        ({"steps": True}, "steps True"),
        ({"structure_level": "0"}, "structure level '0'; whole numbers 0 to 7"),
        ({"structure_level": None}, "structure level None"),
        ({"structure_level": [[0], [1, 2]]}, "structure level .*whole numbers"),
        ({"temporal_scale": "1"}, "temporal scale '1'; a finite number"),
        ({"temporal_scale": None}, "temporal scale None"),
        ({"guidance_scale": 1j}, "guidance scale 1j"),
    ],
)
def test_controls_out_of_range(editor, controls, words):
    with pytest.raises(UserError, match=words):
        Controls(**controls).check()
    with pytest.raises(UserError, match=words):
        editor.edit_batch(CLIPS, normal(1, 2, 16), **controls)


# ---- frames, content and maps


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"frames": CLIPS[0, ..., :2]}, r"frames are uint8 \[3, 16, 16, 2\]; .*\[n H W 3\] uint8"),
        ({"frames": CLIPS[0].astype(float)}, "frames are float64"),
        ({"frames": CLIPS[0, :0]}, "frames are uint8 .*uint8"),
        ({"frames": CLIPS[0, 0]}, r"frames are uint8 \[16, 16, 3\]"),
        ({"frames": CLIPS[0, :, :15]}, "15 x 16.*multiples of 2"),
        ({"window": 17}, "a window of 17 frames; this model takes at most 16"),
        ({"window": 0}, "window 0; 1 or more is accepted"),
        ({"window": 4, "overlap": 4}, "overlap 4; 0 to 3 are accepted, below the window"),
        ({"overlap": -1}, "overlap -1; 0 or more"),
        ({"window_stride": 0}, "window stride 0; 1 or more"),
        ({"batch_size": "2"}, "batch size is '2'; a whole number"),
        ({"frames": 3}, r"frames is 3 \(int\); a path"),
        ({"frames": None}, r"frames is None \(NoneType\); a path"),
        ({"frames": []}, r"frames are float64 \[0\]"),
        ({"frames": [[1], [2, 3]]}, "frames: .*a path"),
        ({"frames": [GREY, GREY.resize((4, 4))]}, "pictures of several sizes"),
        ({"frames": "nowhere.mp4"}, "nowhere.mp4: no such file"),
        (
            {"structure": np.zeros((2, 16, 16))},
            "has 2 frames; accepted are 3, .* or 1 for all$",
        ),
        ({"structure": np.full((3, 16, 16), np.nan)}, "NaN or infinite"),
        ({"structure": np.zeros(3)}, r"float64 \[3\] is no structure map"),
        ({"structure": "nowhere.npy"}, "nowhere.npy: no such file"),
        ({"structure": 3}, r"structure is 3 \(int\); a path"),
        ({"structure": ""}, "'' .str. was given; accepted: a path"),
        ({"structure": CLIPS[0, ..., 0], "depth": 3}, "structure is 3"),
        (
            {"structure_kind": "cany"},
            "structure kind 'cany'; accepted: depth.*did you mean 'canny'",
        ),
        (
            {"structure_kind": "canny"},
            "trained on structure of depth, not of canny; --any-structure",
        ),
        ({"structure": CLIPS[0, ..., 0], "structure_kind": "edges"}, "of depth, not of edges"),
        ({"structure_kind": "truth:masks", "any_structure": True}, "moving-shapes world alone"),
        ({"any_structure": 1}, "any_structure is 1; True or False"),
        ({"no_structure": True}, "not trained to do without structure"),
        ({"no_structure": True, "structure_level": 2}, "no_structure leaves nothing for structure"),
        ({"prompt": None}, "prompt or an image"),
        ({"prompt": ["a", "b"]}, "the prompt 'a' says no time; with several prompts each begins"),
        ({"prompt": ["2s: a", "2s: b"]}, "a prompt at 2s after one at 2s; times rise"),
        ({"prompt": ["0s: a", "2s: b"]}, "prompts over time need the frames' rate"),
        ({"prompt": {0: "a", -1: "b"}}, r"prompts at \[-1\]; times in seconds, 0 or more"),
        ({"prompt": {0: "a", 1: " "}}, "the prompt is empty"),
        ({"negative_prompt": ""}, "the prompt is empty"),
        ({"blend": "sum"}, "blend 'sum'; slerp and mean are accepted"),
        ({"strength": 0}, "strength 0; a number above 0, up to 1 is accepted"),
        ({"strength": "1"}, "strength '1'; a number above 0"),
        ({"image_weight": 1.5}, "image_weight 1.5; a number 0 to 1 is accepted"),
        ({"image": [CLIPS[0, 0]] * 2, "image_shares": [1]}, "1 weights for 2 pictures"),
        ({"image": [CLIPS[0, 0]] * 2, "image_shares": [1, -1]}, r"weights \[1.0, -1.0\]; 0 or"),
        ({"prompt": b"a"}, "a text is accepted"),
        ({"prompt": None, "image": CLIPS[0]}, r"image is uint8 \[3, 16, 16, 3\]; a path, a Pillow"),
        ({"prompt": None, "image": 3}, r"image is 3 \(int\); a path"),
        ({"prompt": None, "image": "nowhere.png"}, "nowhere.png: no such file"),
        ({"prompt": " "}, "the prompt is empty"),
        ({"seed": "1"}, "seed '1'; whole numbers 0 to 4294967295"),
        ({"seed": -1}, "seed -1"),
        ({"temporal_scale": [1.0, 2.0]}, "edit accepts one number"),
        ({"promt": "a"}, "no keyword 'promt'; did you mean 'prompt'"),
        ({"num_frames": 3}, "no keyword 'num_frames'.*accepted: any_structure, batch_size"),
    ],
)
def test_wrong_arguments_are_refused(editor, arguments, words):
    arguments = {"frames": CLIPS[0], "prompt": "a red ball"} | arguments
    with pytest.raises(UserError, match=words) as caught:
        editor.edit(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"frames": CLIPS[0]}, r"clips of uint8 \[3, 16, 16, 3\]; \[b n H W 3\]"),
        ({"content": normal(1, 3, 16)}, r"content of \[3, 16\]; \[2, 16\] is accepted"),
        ({"content": "a red ball"}, r"content of \[\]"),
        ({"structure": np.zeros((2, 3, 8, 8))}, r"structure map of \[2, 3, 8, 8\]; \[2, 3, 16"),
        ({"no_structure": True}, "not trained to do without structure"),
        ({"temporal_scale": [1.0] * 3}, r"temporal_scale of \[3\]; one number .* \[2\]"),
        ({"stepz": 1}, "no keyword 'stepz'; did you mean 'steps'"),
    ],
)
def test_wrong_batches_are_refused(editor, arguments, words):
    with pytest.raises(UserError, match=words):
        editor.edit_batch(**{"frames": CLIPS, "content": normal(1, 2, 16)} | arguments)


def test_wrong_content_and_places_are_refused(editor, micro_run):
    for call, words in (
        (lambda: editor.image_content(CLIPS), r"images of uint8 .*\[b H W 3\]"),
        (lambda: editor.text_content("a red ball"), "a list of texts is accepted"),
        (
            lambda: VideoEditor.load(3),
            r"3 \(int\) was given; accepted: the `pipeline` folder of a run",
        ),
        (
            lambda: VideoEditor.load(micro_run / "pipeline", dtype="int8"),
            "dtype is 'int8'; float32",
        ),
        (lambda: VideoEditor.load(micro_run / "pipeline", mesh="data=2"), "mesh is 'data=2'"),
    ):
        with pytest.raises(UserError, match=words):
            call()


# ---- pipelines


@pytest.mark.parametrize(
    ("part", "source", "words"),
    [
        ("unet", "autoencoder", "unet holds AutoencoderKL; unet must be VideoUNet"),
        ("unet", "image", "in_channels .*is 4; .* take 12"),
        ("vae", "depth", "vae must be AutoencoderKL"),
        ("prior", None, "no model folder"),
        ("tokenizer", None, "no tokenizer"),
    ],
)
def test_pipelines_of_wrong_parts_are_refused(micro_run, tmp_path, part, source, words):
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    for path in (micro_run / "pipeline").iterdir():
        (pipeline / path.name).symlink_to(path)
    (pipeline / part).unlink()
    if source:
        shutil.copytree(micro_run / source / "model", pipeline / part)
    with pytest.raises(UserError, match=words) as caught:
        VideoEditor.load(pipeline)
    assert "\n" not in str(caught.value)


def test_a_schedule_that_we_do_not_have_is_refused(micro_run, tmp_path):
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    for path in (micro_run / "pipeline").iterdir():
        (pipeline / path.name).symlink_to(path)
    settings = json.loads((pipeline / "gen1.json").read_text())
    settings["schedule"]["betas"] = 3
    (pipeline / "gen1.json").unlink()
    (pipeline / "gen1.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="gen1.json.*betas"):
        VideoEditor.load(pipeline)
