"""Measures what ingest costs: core-seconds and bytes of a clip and of an image.

    python benchmarks/ingest_rate.py --videos DIR [--images DIR] [--workers 1] [--keep DIR]

The benchmark runs `gen1 ingest` on the folders. Without `--images`, the images are frames of the
clips just made, enlarged to 512 pixels and saved as JPEG. They show what decoding, scaling and
encoding cost, but not how well other images compress.

Core-seconds are the CPU time of the command and all its processes, less the time for a folder with
one small file, which starts Python, Beam and TFDS. The figures also say what the paper's 6.4 M
clips and 240 M images would take if they were like these. The last line is one JSON object.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from common import GEN1, make_parser, print_figures, run_command

import numpy as np
from PIL import Image

from gen1_jax.data_pipelines.footage.reader import open_footage
from gen1_jax.data_pipelines.footage.records import decode_clip

PAPER = {"clips": 6.4e6, "images": 240e6}  # Gen-1 paper, section 4.1


def run_ingest(kind: str, source: Path, out: Path, options: list[str]) -> dict[str, float]:
    """Runs the command; returns what it took and made."""
    command = [*GEN1, "ingest", kind, str(source), "--out", str(out), "--no-progress", *options]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    output = run_command(command)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(output)
    report = json.loads((out / kind / "report.json").read_text())
    # The report's bytes, not the files' sizes: files are padded, which counts if records are few.
    splits = report["splits"].values()
    return {
        "records": report["records"],
        "inputs": report["inputs"],
        "core_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "seconds": seconds,
        "stored_bytes": sum(split["bytes"] for split in splits),
    }


def save_images(out: Path, folder: Path) -> int:
    """Saves the frames of the ingested clips as JPEG, 512 pixels high; returns how many."""
    folder.mkdir()
    footage, count = open_footage(out), 0
    for split in footage.splits():
        clips = footage.clips(split)
        for index in range(len(clips)):
            for frame in decode_clip(clips[index])["frames"]:
                width = round(frame.shape[1] * 512 / frame.shape[0])
                image = Image.fromarray(frame).resize((width, 512), Image.Resampling.BICUBIC)
                image.save(folder / f"{count:06d}.jpg", quality=92)
                count += 1
    return count


def cost(run: dict[str, float], start: float, kind: str) -> dict[str, float]:
    """Returns the figures of one kind of record; `start` is the core time of starting."""
    core = max(0.0, run["core_seconds"] - start) / run["records"]
    size = run["stored_bytes"] / run["records"]
    return {
        f"{kind}_made": run["records"],
        f"{kind}_core_seconds_each": round(core, 5),
        f"{kind}_bytes_each": round(size),
        f"{kind}_of_the_paper_core_hours": round(core * PAPER[kind] / 3600, 1),
        f"{kind}_of_the_paper_terabytes": round(size * PAPER[kind] / 1e12, 3),
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR")
    parser.add_argument("--images", type=Path, metavar="DIR")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder for all output")
    parser.add_argument(
        "--options", nargs=argparse.REMAINDER, default=[], help="more options of gen1 ingest clips"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = args.keep or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        options = ["--workers", str(args.workers)]
        (work / "small").mkdir()
        noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(work / "small" / "one.png")
        start = run_ingest("images", work / "small", work / "none", [*options, "--buckets", "8x8"])
        clips = run_ingest("clips", args.videos, work / "data", [*options, *args.options])
        images = args.images
        if images is None:
            images = work / "images"
            save_images(work / "data", images)
        pictures = run_ingest("images", images, work / "data", options)
        figures = {
            "workers": args.workers,
            "start_core_seconds": round(start["core_seconds"], 2),
            "videos": clips["inputs"],
            **cost(clips, start["core_seconds"], "clips"),
            "images": pictures["inputs"],
            **cost(pictures, start["core_seconds"], "images"),
        }
        print_figures(figures)


if __name__ == "__main__":
    main()
