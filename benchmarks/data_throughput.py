"""How fast does footage reach training, and does reading it ever cost more memory?

    python benchmarks/data_throughput.py [--sources DIR] [--data DIR] [--workers 2] [--rounds 5]

The same clips on the same cores, by turns; the figures are medians over the rounds, in clips/s and
in milliseconds of a core for each clip:

- ours: the loader of gen1-jax from ingested clips, in worker processes and in threads;
- torch, clips: PyTorch's DataLoader that decodes the same encoded clips with PyAV, in as many
  worker processes;
- torch, seek: PyTorch's DataLoader that seeks at random in the source videos, takes frames a stride
  apart and scales them to the same size, with PyAV (and with torchcodec where it is installed);
- encoded: the loader of gen1-jax from precomputed latents of the paper's size;
- memory: of the loader's process and its workers, summed, over many batches of clips and images.

Sources are made here where none are given: 1280x720, H.264, a key frame every 250 frames. The last
line is one JSON object.
"""

import argparse
import io
import itertools
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import av
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from gen1_jax.data_pipelines import mixture
from gen1_jax.data_pipelines.encoded import reader as encoded
from gen1_jax.data_pipelines.encoded.records import make_layout
from gen1_jax.data_pipelines.encoded.writer import EncodedWriter
from gen1_jax.data_pipelines.footage.reader import open_footage
from gen1_jax.data_pipelines.sources import make_buckets, open_raw
from gen1_jax.data_pipelines.stream import Stream

ROOT = Path(__file__).resolve().parents[1]
SIZE = (256, 448)  # (height, width) of clips
NUM_FRAMES, STRIDE = 8, 4
FACTOR, LATENT, CONTENT = 8, 4, 768  # of the paper's encoders
LEVELS = 8
EPOCH = 10_000  # clips, the few there are again and again
ENCODED = 250  # precomputed clips
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")


# ---------------------------------------------------------------- what is read


