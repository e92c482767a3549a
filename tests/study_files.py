"""A small evaluation's folder, made without a model, and participants of its study."""

from pathlib import Path

import numpy as np

from gen1_jax.evaluation.records import append_records, records_path
from gen1_jax.evaluation.study.answers import COLUMNS
from gen1_jax.evaluation.study.drawing import draw
from gen1_jax.video.io import write_video

SIZE, FRAMES, FPS = (48, 64), 4, 16


def clip(shade: int, size: tuple[int, int] = SIZE, frames: int = FRAMES) -> np.ndarray:
    """Returns `[n h w 3]` uint8: a bright bar moves over a shade."""
    video = np.full((frames, *size, 3), (shade, 255 - shade, 90), np.uint8)
    for number, frame in enumerate(video):
        frame[:, 4 + 4 * number : 10 + 4 * number] = 250
    return video


def evaluation(
    folder: Path,
    methods: tuple[str, ...] = ("gen1", "sdedit-video"),
    captions: tuple[str, ...] = ("a red ball", "a blue ring", "a green cross"),
    size: tuple[int, int] = SIZE,
) -> Path:
    """Writes records and videos as `gen1 evaluate` does: an edit of each clip by each method."""
    records = []
    for i, caption in enumerate(captions):
        place = folder / "videos" / f"clip-{i}"
        write_video(place / "source.mp4", clip(10 + 30 * i, size), FPS)
        for k, method in enumerate(methods):
            write_video(place / f"{method}.mp4", clip(12 + 30 * i + 9 * k, size), FPS)
            records.append(
                {
                    "clip": f"clip-{i}",
                    "video": f"films/clip-{i}.mov",
                    "prompt": caption,
                    "method": method,
                    "temporal_scale": 1.0,
                    "seed": 0,
                    "pixels": f"{i:016x}",
                    "output": f"videos/clip-{i}/{method}.mp4",
                }
            )
    append_records(records_path(folder), records)
    return folder


def answers_of(key: dict, participant: str, choose=lambda pair: None) -> list[dict]:
    """Returns a participant's rows: what `choose` says, our method where it says None.

    Args:
      key: of the study.
      participant: the id.
      choose: id of a pair or a check → a, b, none, or None for ours or the right one.
    """
    rows = []
    for pair, left in draw(key, participant):
        is_check = pair in key["checks"]
        if is_check:
            good = key["checks"][pair]["right"]
        else:
            good = "a" if key["pairs"][pair]["a"] == key["ours"] else "b"
        choice = choose(pair) or good
        side = "none" if choice == "none" else "left" if choice == left else "right"
        values = (key["study"], participant, pair, side, choice, "2.5", str(int(is_check)))
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def write_csv(path: Path, rows: list[dict]) -> Path:
    lines = [",".join(COLUMNS), *(",".join(row[name] for name in COLUMNS) for row in rows)]
    path.write_text("\r\n".join(lines) + "\r\n")
    return path
