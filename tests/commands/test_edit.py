"""`gen1 edit`: all kinds of input are edited; the rest is refused before anything is written."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import video_files
from command_line import contents, gen1, refused
from PIL import Image

from gen1_jax.cli import make_parser
from gen1_jax.commands.edit_like import OUTSIDE
from gen1_jax.editing.record import make_record
from gen1_jax.errors import UserError
from gen1_jax.video.io import read_video, write_video
from gen1_jax.video.tags import read_tags


@pytest.fixture
def edit(pipeline, monkeypatch, capsys, tmp_path):
    """Runs `gen1 edit` in tmp_path, in one step; with a culprit, it must be refused."""
    monkeypatch.chdir(tmp_path)

    def edit(*arguments, model=pipeline, culprit=None):
        command = ["edit", *arguments]
        if "--like" not in arguments:
            command += ["--model", model]
            if "--steps" not in arguments:
                command += ["--steps", "1"]
            if "--window" not in arguments:  # one shape of program serves all tests here
                command += ["--window", "3", "--overlap", "0"]
            if "--prompt" not in arguments and "--image" not in arguments:
                command += ["--prompt", "a red ball"]
        if culprit is None:
            code, out, err = gen1(capsys, *command)
            assert code == 0 and "Traceback" not in err, err
            return out, err
        before = contents(tmp_path)
        line = refused(capsys, *command, culprit=culprit)
        assert contents(tmp_path) == before
        return line

    return edit


@pytest.fixture
def clip(tmp_path) -> Path:
    path = tmp_path / "clip.mp4"
    write_video(path, video_files.clip(8), 12)
    return path


def test_an_edit_writes_what_it_says(edit, clip, tmp_path):
    out, err = edit(clip, "-o", "new.mp4", "--frames", "3", "--save-structure", "depth.npy")
    assert not err and "new.mp4, depth.npy, new_preview.mp4" in out
    assert out.splitlines()[0] == (
        f"{clip}: frames 1 to 3 of 8 (--start, --frames, --seconds, --stride), "
        "48×64 (height × width) cropped to its middle 48×48, 25 % cut off → 32×32, the size of "
        "this model (--size, --fit)"
    )
    made = read_video(tmp_path / "new.mp4")
    assert made.frames.shape == (3, 32, 32, 3) and made.fps == 12
    assert np.load(tmp_path / "depth.npy").shape == (3, 32, 32)
    preview = read_video(tmp_path / "new_preview.mp4")
    assert len(preview) == 3 and preview.frames.shape[2] > 3 * preview.frames.shape[1] / 2


def test_a_padded_edit_has_the_shape_of_its_input(edit, clip, tmp_path):
    out, _ = edit(clip, "-o", "whole.mp4", "--frames", "3", "--fit", "pad", "--no-preview")
    assert "48×64 (height × width) → 24×32 within 32×32, padded, the size of this model" in out
    assert read_video(tmp_path / "whole.mp4").frames.shape == (3, 24, 32, 3)


def test_a_saved_structure_gives_the_same_edit(edit, clip, tmp_path):
    for name, used in (("first", "--save-structure"), ("second", "--structure-map")):
        edit(clip, "-o", name, "--frames", "3", used, "depth.npy", "--no-preview")
    first, second = (read_video(tmp_path / name).frames.astype(int) for name in ("first", "second"))
    assert np.abs(first - second).max() <= 1


def test_out_of_memory_is_one_line(edit, clip, editor, monkeypatch):
    def exhaust(*arguments):
        raise jax.errors.JaxRuntimeError("INTERNAL: YNNPACK operation failed: error allocate")

    for program, task in (("_decode", "decoding"), ("_map", "estimating depth of")):
        monkeypatch.setattr(editor._whole._pieces, program, exhaust)
        line = edit(clip, "--frames", "3", culprit=f"out of memory while {task} 3 frames;")
        assert "--size" in line


def test_an_edit_like_a_picture(edit, clip, tmp_path):
    Image.fromarray(video_files.clip(1)[0]).save(tmp_path / "look.png")
    edit(clip, "--image", "look.png", "-o", "frames", "--frames", "3", "--no-preview")
    assert [p.name for p in sorted((tmp_path / "frames").iterdir())] == [
        f"0000{i}.png" for i in range(3)
    ]


def still(folder: Path) -> Path:
    Image.fromarray(video_files.clip(1)[0]).save(folder / "still.png")
    return folder / "still.png"


def one_frame(folder: Path) -> Path:
    write_video(folder / "one.mp4", video_files.clip(1), 8)
    return folder / "one.mp4"


def odd(folder: Path) -> Path:
    write_video(folder / "odd.gif", video_files.clip(3, 33, 47), 10)
    return folder / "odd.gif"


def alpha(folder: Path) -> Path:
    (folder / "alpha").mkdir()
    for i, frame in enumerate(video_files.clip(3)):
        image = Image.fromarray(frame).convert("RGBA")
        image.putalpha(Image.fromarray(frame[..., 0]))
        image.save(folder / "alpha" / f"{i}.png")
    return folder / "alpha"


def grey(folder: Path) -> Path:
    (folder / "grey").mkdir()
    for i, frame in enumerate(video_files.clip(3)):
        Image.fromarray(frame).convert("L").save(folder / "grey" / f"{i}.png")
    return folder / "grey"


def variable(folder: Path) -> Path:
    ticks = [0, 40, 60, 180, 240, 300]
    return video_files.encode(folder / "vfr.mp4", video_files.clip(6), ticks=ticks)


def rotated(folder: Path) -> Path:
    path = folder / "rotated.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to see it upright
    Image.fromarray(video_files.clip(1)[0]).save(path, exif=exif)
    return path


@pytest.mark.parametrize("make", [still, one_frame, odd, alpha, grey, variable, rotated])
def test_all_kinds_of_input_are_edited(edit, tmp_path, make):
    """What a user would expect: as many frames as there are, up to the model's own number."""
    source = make(tmp_path)
    edit(source, "-o", "out.gif", "--no-preview")
    made = read_video(tmp_path / "out.gif")
    expected = read_video(source)
    assert made.frames.shape[1:] == (32, 32, 3)
    if len(expected) < 4:  # equal frames of a GIF are merged
        assert 1 <= len(made) <= len(expected)


