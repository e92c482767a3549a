"""Measures how fast footage reaches training, and whether reading costs ever more memory.

    python benchmarks/data_throughput.py [--sources DIR] [--data DIR] [--workers 2] [--rounds 5]

Every loader reads the same clips on the same cores, in turns. The figures are medians over the
rounds, in clips/s and in milliseconds of a core for each clip:

- ours, ours_threads: the loader of gen1-jax from ingested clips, in worker processes or threads;
- torch_clips: PyTorch's DataLoader that decodes the same encoded clips with PyAV, in as many
  worker processes;
- torch_seek: PyTorch's DataLoader that seeks at random in the source videos, takes frames a stride
  apart and scales them to the same size, with PyAV (torchcodec_seek: with torchcodec, where it is
  installed);
- encoded, encoded_threads: the loader of gen1-jax from precomputed latents of the paper's size;
- memory: the memory of the loader's process and its workers together, over many batches of clips
  and images.

Without --sources the benchmark makes videos: 1280x720, H.264, a key frame every 250 frames. The
last line is one JSON object.
"""

import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from common import GEN1, make_parser, print_figures, run_command

import numpy as np
from PIL import Image
from throughput_loaders import (
    ENCODED,
    EPOCH,
    NUM_FRAMES,
    SIZE,
    STRIDE,
    EncodedClips,
    SoughtClips,
    TorchcodecClips,
    our_clips,
    our_encoded,
    torch_loader,
)
from tqdm import tqdm

from gen1_jax.data_pipelines.encoded.records import make_layout
from gen1_jax.data_pipelines.encoded.writer import EncodedWriter
from gen1_jax.data_pipelines.footage.reader import open_footage
from gen1_jax.video.io import write_h264

FACTOR, LATENT, CONTENT = 8, 4, 768  # of the paper's encoders
LEVELS = 8
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")


# ---- what is read


