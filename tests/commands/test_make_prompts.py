"""`gen1 prompts`: captions given or by a model, prompts by templates or by a model, resumed."""

import json
import shutil
import sys
from pathlib import Path

import language_models
import numpy as np
import pytest
import transformers
import video_files
from command_line import gen1, refused
from PIL import Image

from gen1_jax.evaluation.edit_prompts.captions import QUESTION, Captioner, middle_frame
from gen1_jax.evaluation.prompts.reading import read_prompts
from gen1_jax.video.io import write_video

CAPTION = "a red dog runs on the grass"
ANSWERS = {
    "object": "a red cat runs on the grass",
    "environment": "a red dog runs on the snow",
    "style": "Sure! here it is",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models")
    language_models.save_blip(path / "blip")
    language_models.save_git(path / "git")
    language_models.save_llava(path / "llava")
    language_models.save_llm(path / "llm", CAPTION, ANSWERS)
    return path


@pytest.fixture
def films(tmp_path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for number in range(3):
        write_video(folder / f"film{number}.mp4", video_files.clip(5, 24, 32)[:, :, ::-1], 24)
    return folder


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_middle_frame_is_shown(tmp_path):
    frames = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.full((1, 16, 16, 3), 20, "u1")
    write_video(tmp_path / "film.mp4", frames, 24)
    assert abs(middle_frame(tmp_path / "film.mp4").mean() - 80) < 3
    Image.fromarray(frames[3]).save(tmp_path / "still.png")
    np.testing.assert_array_equal(middle_frame(tmp_path / "still.png"), frames[3])


@pytest.mark.parametrize("name", ["blip", "git"])
def test_captions_are_those_of_transformers(models, name):
    kind = {"blip": "BlipForConditionalGeneration", "git": "GitForCausalLM"}[name]
    model = getattr(transformers, kind).from_pretrained(models / name)
    processor = transformers.AutoProcessor.from_pretrained(models / name)
    frame = video_files.clip(1, 24, 32)[0]
    inputs = processor(images=Image.fromarray(frame), return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=60, do_sample=False)
    expected = processor.decode(tokens[0], skip_special_tokens=True)
    said = Captioner(models / name)(frame)
    assert said == expected and set(said.split()) <= set(language_models.WORDS) and said


def test_a_model_to_chat_with_is_asked_about_the_picture(models):
    frame = video_files.clip(1, 24, 32)[0]
    content = [
        {"type": "image", "image": Image.fromarray(frame)},
        {"type": "text", "text": QUESTION},
    ]
    chat = transformers.pipeline("image-text-to-text", model=str(models / "llava"))
    (said,) = chat(
        text=[{"role": "user", "content": content}],
        return_full_text=False,
        max_new_tokens=60,
        generate_kwargs={"do_sample": False},
    )
    assert Captioner(models / "llava")(frame).split() == said["generated_text"].split() != []


def test_videos_are_captioned_once_and_prompts_are_read_back(
    films, models, tmp_path, capsys, monkeypatch
):
    output, shown = tmp_path / "made" / "prompts.jsonl", []
    monkeypatch.setattr(
        "gen1_jax.evaluation.edit_prompts.making.middle_frame",
        lambda path: shown.append(path.name) or middle_frame(path),
    )
    (films / "film1.txt").write_text("A brown dog runs in a park.")
    words = ("prompts", films, "--captioner", models / "blip", "-o", output)
    code, out, err = gen1(capsys, *words, "--no-progress")
    assert code == 0, err
    assert "captions: 1 given, 2 by" in out and shown == ["film0.mp4", "film2.mp4"]
    lines = read(output)
    assert {tuple(line) for line in lines} == {("video", "prompt", "source_prompt", "kind")}
    own = [line for line in lines if line["video"] == "../films/film1.mp4"]
    assert {line["source_prompt"] for line in own} == {"A brown dog runs in a park"}
    assert [line["kind"] for line in own] == ["object", "surface", "environment", "style"]
    assert len(read_prompts(output).rows) == len(lines)
    # Again, one film more: the others are not shown to the model.
    shutil.copy(films / "film0.mp4", films / "film3.mp4")
    refused(capsys, *words, culprit="prompts.jsonl exists; add --overwrite")
    first = output.read_text()
    code, _, err = gen1(capsys, *words, "--overwrite", "--no-progress")
    assert code == 0 and shown == ["film0.mp4", "film2.mp4", "film3.mp4"], err
    assert output.read_text().startswith(first)
    # What the model said is a manifest.
    kept = output.with_name("prompts.captions.jsonl")
    code, out, err = gen1(capsys, "prompts", kept, "-o", output.with_name("b.jsonl"))
    assert code == 0 and "captions: 3 given\n" in out, err
    # Another model, or another file under the name, is captioned anew.
    shutil.copy(films / "film1.mp4", films / "film2.mp4")
    gen1(capsys, *words, "--overwrite", "--no-progress")
    assert shown[3:] == ["film2.mp4"]


def test_a_language_model_writes_prompts_and_bad_answers_are_counted(
    films, models, tmp_path, capsys, monkeypatch
):
    manifest, output = tmp_path / "captions.csv", tmp_path / "prompts.jsonl"
    manifest.write_text(f"path,caption\nfilms/film0.mp4,{CAPTION}\n")
    words = ("prompts", manifest, "--llm", models / "llm", "-o", output, "--no-progress")
    code, out, err = gen1(capsys, *words, "--kinds", *ANSWERS)
    assert code == 0, err
    assert {line["kind"]: line["prompt"] for line in read(output)} == {
        kind: ANSWERS[kind] for kind in ("object", "environment")
    }
    assert "3 of 5 answers are no prompts: 3 talks, and is no caption" in out
    assert (
        f"style: 1 of 1 videos have fewer than 1 prompt (first: films/film0.mp4: {CAPTION})" in out
    )
    # Again, without the model: what it said is kept.
    monkeypatch.setattr("gen1_jax.evaluation.edit_prompts.making.Writer", None)
    first = output.read_text()
    code, again, err = gen1(capsys, *words, "--kinds", *ANSWERS, "--overwrite")
    assert (code, again, output.read_text()) == (0, out, first), err


def test_what_cannot_be_used_ends_in_one_line(films, models, tmp_path, capsys, monkeypatch):
    output = tmp_path / "prompts.jsonl"
    words = ("prompts", films, "-o", output, "--no-progress")
    refused(capsys, *words, culprit="film0.mp4: has no caption; --captioner FOLDER")
    refused(capsys, *words[:-1], "--each", "0", culprit="--each 0; 1 or more")
    refused(capsys, "prompts", films, "-o", tmp_path / "p.csv", culprit=r"ends in \.jsonl")
    refused(capsys, *words, "--captioner", films, culprit="holds no config.json")
    refused(capsys, *words, "--llm", models / "no", culprit="no such folder")
    pickled = tmp_path / "pickled"
    shutil.copytree(models / "blip", pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(capsys, *words, "--captioner", pickled, culprit="holds no safetensors")
    refused(capsys, *words, "--captioner", models / "llm", culprit="llm cannot be read: ")
    broken = tmp_path / "broken"
    shutil.copytree(models / "blip", broken)
    (broken / "model.safetensors").write_bytes(b"no tensors")
    refused(capsys, *words, "--captioner", broken, "--keep-going", culprit="broken cannot be read")
    for film in films.iterdir():
        film.with_suffix(".txt").write_text("something")
    kinds = ("--kinds", "object")
    refused(capsys, *words, *kinds, culprit="object: 3 of 3 videos have fewer than 1 prompt")
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(
        capsys, *words, "--captioner", models / "blip", culprit=r"pip install 'gen1-jax\[torch\]'"
    )
    assert not output.exists()


def test_videos_that_cannot_be_read_are_counted_if_asked(films, models, tmp_path, capsys):
    output = tmp_path / "prompts.jsonl"
    (films / "film1.mp4").write_bytes(b"no video")
    words = ("prompts", films, "--captioner", models / "blip", "-o", output, "--no-progress")
    refused(capsys, *words, culprit="film1.mp4")
    assert not output.exists()
    code, out, err = gen1(capsys, *words, "--keep-going")
    assert code == 0 and "captions: 0 given, 2 by" in out
    assert "left out: 1 videos" in err and "film1.mp4" in err
    assert {line["video"] for line in read(output)} == {"films/film0.mp4", "films/film2.mp4"}