def test_a_truncated_video_is_edited_with_a_note(edit, tmp_path):
    whole = tmp_path / "whole.mp4"  # its index comes first; of noise every frame takes as much
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), np.uint8)
    write_video(whole, noise, 8)
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    # Enough is left for eight frames; all sixteen are not.
    edit(tmp_path / "cut.mp4", "-o", "out.mp4", "--no-preview")
    line = edit(tmp_path / "cut.mp4", "--frames", "16", "-o", "b.mp4", culprit="cut.mp4")
    assert "asked" in line
    (tmp_path / "stub.mp4").write_bytes(data[: len(data) // 3])
    _, err = edit(tmp_path / "stub.mp4", "-o", "c.mp4", "--no-preview")
    assert err.startswith("gen1: note: ") and "lost" in err and len(err.splitlines()) == 1
    (tmp_path / "nothing.mp4").write_bytes(data[:200])
    edit(tmp_path / "nothing.mp4", "-o", "d.mp4", culprit="nothing.mp4")


def test_a_long_prompt_is_cut_with_a_note(edit, clip):
    _, err = edit(clip, "--prompt", "a red ball " * 40, "--frames", "3", "--no-preview")
    assert err.startswith("gen1: note: ") and "longer" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "data"), [("text.mp4", b"not a video at all"), ("empty.mp4", b""), ("none.mp4", None)]
)
def test_inputs_that_are_no_videos_are_refused(edit, tmp_path, name, data):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    edit(tmp_path / name, culprit=name)


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["--prompt", ""], "--prompt"),
        (["--prompt", "  \n"], "--prompt"),
        (["--prompt", "a", "--image", "b.png"], "--image"),
        (["--image", "nowhere.png"], "--image nowhere.png: no such file"),
        (["--structure-map", "nowhere.npy"], "--structure nowhere.npy: no such file"),
        (["--save-structure", "depth.png"], r"cannot write .png; accepted are .npy, .mp4"),
        (["-o", "deep/er/out.mp4", "--size", "33x32"], "--size 33x32"),
        (["--structure-level", "8"], "structure level 8"),
        (["--structure-level", "-1"], "structure level -1"),
        (["--structure-level", "1.5"], "structure-level"),
        (["--temporal-scale", "nan"], "temporal scale nan"),
        (["--guidance-scale", "inf"], "guidance scale inf"),
        (["--guidance-scale", "much"], "guidance-scale"),
        (["--per-frame", "--temporal-scale", "0"], "temporal scale 0.0 has no effect on frames"),
        (["--fit", "stretch"], "--fit"),
        (["--steps", "0"], "steps 0"),
        (["--steps", "1001"], "steps 1001"),
        (["--solver", "euler"], "--solver euler; accepted: ddim, dpm.*, unipc"),
        (["--seed", "-1"], "--seed -1"),
        (["--seed", "1" + "0" * 30], "--seed 1000"),
        (["--frames", "0"], "--frames 0"),
        (["--frames", "9"], "clip.mp4: .*8 frames"),
        (["--window", "17"], "a window of 17 frames; this model takes at most 16"),
        (["--window", "4", "--overlap", "4"], "overlap 4; 0 to 3 are accepted"),
        (["--frames", "2", "--seconds", "1"], "--frames and --seconds both"),
        (["--seconds", "nan"], "--seconds nan; a time above 0"),
        (["--seconds", "60"], "clip.mp4: .*8 frames"),
        (["--start", "1m"], "--start 1m; a number of frames .* 2.5s"),
        (["--start", "9.5s"], "clip.mp4: .*8 frames; start 114 is beyond"),
        (["--output-size", "big"], "--output-size big: HEIGHTxWIDTH"),
        (["--start", "8"], "clip.mp4: .*8 frames"),
        (["--stride", "0"], "--stride 0"),
        (["--size", "32"], "--size 32"),
        (["--size", "0x32"], "--size 0x32"),
        (["--size", "33x32"], "--size 33x32"),
        (["-o", "out.avi"], "avi"),
        (["-o", "clip.mp4", "--overwrite"], "different"),
        (["-o", "a.mp4", "--save-structure", "a.mp4"], "different"),
        (["-o", "/proc/none/out.mp4"], "/proc/none"),
        (["--qqqq"], "--qqqq.*--help"),
    ],
)
def test_wrong_arguments_are_refused(edit, clip, arguments, culprit):
    edit(clip, *arguments, culprit=culprit)