def make_source(path: Path, seed: int, seconds: int = 20, fps: int = 30) -> None:
    """Writes a film that pans over a rough picture, with moving squares and some grain."""
    rng = np.random.default_rng(seed)
    world = np.zeros((1440, 2560, 3))
    for octave in range(3, 11):
        rough = rng.normal(size=(2**octave * 9 // 16 + 1, 2**octave, 3)) * 2.0 ** (-octave / 2)
        planes = [
            Image.fromarray(rough[..., c].astype(np.float32)).resize((2560, 1440), 3)
            for c in range(3)
        ]
        world += np.stack(planes, -1)
    world = np.clip(128 + world * 60 / world.std(), 0, 255).astype(np.uint8)
    sprites = [(rng.uniform(0, 1, 4), rng.integers(0, 256, 3), rng.integers(40, 160))
               for _ in range(6)]  # fmt: skip
    grain = rng.integers(-3, 4, (8, 720, 1280, 1), np.int16)

    def frame_at(index: int) -> np.ndarray:
        turn = 2 * np.pi * index / (seconds * fps)
        top, left = int(360 + 300 * np.sin(turn)), int(640 + 600 * np.sin(2 * turn + seed))
        frame = world[top : top + 720, left : left + 1280].astype(np.int16)
        for (x, y, dx, dy), colour, side in sprites:
            i = int((y + dy * index / 100) % 1 * (720 - side))
            j = int((x + dx * index / 100) % 1 * (1280 - side))
            frame[i : i + side, j : j + side] = colour
        return np.clip(frame + grain[index % 8], 0, 255).astype(np.uint8)

    options = {"crf": "20", "preset": "fast", "g": "250"}
    write_h264(str(path), map(frame_at, range(seconds * fps)), Fraction(fps), options=options)


def ingest(sources: Path, out: Path) -> None:
    options = ["--size", f"{SIZE[0]}x{SIZE[1]}", "--num-frames", str(NUM_FRAMES)]
    options += ["--stride", str(STRIDE), "--out", str(out)]
    print(run_command([*GEN1, "ingest", "clips", str(sources), *options], show=True))


def write_files(data: Path, folder: Path) -> list[str]:
    """Writes the ingested clips as files, for the loaders that read files; returns their paths."""
    folder.mkdir()
    clips = open_footage(data).clips("train")
    for index in range(len(clips)):
        (folder / f"{index:06d}.mp4").write_bytes(clips[index]["video"])
    return sorted(map(str, folder.iterdir()))


def write_encoded(folder: Path, count: int) -> None:
    """Writes random latents of the paper's size; reading takes as long whatever the numbers."""
    h, w = SIZE[0] // FACTOR, SIZE[1] // FACTOR
    clip = (NUM_FRAMES, h, w, LATENT)
    shapes = {
        "latents": clip,
        "latents_logvar": clip,
        "structure": (LEVELS, *clip),
        "levels": (LEVELS,),
        "content": (NUM_FRAMES, CONTENT),
    }
    writer = EncodedWriter(folder / "train", make_layout(shapes), count=count)
    rng = np.random.default_rng(0)

    def record() -> dict:
        values = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        return {**values, "levels": np.arange(LEVELS, dtype=np.int32)}

    writer.start()
    for shard in writer.missing():
        writer.write(shard, (record() for _ in writer.records(shard)))
    writer.finish()


# ---- measuring


def measure(
    make: Callable[[], Iterator], clips_a_batch: int, seconds: float
) -> tuple[float, float]:
    """Measures a fresh loader, once it has filled its buffers.

    Args:
      make: starts the loader.
      clips_a_batch: number of clips in each batch.
      seconds: how long to measure.

    Returns:
      Clips/s, and the core time of a clip in milliseconds. Core time counts this process and its
      workers; it hardly depends on what else the machine does.
    """
    batches = make()
    next(batches)  # its processes have started
    started = time.perf_counter()
    for _ in range(8):
        if time.perf_counter() - started < seconds:
            next(batches)
    started, count, (_, spent) = time.perf_counter(), 0, usage(os.getpid())
    while time.perf_counter() - started < seconds:
        next(batches)
        count += clips_a_batch
    rate = count / (time.perf_counter() - started)
    core = (usage(os.getpid())[1] - spent) / count * 1e3
    if hasattr(batches, "close"):
        batches.close()
    del batches  # which ends the workers of a DataLoader
    return rate, core


def usage(process: int) -> tuple[int, float]:
    """Returns resident bytes and core seconds of a process and its living descendants (Linux).

    A page that several processes share counts in each.
    """
    page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    children: dict[int, list[int]] = {}
    used: dict[int, tuple[int, float]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # the process has ended
        core = (int(fields[11]) + int(fields[12])) / tick
        used[int(entry.name)] = int(fields[21]) * page, core
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    size, seconds, waiting = 0, 0.0, [process]
    while waiting:
        one = waiting.pop()
        own_size, own_seconds = used.get(one, (0, 0.0))
        size, seconds = size + own_size, seconds + own_seconds
        waiting += children.get(one, [])
    return size, seconds


def watch_memory(data: str, batches: int, workers: int, result) -> None:
    """Reads clips and images; puts [(batch, bytes)] and the steps of image batches on a queue."""
    stream = our_clips(Path(data), 1, image_fraction=0.125, num_workers=workers, num_threads=1)
    sizes, images = [], []
    for step in tqdm(range(batches), desc="memory", unit="batch", disable=None):
        if next(stream).frames.shape[1] == 1:
            images.append(step)
        if step % 20 == 19:
            sizes.append((step + 1, usage(os.getpid())[0]))
        if step % 1000 == 999:
            print(f"batch {step + 1}: {sizes[-1][1] / 2**20:.0f} MiB", file=sys.stderr)
    stream.close()
    result.put((sizes, images))


def measure_memory(data: Path, batches: int, workers: int) -> dict:
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    process = context.Process(target=watch_memory, args=(str(data), batches, workers, result))
    process.start()
    sizes, images = result.get()
    process.join()
    early = max(size for step, size in sizes if step <= 500)
    peak = max(size for _, size in sizes)
    return {
        "batches": batches,
        "workers": workers,
        "peak_MiB": round(peak / 2**20),
        "peak_of_first_500_MiB": round(early / 2**20),
        "growth_after_500": round(peak / early - 1, 4),
        "image_batches": len(images),
        "image_batches_in_a_row": sum(b - a == 1 for a, b in itertools.pairwise(images)),
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sources", type=Path, help="folder of videos (default: made here)")
    parser.add_argument("--data", type=Path, help="the same, ingested (default: done here)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes of each loader"
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="length of each measurement")
    parser.add_argument("--memory-batches", type=int, default=10_000, help="0: not measured")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print_figures(run(args, Path(folder)))


def run(args, work: Path) -> dict:
    sources = args.sources or work / "sources"
    if args.sources is None:
        sources.mkdir()
        for number in tqdm(range(3), desc="sources", unit="video", disable=None):
            make_source(sources / f"{number}.mp4", number)
    data = args.data or work / "data"
    if args.data is None:
        ingest(sources, data)
    films = sorted(str(p) for p in sources.rglob("*") if p.suffix.lower() in SUFFIXES)
    files = write_files(data, work / "files")
    write_encoded(work / "encoded", ENCODED)
    size, workers = args.batch_size, args.workers
    apart = {"num_workers": workers, "num_threads": 1, "prefetch": 2}
    threads = {"num_workers": 0, "num_threads": workers}
    contestants = {
        "ours": lambda: our_clips(data, size, **apart),
        "ours_threads": lambda: our_clips(data, size, **threads),
        "torch_clips": lambda: torch_loader(
            EncodedClips(files * (1 + EPOCH // len(files))), size, workers
        ),
        "torch_seek": lambda: torch_loader(SoughtClips(films, EPOCH), size, workers),
        "encoded": lambda: our_encoded(work / "encoded", size, **apart),
        "encoded_threads": lambda: our_encoded(work / "encoded", size, **threads),
    }
    try:
        from torchcodec.decoders import VideoDecoder  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        print(f"no torchcodec: {str(error).strip().splitlines()[0]}", file=sys.stderr)
    else:
        contestants["torchcodec_seek"] = lambda: torch_loader(
            TorchcodecClips(films, EPOCH), size, workers
        )
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    cores: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(args.rounds):
        for name, make in contestants.items():
            rate, core = measure(make, size, args.seconds)
            rates[name].append(rate)
            cores[name].append(core)
            text = f"round {number}: {name:<16} {rate:9.1f} clips/s, {core:8.2f} ms of a core each"
            print(text, file=sys.stderr)
    median = {name: statistics.median(each) for name, each in rates.items()}
    core = {name: statistics.median(each) for name, each in cores.items()}
    best = max(median["ours"], median["ours_threads"])
    figures = {
        "cores": os.cpu_count(),
        "workers": workers,
        "clips": len(files),
        "bytes_per_clip": round(statistics.mean(Path(p).stat().st_size for p in files)),
        "clips_per_second": {name: round(rate, 1) for name, rate in median.items()},
        "core_ms_per_clip": {name: round(each, 2) for name, each in core.items()},
        "ours_to_torch_clips": round(median["ours"] / median["torch_clips"], 2),
        "ours_threads_to_torch_clips": round(median["ours_threads"] / median["torch_clips"], 2),
        "ours_to_torch_seek": round(best / median["torch_seek"], 2),
        "encoded_to_ours": round(max(median["encoded"], median["encoded_threads"]) / best, 2),
    }
    if args.memory_batches:
        figures["memory"] = [
            measure_memory(data, args.memory_batches, each) for each in (workers, 0)
        ]
    return figures


if __name__ == "__main__":
    main()
