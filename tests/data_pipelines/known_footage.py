"""Videos and images of known content, for the tests of ingest."""

import io
import json
import struct
import tarfile
import wave
from pathlib import Path

import numpy as np
from PIL import Image
from video_files import encode

HEIGHT, WIDTH = 72, 128
LENGTHS = (30, 17, 45, 5, 23)  # of the shots of a film
CUTS = tuple(np.cumsum(LENGTHS)[:-1].tolist())
WORDS = b"this is no video, whatever its name says\n" * 20


def shot(seed: int, n: int, height: int = HEIGHT, width: int = WIDTH, speed: int = 2) -> np.ndarray:
    """`[n h w 3]`: a pan over random smooth blotches; another seed is another place."""
    rng = np.random.default_rng(seed)
    canvas = (height + speed * n, width + speed * n)
    cells = rng.integers(0, 256, (canvas[0] // 12 + 2, canvas[1] // 12 + 2, 3), np.uint8)
    whole = Image.fromarray(cells).resize(canvas[::-1], Image.Resampling.BICUBIC)
    image = np.asarray(whole)
    return np.stack([image[i * speed :, i * speed :][:height, :width] for i in range(n)])


def film(seed: int, lengths: tuple[int, ...] = LENGTHS, **options: int) -> np.ndarray:
    """Shots of these lengths, cut together."""
    return np.concatenate(
        [shot(1000 * seed + index, n, **options) for index, n in enumerate(lengths)]
    )


def letterboxed(frames: np.ndarray, bar: int) -> np.ndarray:
    frames = frames.copy()
    frames[:, :bar] = frames[:, -bar:] = 0
    return frames


def turned(path: Path) -> Path:
    """Sets an mp4's rotation flag, so that players turn it by 90 degrees clockwise."""
    data = path.read_bytes()
    unit = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    turn = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, HEIGHT << 16, 0, 1 << 30)
    at = data.index(unit, data.index(b"tkhd"))
    path.write_bytes(data[:at] + turn + data[at + 36 :])
    return path


def damaged(path: Path, whole: Path, tenth: int) -> Path:
    """Writes a copy with noise in the given tenth of its pictures' data."""
    data = bytearray(whole.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov")
    place = start + (end - start) * (2 * tenth + 1) // 20
    data[place : place + 60] = np.random.default_rng(tenth).bytes(60)
    path.write_bytes(data)
    return path


def silence(path: Path) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    return path


def folder_of_frames(path: Path, frames: np.ndarray) -> Path:
    path.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{index}.png")  # 10.png comes after 9.png
    return path


def jpeg(frame: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", **{"quality": 92, **options})
    return buffer.getvalue()


def archive(path: Path, members: dict[str, bytes | None]) -> Path:
    """Writes a tar archive; a member that is None becomes a link to another file."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def read_inputs(folder: Path) -> dict[str, dict]:
    """Returns the lines of `inputs.jsonl` by path."""
    lines = (folder / "inputs.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row for row in rows}


def film_file(path: Path, seed: int, frames: np.ndarray | None = None, **options: object) -> Path:
    options.setdefault("options", {"g": "30", "preset": "veryfast", "crf": "18"})
    return encode(path, film(seed) if frames is None else frames, fps=25, **options)
