"""Files from strangers: none makes the reader open another file, or wait for ever."""

import ast
import contextlib
import os
from pathlib import Path

import av
import pytest
from PIL import Image
from video_files import clip, encode, fails

from gen1_jax.errors import UserError
from gen1_jax.video import decoding
from gen1_jax.video.containers import open_container
from gen1_jax.video.io import read_video
from gen1_jax.video.sound import Sound
from gen1_jax.video.tags import read_tags

ROOT = Path(__file__).resolve().parents[2]
LISTS = {
    "HLS": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile {}\n",
    "DASH": '<?xml version="1.0"?>\n<MPD type="static"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>{}</BaseURL></Representation></AdaptationSet>'
    "</Period></MPD>",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("suffix", [".m3u8", ".ts", ".mp4", ""])
def test_a_list_of_other_files_is_refused_by_name(tmp_path, kind, suffix):
    secret = encode(tmp_path / "secret.ts", clip(3), "mpeg2video")
    path = tmp_path / f"list{suffix}"
    path.write_text(LISTS[kind].format(secret))
    fails(path, kind, "names other files", reason="playlist")
    for read in (open_container, read_tags):
        with pytest.raises(UserError, match=kind):
            read(path)


def test_ffmpeg_would_read_the_listed_file(tmp_path):
    """The refusal is needed: without it the secret's pictures come out of the list."""
    encode(tmp_path / "secret.ts", clip(3), "mpeg2video")
    (tmp_path / "list.mp4").write_text(LISTS["ffconcat"].format("secret.ts"))
    with av.open(str(tmp_path / "list.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


def test_media_are_opened_in_one_place():
    """Elsewhere, `av.open` may write; `Image.open` always says which formats it accepts."""
    wrong = []
    for folder in ("gen1_jax", "data_pipelines", "configs"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            found = "av.open" in text or "Image.open" in text
            for call in ast.walk(ast.parse(text)) if found else ():
                if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                    continue
                name, place = ast.unparse(call.func), f"{path.relative_to(ROOT)}:{call.lineno}"
                writes = len(call.args) > 1 and ast.unparse(call.args[1]) == "'w'"
                if name == "av.open" and path.name != "containers.py" and not writes:
                    wrong.append(place)
                if name == "Image.open" and not any(k.arg == "formats" for k in call.keywords):
                    wrong.append(place)
    assert not wrong, f"use gen1_jax.video.containers or name the formats: {wrong}"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    fails(tmp_path / "a.mp4", "no file", reason="cannot be opened")


def test_sound_of_a_playlist_is_not_read(tmp_path):
    from gen1_jax.video.sound import Track

    (tmp_path / "a.mp4").write_text(LISTS["HLS"].format("b.ts"))
    with contextlib.ExitStack() as stack, pytest.raises(UserError, match="HLS"):
        Track(None, Sound(tmp_path / "a.mp4"), stack)


def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mkv", clip(2), "ffv1")
    Image.fromarray(clip(1)[0]).save(tmp_path / "a.png")
    read_video(path, num_frames=1)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 48 * 64 - 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 64 // 2 - 1)
    fails(path, "48x64", "3,071 pixels", reason="too many pixels")
    fails(tmp_path / "a.png", reason="too many pixels")