def test_an_output_that_exists_is_kept(edit, clip, tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"mine")
    edit(clip, culprit="out.mp4: exists already; .*--overwrite")
    (tmp_path / "new_preview.mp4").write_bytes(b"mine")
    edit(clip, "-o", "new.mp4", culprit="new_preview.mp4")
    edit(clip, "--overwrite", "--frames", "3", "--no-preview")
    assert len(read_video(tmp_path / "out.mp4")) == 3


def test_models_that_are_none_are_refused(edit, clip, micro_run, tmp_path):
    edit(clip, model=tmp_path / "nowhere", culprit="nowhere")
    edit(clip, model=clip, culprit="clip.mp4")
    edit(clip, model=micro_run / "blur" / "model", culprit="gen1.json")
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    for path in (micro_run / "pipeline").iterdir():
        (pipeline / path.name).symlink_to(path)
    (pipeline / "unet").unlink()
    edit(clip, model=pipeline, culprit="unet")
    (pipeline / "unet").symlink_to(micro_run / "autoencoder" / "model")
    edit(clip, model=pipeline, culprit="unet.*AutoencoderKL")


# ---- several contents, variations, progress, records


def test_an_edit_is_made_again_from_its_file(edit, clip, pipeline, tmp_path):
    edit(clip, "-o", "a.mp4", "--frames", "3", "--no-preview", "--seed", "7", "--strength", "0.9")
    (tmp_path / "a.json").rename(tmp_path / "kept")
    first = read_video(tmp_path / "a.mp4").frames
    # The file itself names its input without the folder, so that it gives nothing away.
    assert str(tmp_path) not in read_tags(tmp_path / "a.mp4")["gen1"]
    edit("--like", "a.mp4", "-o", "b.mp4", culprit="pipeline")
    out, _ = edit(clip, "--model", pipeline, "--like", "a.mp4", "-o", "b.mp4", "--no-preview")
    assert out.splitlines()[0].startswith("as before")
    (tmp_path / "kept").rename(tmp_path / "a.json")
    out, _ = edit("--like", "a.json", "-o", "c", "--no-preview")
    assert out.startswith("as before\n")
    for name in ("b.mp4", "c"):
        found = read_video(tmp_path / name).frames
        assert (found == first).all() if name == "b.mp4" else found.shape == first.shape
    edit("--like", "c", "-o", "d", "--no-preview")
    again = (read_video(tmp_path / name).frames for name in ("c", "d"))
    np.testing.assert_array_equal(*again)
    out, _ = edit("--like", "c", "--prompt", "a blue box", "-o", "e", "--no-preview")
    assert "as before, but prompt ['a blue box']" in out
    assert json.loads((tmp_path / "e.json").read_text())["flags"]["seed"] == 7
    write_video(clip, video_files.clip(8)[:, ::-1], 12, overwrite=True)
    changed = "what the edit was made of has changed: input; give INPUT"
    edit("--like", "c", "-o", "f", culprit=changed)
    out, _ = edit(clip, "--like", "c", "-o", "f", "--no-preview")  # as the line says
    assert out.startswith("as before\n")
    edit("--like", clip, "-o", "g", culprit="holds no record of an edit")
    edit("-o", "g", culprit="give a video to edit")


