"""Measures the duplicate search: what it finds, what it drops by mistake, and what it costs.

    python benchmarks/duplicates.py [--count 1000] [--seed 2]
    python benchmarks/duplicates.py --likeness
    python benchmarks/duplicates.py --scale 2000000
    python benchmarks/duplicates.py --runners

The first form draws pictures and clips with a known answer (`lookalikes.py`). For each way of
copying, it says which share of the copies is found; for each kind of look-alikes, which share is
dropped by mistake. Aimed at are 0.95 and 0.001. `--likeness` shows what the thresholds of `prints`
were chosen by, with seed 1: how alike copies are at least, and look-alikes at most.

`--scale` searches among synthetic prints: a hundredth, a tenth and all of the number, and says what
a record costs. A tenth of them are copies of others, a tenth are copies of one picture, and a tenth
have the keys of one picture with other detail. Each number runs in a process of its own, whose peak
memory is measured.

`--runners` ingests 240 pictures by Beam's local runner, in one and in two processes, and by
Dask's on a local cluster of two workers, one of which is killed on the way, and compares all bytes.
It needs `dask` and `distributed` (Beam's extra `dask`). The last line is one JSON object.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from common import make_parser, peak_memory, print_figures

import numpy as np
from lookalikes import COPIES, KINDS, RED_AND_BLUE, all_at_once, make_clip, make_kind, make_scene
from PIL import Image

from gen1_jax.data_pipelines.footage import duplicates, prints
from gen1_jax.data_pipelines.footage.chunks import Job
from gen1_jax.data_pipelines.footage.duplicates import read_final, resolve
from gen1_jax.data_pipelines.footage.images import ImageSettings
from gen1_jax.data_pipelines.footage.ingest import ingest
from gen1_jax.data_pipelines.footage.outcomes import Outcome
from gen1_jax.data_pipelines.footage.runner import LOCAL, Runner
from gen1_jax.files import write_json

_CHUNK = 4096  # records of a chunk


def write_chunk(job: Job, index: int, rows: np.ndarray) -> None:
    """Writes the chunk of records, each of an input of its own, as far as the search reads it."""
    count = int((rows["frame"] == 0).sum())
    rows["input"] = np.cumsum(rows["frame"] == 0) - 1
    job.chunk(index, ".prints").write_bytes(rows.tobytes())
    outcomes = [Outcome(f"{index}/{number}", kept=1).to_json() for number in range(count)]
    records = [(number, "train", 1) for number in range(count)]
    write_json(job.chunk(index, ".json"), {"outcomes": outcomes, "records": records}, indent=None)


def search(chunks: Sequence[np.ndarray], runner: Runner = LOCAL) -> list[np.ndarray]:
    """Returns for each chunk of prints which of its records are dropped."""
    with tempfile.TemporaryDirectory() as work:
        job = Job(work, work, ImageSettings(), 0.0)
        job.chunks.mkdir()
        for index, rows in enumerate(chunks):
            write_chunk(job, index, rows)
        resolve(job, len(chunks), runner)
        dropped = []
        for _, final in read_final(job, len(chunks)):
            dropped.append(np.array([not outcome["kept"] for outcome in final["outcomes"]]))
    return dropped


# ---- what is found


def hash_all(pictures: Sequence[Image.Image]) -> np.ndarray:
    return np.concatenate([prints.hash_image(np.asarray(picture)) for picture in pictures])


def hash_clips(clips: Sequence[Sequence[Image.Image]]) -> np.ndarray:
    return np.concatenate(
        [prints.hash_clip(np.stack([np.asarray(frame) for frame in clip])) for clip in clips]
    )


def copy_clip(copy: Callable, clip: Sequence[Image.Image], seed: int) -> list[Image.Image]:
    """Copies all frames of a clip in the same way."""
    return [copy(frame, np.random.default_rng(seed)) for frame in clip]


def measure(count: int, seed: int) -> dict[str, float]:
    """Prints and returns recall and false drops."""
    random = np.random.default_rng(seed)
    figures: dict[str, float] = {}
    scenes = [make_scene(random) for _ in range(count)]
    clips = [make_clip(random) for _ in range(count // 4)]
    first = {"picture": hash_all(scenes), "clip": hash_clips(clips)}
    for name, copy in COPIES.items():
        copies = {
            "picture": hash_all([copy(scene, random) for scene in scenes]),
            "clip": hash_clips([copy_clip(copy, clip, seed + i) for i, clip in enumerate(clips)]),
        }
        for what, rows in copies.items():
            originals, dropped = search([first[what], rows])
            figures[f"{what}s {name}: found"] = round(float(dropped.mean()), 4)
            wrong = f"{what}s: dropped by mistake"
            figures[wrong] = max(figures.get(wrong, 0.0), float(originals.mean()))
        print(f"{name:40}", *(f"{figures[f'{what}s {name}: found']:.4f}" for what in copies))
    for kind in (*KINDS, RED_AND_BLUE):
        dropped = search([hash_all(make_kind(kind, count, random))])[0]
        figures[f"{kind}: dropped by mistake"] = round(float(dropped.mean()), 5)
        print(f"{kind:40} {dropped.mean():.5f} dropped by mistake", flush=True)
    return figures


def measure_likeness(count: int, seed: int) -> dict[str, float]:
    """Prints and returns how alike copies are at least, and look-alikes at most."""
    random = np.random.default_rng(seed)
    figures = {}
    scenes = [make_scene(random) for _ in range(count)]
    luma = hash_all(scenes)["luma"]
    for name, copy in COPIES.items():
        other = hash_all([copy(scene, random) for scene in scenes])["luma"]
        ways = [prints.align(luma, each) for each in (other, other[..., ::-1])]
        whole, parts = np.where(ways[0][0] >= ways[1][0], *map(np.array, ways))
        figures[name] = [round(float(np.quantile(each, 0.02)), 3) for each in (whole, parts)]
        print(f"{name:40} whole {figures[name][0]}, parts {figures[name][1]} (2 % are below)")
    for kind in KINDS:
        rows = hash_all(make_kind(kind, count, random))
        informed = rows["luma"][prints.has_detail(rows)]
        detail = prints.weigh_detail(informed).reshape(len(informed), 256)
        detail /= np.maximum(1e-9, np.linalg.norm(detail, axis=1, keepdims=True))
        likeness = np.triu(detail @ detail.T, 1)
        nearest = np.argsort(likeness, axis=None)[::-1][:300]
        one, other = np.unravel_index(nearest, likeness.shape)
        whole, parts = prints.align(informed[one], informed[other])
        nearest = int(np.minimum(whole, parts + 0.15).argmax()) if len(whole) else 0
        top = [round(float(each[nearest]), 3) for each in (whole, parts)] if len(whole) else [0, 0]
        share = round(len(informed) / count, 3)
        figures[kind] = [share, *top]
        print(f"{kind:40} {share} have detail; nearest: whole {top[0]}, parts {top[1]}")
    return figures


# ---- what it costs


def draw_prints(random: np.random.Generator, count: int) -> np.ndarray:
    """Returns prints of pictures whose detail is random at every scale."""
    basis = prints.cosines(16)
    frequency = np.hypot(*np.meshgrid(np.arange(16), np.arange(16)))
    detail = random.standard_normal((count, 16, 16)) * 900 / np.maximum(1, frequency) ** 1.5
    detail[:, 0, 0] = 0
    rows = np.zeros(count, prints.ROW)
    rows["luma"] = np.clip(128 + basis.T @ detail @ basis, 0, 255)
    rows["chroma"] = random.integers(100, 156, (count, 1, 1, 2))
    rows["digest"], rows["frames"] = random.integers(1, 2**63, (count, 2)), 1
    return rows


def draw_chunk(job: Job, index: int, famous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the prints of a chunk, and which of them are copies of earlier ones."""
    random = np.random.default_rng((7, index))
    rows = draw_prints(random, _CHUNK)
    part = _CHUNK // 10
    copies = np.zeros(_CHUNK, bool)
    if index:
        source = job.chunk(int(random.integers(index)), ".prints").read_bytes()
        rows[:part] = np.frombuffer(source, prints.ROW)[-part:]
        copies[:part] = True
    rows[part : 2 * part] = famous
    copies[part + (index == 0) : 2 * part] = True
    changed = rows["luma"][: 2 * part] + random.integers(-2, 3, (2 * part, 32, 32))
    rows["luma"][: 2 * part] = np.clip(changed, 0, 255)
    rows["digest"][: 2 * part] = random.integers(1, 2**63, (2 * part, 2))
    # As strong as the famous picture at low frequencies, and of other detail.
    mixed = famous["luma"] * 0.6 + rows["luma"][2 * part : 3 * part] * 0.4
    rows["luma"][2 * part : 3 * part] = mixed
    return rows, copies


