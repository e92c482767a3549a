"""The networks that measure, against transformers' own processors and models."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from gen1_jax import cli
from gen1_jax.errors import UserError
from gen1_jax.evaluation.clip_judge import ClipJudge, find_parts
from gen1_jax.evaluation.crops import crop_objects, fit_picture, object_box
from gen1_jax.evaluation.fvd import VideoFeatures, check_folder
from gen1_jax.evaluation.judges import Judges
from gen1_jax.evaluation.metrics.consistency import frame_consistency, prompt_consistency
from gen1_jax.evaluation.sweep import run_sweep
from gen1_jax.evaluation.world_items import world_items
from gen1_jax.video.io import read_video

SIDE = 32
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
PROMPTS = ["a red ball", "a blue cube on grass"]


@pytest.fixture(scope="module")
def clip_folder(micro_run, tmp_path_factory):
    """A CLIP as transformers saves it, with the micro run's tokenizer beside its weights."""
    folder = tmp_path_factory.mktemp("clips") / "another-clip"
    tokenizer = transformers.CLIPTokenizer.from_pretrained(micro_run / "tokenizer")
    text = TOWER | {
        "num_attention_heads": 4,
        "vocab_size": 512,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = TOWER | {"num_attention_heads": 4, "image_size": SIDE, "patch_size": 8}
    # Random numbers so large that pictures and texts differ as in a trained CLIP.
    config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=24, initializer_factor=8.0
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def judge(clip_folder, editor):
    return ClipJudge.load(clip_folder, editor.mesh, "--metric-clip")


def theirs(folder, pictures, texts=PROMPTS) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of pictures and texts by transformers alone."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    size = model.config.vision_config.image_size
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    with torch.no_grad():
        output = model(
            pixel_values=torch.from_numpy(np.stack(processor(pictures)["pixel_values"])),
            **tokenizer(texts, padding=True, return_tensors="pt"),
        )
    return output.image_embeds.numpy(), output.text_embeds.numpy()


def draw_frames(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Frames with edges and fine noise, which a resize without antialiasing would alias."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (count, height, width, 3), np.uint8) // 2
    for i, frame in enumerate(frames):
        frame[height // 4 : height // 2, (i + 1) * width // 8 :, i % 3] += 120
        frame[:, ::2] //= i + 1
    return frames


@pytest.mark.parametrize("height, width", [(31, 40), (486, 270)])
def test_measures_of_png_frames_equal_transformers(
    judge, clip_folder, tmp_path, quick, height, width
):
    drawn = draw_frames(4, height, width)
    for i, frame in enumerate(drawn):
        Image.fromarray(frame).save(tmp_path / f"{i:03d}.png")
    frames = read_video(tmp_path, num_frames=4).frames
    pictures = [Image.open(path) for path in sorted(tmp_path.glob("*.png"))]
    images, texts = theirs(clip_folder, pictures)
    found = judge.embed(frames[None]), judge.embed_text(PROMPTS[:1])
    wanted = images[None], texts[:1]
    consistency = frame_consistency(wanted[0])
    assert consistency < 0.99  # frames differ, so that the comparison says something
    np.testing.assert_allclose(frame_consistency(found[0]), consistency, atol=1e-3)
    np.testing.assert_allclose(prompt_consistency(*found), prompt_consistency(*wanted), atol=1e-3)
    unlike = judge.embed(frames[None, :, ::-1])  # upside down: measures tell frames apart
    assert abs(prompt_consistency(unlike, found[1]) - prompt_consistency(*wanted)) > 1e-3


def test_pictures_and_objects_are_seen_as_transformers_sees_them(judge, clip_folder, quick):
    picture = draw_frames(1, 75, 200)[0]
    images, texts = theirs(clip_folder, [Image.fromarray(picture)])
    found = judge.embed_pictures(fit_picture(picture, judge.size)[None])
    np.testing.assert_allclose(prompt_consistency(found[None], images), 1, atol=1e-6)
    masks = np.zeros((1, 1, 75, 200), bool)
    masks[0, 0, 30:50, 100:117] = True
    cut = Image.fromarray(picture).crop(object_box(masks[0, 0]))
    crops, _ = crop_objects(picture[None, None], masks, judge.size)
    images, _ = theirs(clip_folder, [cut])
    np.testing.assert_allclose(prompt_consistency(judge.embed(crops), images), 1, atol=1e-6)


def test_pickscore_is_the_scaled_cosine(judge, clip_folder, quick):
    """As yuvalkirstain/PickScore's README: exp(logit_scale) x cosine, which is logits_per_text."""
    frames = draw_frames(3, 40, 40)
    model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    images, texts = theirs(clip_folder, [Image.fromarray(frame) for frame in frames])
    expected = model.logit_scale.exp().item() * (texts[:1] @ images.T).mean()
    found = judge.embed(frames[None]), judge.embed_text(PROMPTS[:1])
    assert judge.logit_scale * prompt_consistency(*found) == pytest.approx(expected, abs=1e-3)


# ---- a CLIP for measuring alone


@pytest.fixture(scope="module")
def items(micro_run):
    found = world_items(micro_run / "world", "test", "test", 3)
    more = {"source_prompt": "a green ball", "image": draw_frames(1, 40, 50)[0]}
    return [dataclasses.replace(item, **more) for item in found]


def test_records_say_which_clip_measured(editor, clip_folder, items, micro_run, quick, tmp_path):
    names = ("prompt_consistency", "clip_score_frame", "clip_score_text", "pickscore")
    names += ("clip_success", "directional_similarity", "image_prompt_consistency")
    names += ("object_prompt_consistency",)
    options = {"num_steps": 1, "batch_size": 3, "progress": False}

    def sweep(metrics=names, **networks):
        made, judges = [], Judges(editor, **networks)
        options["on_edit"] = lambda *edit: made.append(edit)
        found = run_sweep(editor, items, [{}], tmp_path, judges=judges, metrics=metrics, **options)
        return found[0], len(made)

    both = {"metric_clip": clip_folder, "pickscore": micro_run / "pipeline"}
    whole, made = sweep(**both)
    assert made == 3 and whole["metric_clip_name"].endswith("/another-clip")
    assert whole["seconds"] > 0
    assert all(isinstance(whole[name], float) for name in names)
    assert -100 <= whole["clip_score_text"] <= 100 and whole["clip_success"] in (0, 1)
    again, made = sweep(**both)
    assert made == 0 and again == whole
    _, made = sweep(("prompt_consistency",), metric_clip=clip_folder)
    assert made == 0  # one that holds more counts
    own, made = sweep(("prompt_consistency",))
    assert made == 3 and own["metric_clip_name"] == "the pipeline's own"
    assert "metric_clip" not in own and own["prompt_consistency"] != whole["prompt_consistency"]
    other, made = sweep(("pickscore",), metric_clip=clip_folder, pickscore=clip_folder)
    assert made == 3 and other["pickscore"] != whole["pickscore"]


def test_a_clip_lies_in_transformers_or_a_pipelines_layout(clip_folder, micro_run, tmp_path):
    assert find_parts(clip_folder, "--metric-clip") == (clip_folder, clip_folder)
    pipeline, run = micro_run / "pipeline", micro_run
    for folder, clip in ((pipeline, pipeline / "clip"), (run, run / "clip" / "model")):
        assert find_parts(folder, "--metric-clip") == (clip, folder / "tokenizer")
    model, words = find_parts(run / "clip", "--metric-clip")
    assert model == run / "clip" / "model" and words.resolve() == (run / "tokenizer").resolve()
    bare = shutil.copytree(clip_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("tok*"))
    for folder, said in ((tmp_path / "none", "no such folder"), (bare, "holds no tokenizer")):
        with pytest.raises(UserError, match=said):
            find_parts(folder, "--metric-clip")


def test_a_foreign_tokenizer_is_refused(clip_folder, editor, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 77}))
    with pytest.raises(UserError, match="context of 77, CLIP takes .* its own tokenizer"):
        ClipJudge.load(folder, editor.mesh, "--metric-clip")


# ---- FVD


@pytest.fixture(scope="module")
def videomae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fvd") / "videomae"
    config = transformers.VideoMAEConfig(
        **TOWER, num_attention_heads=4, image_size=32, patch_size=16, num_frames=4
    )
    torch.manual_seed(0)
    transformers.VideoMAEForVideoClassification(config).save_pretrained(folder)
    return folder


def test_video_features_are_what_the_classifier_sees(videomae):
    network = VideoFeatures(videomae)
    frames = draw_frames(8, 32, 32)
    found = network(frames)
    model = transformers.VideoMAEForVideoClassification.from_pretrained(videomae).eval()
    pixels = (frames[[0, 2, 5, 7]] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        logits = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float()[None]).logits[0]
        np.testing.assert_allclose(
            model.classifier(torch.from_numpy(found)), logits, rtol=1e-4, atol=1e-5
        )
    assert np.abs(network(frames[::-1]) - found).max() > 1e-3  # it sees the order of frames


def test_what_is_no_video_classifier_is_refused(videomae, clip_folder, tmp_path, monkeypatch):
    for folder, said in ((tmp_path / "none", "no such folder"), (clip_folder, "CLIPModel")):
        with pytest.raises(UserError, match=f"{said}.*; accepted: .* VideoMAEForVideo"):
            check_folder(folder)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        with pytest.raises(UserError, match="--fvd needs torch"):
            check_folder(videomae)
    pretrained = shutil.copytree(videomae, tmp_path / "part")
    from safetensors.torch import load_file, save_file

    weights = load_file(pretrained / "model.safetensors")
    del weights["fc_norm.weight"]
    save_file(weights, pretrained / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 parameters: fc_norm.weight"):
        VideoFeatures(pretrained)


def test_fvd_is_of_each_setting(pipeline, micro_run, videomae, tmp_path, capsys):
    command = [
        *("evaluate", "--model", str(pipeline), "--world", str(micro_run / "world")),
        *("--clips", "3", "--steps", "1", "--structure-level", "0", "7", "-o", str(tmp_path)),
        *("--no-videos", "--no-progress", "--fvd", str(videomae)),
        *("--metrics", "frame_consistency", "seconds"),
    ]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "fvd" in shown and "seconds" in shown
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    rows = metrics["fvd"]
    assert [(row["structure_level"], row["edits"], row["sources"]) for row in rows] == [
        (0, 3, 3), (7, 3, 3),
    ]  # fmt: skip
    assert all(row["fvd"] > 0 and row["backbone"].startswith("videomae ") for row in rows)
    assert metrics["measures"]["frame_consistency"]["backbone"] == "CLIP: the pipeline's own"
    assert len(list((tmp_path / "features").glob("*.npy"))) == 3 + 6
    records = (tmp_path / "records.jsonl").read_text()
    assert cli.main(command) == 0  # nothing is made again
    assert (tmp_path / "records.jsonl").read_text() == records
    assert json.loads((tmp_path / "metrics.json").read_text())["fvd"] == rows