def test_flags_that_are_given_count_more_than_an_earlier_edits(tmp_path):
    """Wherever they stand, and also with the usual value."""
    path, parse = tmp_path / "a.json", make_parser().parse_args
    words = ["edit", "clip.mp4", "--prompt", "a", "--seed", "7", "--steps", "9", "--no-audio"]
    earlier = {k: v for k, v in vars(parse(words)).items() if k not in OUTSIDE}
    record = make_record(flags=earlier, inputs={}, model="", computing={})

    def like(*words, **flags):
        path.write_text(json.dumps(record | {"flags": record["flags"] | flags}))
        found = vars(make_parser().parse_args(["edit", *words]))
        return {name: found[name] for name in earlier if found[name] != earlier[name]}

    assert like("--like", str(path)) == {}
    assert like("--seed", "0", f"--like={path}", "--steps", "50") == {"seed": 0, "steps": 50}
    assert like("x.mp4", "--like", str(path)) == {"input": Path("x.mp4")}
    assert like("--like", str(path), "--prompt", "b", "--prompt", "c") == {"prompt": ["b", "c"]}
    with pytest.raises(UserError, match="given 2 times"):
        like("--like", str(path), "--like", str(path))
    for name, wrong in (
        ("steps", "x"), ("steps", [3]), ("seed", None), ("seed", 2.5), ("no_audio", 3),
        ("prompt", "a"), ("solver", "euler"), ("input", {"a": 1}), ("frames", True),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"a.json: its record is damaged: .*{name[:5]}"):
            like("--like", str(path), **{name: wrong})


def test_a_section_is_made_anew(edit, tmp_path):
    """All other frames stay, bit for bit; an mp4 is replaced in groups of 12 frames."""
    write_video(tmp_path / "film.mp4", video_files.clip(14), 12)
    options = ("--window", "4", "--overlap", "1", "--no-preview", "--seed", "3")
    edit(tmp_path / "film.mp4", "-o", "a.mp4", *options)
    out, _ = edit("--like", "a.mp4", "--redo", "1.0-1.1s", "-o", "b.mp4", "--no-preview")
    assert "as before, but content_seed 3, redo ['1.0-1.1s'], redo_of a.mp4, seed 4" in out
    assert "a.mp4: is replaced in groups of frames: 12 to 13" in out
    first, second = (read_video(tmp_path / name).frames for name in ("a.mp4", "b.mp4"))
    np.testing.assert_array_equal(first[:12], second[:12])
    assert (first[12:] != second[12:]).any((1, 2, 3)).all()
    edit("--like", "b.mp4", "-o", "c.mp4", "--no-preview")  # the same again
    np.testing.assert_array_equal(read_video(tmp_path / "c.mp4").frames, second)
    again = ("--redo", "0-1", "--redo", "13-14", "--seed", "3", "--prompt", "a blue box")
    edit("--like", "b.mp4", *again, "-o", "b.mp4", "--no-preview", "--overwrite")
    third = read_video(tmp_path / "b.mp4").frames
    assert len(third) == 14 and (third != second).any((1, 2, 3)).all()
    record = json.loads((tmp_path / "b.json").read_text())["flags"]
    assert (record["seed"], record["content_seed"]) == (3, 3)


