"""`gen1 detect`: what a file says, and what its frames show."""

import json

from command_line import gen1, refused

from gen1_jax.data_pipelines.moving_shapes.renderer import render
from gen1_jax.video.io import write_video
from gen1_jax.video.provenance import GENERATED, synthetic_tags
from gen1_jax.video.watermark import mark_frame


def test_what_is_found(tmp_path, capsys):
    frames = render(3, size=48).frames
    marked = [mark_frame(frame) for frame in frames]
    write_video(tmp_path / "plain.mp4", frames, 8)
    write_video(tmp_path / "marked.mp4", marked, 8, tags=synthetic_tags())
    files = tmp_path / "plain.mp4", tmp_path / "marked.mp4"
    code, out, _ = gen1(capsys, "detect", *files, "--json")
    plain, marked = map(json.loads, out.splitlines())
    assert code == 0 and plain["metadata"] is None and marked["metadata"] == GENERATED
    assert marked["watermark"]["is_marked"] and not plain["watermark"]["is_marked"]
    code, out, _ = gen1(capsys, "detect", *files)
    assert "does not say that the file is synthetic" in out and "found (score" in out
    assert "says synthetic (trainedAlgorithmicMedia, by gen1-jax" in out
    (tmp_path / "text.mp4").write_text("no video")
    refused(capsys, "detect", tmp_path / "text.mp4", culprit="text.mp4: not a video")