def make_source(path: Path, seed: int, seconds: int = 20, fps: int = 30) -> None:
    """A film that pans over a rough picture, with things that move and some grain."""
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
    with av.open(str(path), "w") as container:
        options = {"crf": "20", "preset": "fast", "g": "250"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for index in range(seconds * fps):
            turn = 2 * np.pi * index / (seconds * fps)
            top, left = int(360 + 300 * np.sin(turn)), int(640 + 600 * np.sin(2 * turn + seed))
            frame = world[top : top + 720, left : left + 1280].astype(np.int16)
            for (x, y, dx, dy), colour, side in sprites:
                i = int((y + dy * index / 100) % 1 * (720 - side))
                j = int((x + dx * index / 100) % 1 * (1280 - side))
                frame[i : i + side, j : j + side] = colour
            frame = np.clip(frame + grain[index % 8], 0, 255).astype(np.uint8)
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def ingest(sources: Path, out: Path) -> None:
    size = f"{SIZE[0]}x{SIZE[1]}"
    command = [sys.executable, "-m", "gen1_jax.cli", "ingest", "clips", str(sources)]
    done = subprocess.run(
        [*command, "--out", str(out), "--size", size, "--num-frames", str(NUM_FRAMES),
         "--stride", str(STRIDE)], cwd=ROOT, stdout=sys.stderr,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"gen1 ingest ended with {done.returncode}")


def write_files(data: Path, folder: Path) -> list[str]:
    """The ingested clips as files, for those who read files."""
    folder.mkdir()
    clips = open_footage(data).clips("train")
    for index in range(len(clips)):
        (folder / f"{index:06d}.mp4").write_bytes(clips[index]["video"])
    return sorted(map(str, folder.iterdir()))


def write_encoded(folder: Path, count: int) -> None:
    """Latents of the paper's size; what the numbers are makes no difference to reading them."""
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


# ---------------------------------------------------------------- ours


class Repeated:
    """A source as long as a real one: Grain's shuffle takes its time over a few records."""

    def __init__(self, source, times: int):
        self._source, self._times = source, times

    def __len__(self) -> int:
        return len(self._source) * self._times

    def __getitem__(self, index: int) -> dict:
        return self._source[index % len(self._source)]


def our_clips(
    data: Path, batch_size: int, *, image_fraction: float = 0.0, **reading: int
) -> Stream:
    videos, images = make_buckets(
        open_raw({"form": "footage", "folder": str(data)}, "train"), buckets=(SIZE,)
    )
    (source,) = videos[0].sources
    videos = [mixture.Bucket(SIZE, [Repeated(source, 1 + EPOCH // len(source))])]
    return mixture.make_raw_stream(
        videos,
        images,
        batch_size=batch_size,
        image_batch_size=2 * batch_size,
        image_fraction=image_fraction,
        num_frames=NUM_FRAMES,
        **reading,
    )


def our_encoded(folder: Path, batch_size: int, **reading: int) -> Stream:
    source = encoded.EncodedSource([folder / "train"] * (EPOCH // ENCODED))
    return encoded.make_encoded_stream(source, batch_size=batch_size, image_fraction=0.0, **reading)


# ---------------------------------------------------------------- PyTorch's


class EncodedClips(Dataset):
    """Short films, decoded whole."""

    def __init__(self, paths: list[str]):
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        data = io.BytesIO(Path(self._paths[index]).read_bytes())
        with av.open(data, format="mp4") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            # By default PyAV starts a thread a core for each frame's colours, at twice the cost.
            frames = [f.to_ndarray(format="rgb24", threads=1) for f in container.decode(stream)]
        return torch.from_numpy(np.stack(frames))


def scaled_size(height: int, width: int) -> tuple[int, int]:
    """That just covers SIZE."""
    factor = max(SIZE[0] / height, SIZE[1] / width)
    return max(SIZE[0], round(height * factor)), max(SIZE[1], round(width * factor))


class SoughtClips(Dataset):
    """Frames a stride apart from a random place of whole videos."""

    def __init__(self, paths: list[str], length: int):
        self._paths, self._length = paths, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> torch.Tensor:
        place = random.Random(random.random())
        path, span = place.choice(self._paths), (NUM_FRAMES - 1) * STRIDE + 1
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            rate, base = stream.average_rate, stream.time_base
            count = stream.frames or int(stream.duration * base * rate)
            start = place.randrange(max(1, count - span + 1))
            container.seek(int(start / rate / base), stream=stream, backward=True)
            height, width = scaled_size(stream.height, stream.width)
            top, left = (height - SIZE[0]) // 2, (width - SIZE[1]) // 2
            wanted = [start + i * STRIDE for i in range(NUM_FRAMES)]
            frames = []
            for frame in container.decode(stream):
                if len(frames) < NUM_FRAMES and frame.time * rate >= wanted[len(frames)] - 0.5:
                    small = frame.to_ndarray(format="rgb24", width=width, height=height, threads=1)
                    frames.append(small[top : top + SIZE[0], left : left + SIZE[1]])
                if len(frames) == NUM_FRAMES:
                    break
        frames += frames[-1:] * (NUM_FRAMES - len(frames))
        return torch.from_numpy(np.stack(frames))


class TorchcodecClips(SoughtClips):
    """The same by torchcodec."""

    def __getitem__(self, index: int) -> torch.Tensor:
        from torchcodec.decoders import VideoDecoder

        place = random.Random(random.random())
        decoder = VideoDecoder(
            place.choice(self._paths), num_ffmpeg_threads=1, seek_mode="approximate"
        )
        span = (NUM_FRAMES - 1) * STRIDE + 1
        start = place.randrange(max(1, decoder.metadata.num_frames - span + 1))
        frames = decoder.get_frames_in_range(start, start + span, STRIDE).data
        height, width = scaled_size(*frames.shape[-2:])
        top, left = (height - SIZE[0]) // 2, (width - SIZE[1]) // 2
        frames = torch.nn.functional.interpolate(frames, (height, width), mode="bilinear")
        frames = frames[..., top : top + SIZE[0], left : left + SIZE[1]]
        return frames.permute(0, 2, 3, 1).contiguous()


def torch_loader(dataset: Dataset, batch_size: int, workers: int) -> Iterator[torch.Tensor]:
    """Endless."""
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
        multiprocessing_context="spawn",  # as ours: the process has threads by now
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


# ---------------------------------------------------------------- measuring


def measure(
    make: Callable[[], Iterator], clips_a_batch: int, seconds: float
) -> tuple[float, float]:
    """Clips/s of a fresh loader, once it has filled its buffers, and milliseconds of a core each.

    The latter counts this process and its workers, and hardly minds what else the machine does.
    """
    batches = make()
    next(batches)  # processes are up
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
    del batches  # a DataLoader ends its workers so
    return rate, core


def usage(process: int) -> tuple[int, float]:
    """Resident bytes and core seconds of a process and all its living descendants (Linux).

    Pages that they share count in each.
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
            continue  # gone meanwhile
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
    """Reads clips and images; sends [(batch, bytes)] and the steps that were images."""
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sources", type=Path, help="folder of videos (default: made here)")
    parser.add_argument("--data", type=Path, help="the same, ingested (default: done here)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of each")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--memory-batches", type=int, default=10_000, help="0: not measured")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(args, Path(folder))))


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