def test_sections_that_are_none_are_refused(edit, clip):
    edit(clip, "-o", "a.mp4", "--frames", "3", "--no-preview")
    for arguments, words in (
        (("--redo", "3-2s"), "redo 3-2s: ends before it begins"),
        (("--redo", "one"), "redo is 'one'; a section such as 2.0-3.5s is accepted, or frames"),
        (("--redo", "0-9"), "redo 0-9: is beyond the end, which is at frame 3"),
        (("--redo", "0-1s"), "redo 0-1s: is beyond the end, which is at 0.25s"),
        (("--redo", "0-1", "-o", "b.gif"), "sections of a.mp4 are made anew in its own format"),
        (("--redo", "0-1", "--variations", "2"), "--redo makes one edit"),
        (("--redo-of", "a.mp4"), "--redo-of names what --redo makes sections of anew"),
        (("--content-seed", "-1"), "--content-seed -1"),
    ):
        output = () if "-o" in arguments else ("-o", "b.mp4")
        edit("--like", "a.mp4", *arguments, *output, "--no-preview", culprit=words)
    edit("--like", "a.json", "--redo", "0-1", "-o", "b.mp4", culprit="no video of an earlier edit")
    edit(clip, "--redo", "0-1", "-o", "b.mp4", culprit="name it: --like OUT.mp4")


def test_variations_and_what_programs_hear(edit, clip, pipeline, tmp_path, capsys):
    more = ("--variations", "2", "--preview-every", "1", "--events", "events.jsonl")
    times = ("--prompt", "0s: a red ball", "--prompt", "0.1s: a blue box")
    out, _ = edit(clip, "-o", "v.gif", "--frames", "3", *more, *times)
    assert "wrote v_1.gif, v_2.gif, " in out and "v.png" in out and "v_steps.png" in out
    one, two = (read_video(tmp_path / f"v_{i}.gif").frames for i in (1, 2))
    assert one.shape == (3, 32, 32, 3) and (one != two).any()
    assert json.loads((tmp_path / "v_2.json").read_text())["flags"]["seed"] == 1
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    stages = list(dict.fromkeys(line["stage"] for line in lines if "stage" in line))
    wanted = ["loading", "reading", "prior", "depth", "encoding", "sampling", "decoding"]
    assert stages == wanted
    assert lines[-1]["ended"] == "done" and "v_1.gif" in lines[-1]["outputs"]
    sampled = [line["done"] for line in lines if line.get("stage") == "sampling"]
    assert sampled == [0, 1]
    arguments = ("--model", pipeline, "--steps", "1", "--prompt", "a", "-o", "u.gif")
    code, out, err = gen1(capsys, "edit", clip, "--events", "-", "--frames", "3", *arguments)
    assert code == 0 and "wrote u.gif" in err  # what is said to people is no JSON
    ended = [json.loads(line) for line in out.splitlines()][-1]
    assert ended["ended"] == "done" and ended["outputs"][0] == "u.gif"
    edit(clip, "-o", "w.gif", "--events", clip, "--overwrite", culprit="must be different files")
    edit(clip, "-o", "w.gif", "--events", "events.jsonl", culprit="events.jsonl: exists already")
    edit(clip, "-o", "w.gif", "--negative-prompt", " ", culprit="--negative-prompt is empty")
    edit(clip, "-o", "w.gif", "--prompt", "9s: a", culprit="a prompt at 9s; the video ends at")
    edit(clip, "-o", "w.gif", "--frames", "99", "--events", "/none/e", culprit="/none/e cannot be")