def run_scale(records: int, workers: int) -> dict[str, float]:
    """Searches among so many synthetic records; returns what it took."""
    with tempfile.TemporaryDirectory() as work:
        job = Job(work, work, ImageSettings(), 0.0)
        job.chunks.mkdir()
        famous = draw_prints(np.random.default_rng(6), 1)[0]
        count, copies = -(-records // _CHUNK), []
        for index in range(count):
            rows, copied = draw_chunk(job, index, famous)
            write_chunk(job, index, rows)
            copies.append(copied)
        made = peak_memory()
        began, cpu = time.perf_counter(), os.times()
        resolve(job, count, Runner(workers=workers))
        seconds, now = time.perf_counter() - began, os.times()
        core = sum(now[:4]) - sum(cpu[:4])
        found = [
            np.array([not outcome["kept"] for outcome in final["outcomes"]])
            for _, final in read_final(job, count)
        ]
        copied, dropped = np.concatenate(copies), np.concatenate(found)
        size = sum(file.stat().st_size for file in (Path(work) / "duplicates").iterdir())
    return {
        "records": count * _CHUNK,
        "seconds": round(seconds, 1),
        "core_microseconds_each": round(1e6 * core / (count * _CHUNK), 1),
        "bytes_on_disk_each": round(size / (count * _CHUNK)),
        "peak_gb": round(peak_memory(), 2),
        "peak_gb_before": round(made, 2),
        "copies_found": round(float(dropped[copied].mean()), 4),
        "dropped_by_mistake": round(float(dropped[~copied].mean()), 6),
    }


def measure_scale(records: int, workers: int) -> dict[str, float]:
    """Runs each number of records in a process of its own; prints and returns what it took."""
    figures = {}
    for number in (records // 100, records // 10, records):
        command = [sys.executable, __file__, "--one-scale", str(number), "--workers", str(workers)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        figure = json.loads(done.stdout.splitlines()[-1])
        print(figure, flush=True)
        figures |= {f"{number} records: {name}": value for name, value in figure.items()}
    return figures


# ---- runners


def draw_source(folder: Path) -> None:
    """Writes 240 pictures, 60 of them copies; each is a unit of work."""
    random = np.random.default_rng(8)
    for number in range(180):
        scene = make_scene(random)
        scene.save(folder / f"{number:03d}.png")
        if number % 3 == 0:
            all_at_once(scene, random).save(folder / f"z{number:03d}.jpg", quality=90)


def contents(out: Path) -> dict[str, str]:
    """Returns the digest of every file of a data set."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def run_dask(source: Path, out: Path, settings: ImageSettings) -> dict[str, int]:
    """Ingests on a Dask cluster of two worker processes, the first of which is killed on the way.

    Returns:
      Units that were finished when it was killed, and the number of workers that took its place.
    """
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        first = next(iter(cluster.workers.values())).pid
        before = {worker.pid for worker in cluster.workers.values()}
        finished: list[int] = []

        def kill() -> None:
            chunks = out / ".ingest_images" / "parts"
            while not list(chunks.glob("??????.json")):
                time.sleep(0.01)
            os.kill(first, signal.SIGKILL)
            finished.append(len(list(chunks.glob("??????.json"))))

        watcher = threading.Thread(target=kill, daemon=True)
        watcher.start()
        options = (f"--dask_client_address={cluster.scheduler_address}",)
        runner = Runner("DaskRunner", options=options)
        ingest(str(source), out, settings, runner=runner, progress=False)
        watcher.join(1)
        now = {worker.pid for worker in cluster.workers.values()}
    return {"units_finished_at_the_kill": finished[0], "workers_started_again": len(now - before)}


def compare_runners() -> dict[str, bool | int]:
    """Prints and returns whether all runners leave the same bytes."""
    settings = ImageSettings(buckets=((64, 64), (64, 80)))
    duplicates._BATCH, duplicates._RANGE = 64, 1024  # several items of every step
    figures: dict[str, bool | int] = {}
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "source"
        source.mkdir()
        draw_source(source)
        found = {}
        for name, runner in (("one process", LOCAL), ("two processes", Runner(workers=2))):
            out = Path(work) / name
            ingest(str(source), out, settings, runner=runner, progress=False)
            found[name] = contents(out)
        figures |= run_dask(source, Path(work) / "dask", settings)
        found["Dask, a worker killed"] = contents(Path(work) / "dask")
        figures["files"] = len(found["one process"])
        for name, files in found.items():
            figures[f"{name}: same bytes"] = files == found["one process"]
    for name, value in figures.items():
        print(f"{name:40} {value}")
    return figures


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--count", type=int, default=1000, help="pictures of each kind")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--likeness", action="store_true")
    parser.add_argument("--scale", type=int, metavar="RECORDS")
    parser.add_argument("--one-scale", type=int, metavar="RECORDS", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--runners", action="store_true")
    args = parser.parse_args()
    if args.one_scale:
        print_figures(run_scale(args.one_scale, args.workers))
    elif args.scale:
        print_figures(measure_scale(args.scale, args.workers))
    elif args.runners:
        print_figures(compare_runners())
    elif args.likeness:
        print_figures(measure_likeness(args.count, 1))
    else:
        print_figures(measure(args.count, args.seed))


if __name__ == "__main__":
    main()
