"""Reads data with the paper's numbers of files and records: 6.4 million clips, 240 million images.

    python benchmarks/at_scale.py [--processes 1 4] [--steps 9] [--form encoded footage]

The files are real, but few: one shard of each kind and size is written, of the size that a large
folder's shards have, and linked under the names of all shards. So the numbers of files, names and
records are the paper's, and so is the size of what each step reads. The benchmark says how much
disk it needs.

For each form of data and each number of processes (of one machine; each reads the rows of one host)
it reports, as the worst of the processes:

- start: seconds until the stream is ready, without the import of libraries;
- first: seconds until its first batch;
- step: median seconds of a further batch;
- files: open files at the end;
- memory: MB that the process takes for itself, beyond what it took before the stream;
- resumed: whether a stream that starts at a later step reads the same rows.

`epoch` is the number of records of the clips' whole epoch that were read twice or never, over all
processes, with either order: all 6.4 million places are drawn. The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from common import make_parser, print_figures

import numpy as np
from scale_data import CLIPS, IMAGES, make_encoded, make_footage

from gen1_jax.data_pipelines import mixture

BATCH, IMAGE_BATCH = 1152, 9216  # clips and images of the paper's step
WINDOW = 4


def settings(form: str, folder: str, window: int | None) -> dict:
    own = {"form": form, "folder": folder, "batch_size": BATCH, "shuffle_window": window}
    own |= {"image_batch_size": IMAGE_BATCH, "num_threads": 1, "prefetch": 1}
    if form == "encoded":
        return own | {
            "fields": ("latents", "latents_logvar", "structure", "structure_level", "content")
        }
    return own | {"fields": ("frames", "structure_level", "content_frame"), "num_frames": 8}


# ---- one process


def measure(form: str, folder: str, window: int | None, host: int, hosts: int, steps: int) -> dict:
    """Reads the rows of one host, and says what that took."""
    from gen1_jax.data_pipelines.sources import make_stream

    def rows(size: int, frames: int) -> range:
        return range(host * size // hosts, (host + 1) * size // hosts)

    before = _memory()
    data = settings(form, folder, window)
    begin = time.perf_counter()
    stream = make_stream(data, seed=0, rows=rows)
    start = time.perf_counter() - begin
    batches, seconds = [], []
    for _ in range(steps):
        begin = time.perf_counter()
        batches.append(_digest(next(stream)))
        seconds.append(time.perf_counter() - begin)
    found = {
        "start_s": start,
        "first_s": seconds[0],
        "step_s": statistics.median(seconds[1:]),
        "files": len(os.listdir("/proc/self/fd")),
        "memory_mb": (_memory() - before) / 1e6,
        "replaced": stream.replaced,
    }
    stream.close()
    again = make_stream(data, seed=0, rows=rows)
    again.set_state({"next_index": steps - 1})
    found["resumed"] = _digest(next(again)) == batches[-1]
    again.close()
    return found


def _digest(batch) -> int:
    return hash(tuple((name, x.shape, x.tobytes()) for name, x in batch.fields().items()))


def _memory() -> int:
    """Returns the bytes that only this process has: neither files' pages nor shared libraries."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no RssAnon")


# ---- an epoch


class Places:
    """The numbers of the clips in place of the clips."""

    def __init__(self, counts: list[int]):
        self.shard_counts, self._count = counts, sum(counts)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict:
        return {"number": np.int64(index)}


def count_missed(counts: list[int], window: int | None, hosts: int) -> int:
    """Returns how many clips an epoch of all hosts reads twice or never.

    With windows, the lanes of a batch have epochs that differ in length by one clip, so an epoch is
    counted lane by lane.
    """
    from gen1_jax.data_pipelines.ordering import Windowed

    source = Places(counts)
    total, seen = len(source), np.zeros(sum(counts), np.int8)
    if window is not None:
        order = Windowed(source, window, BATCH, seed=1)
        per_lane = BATCH // order.lanes
        for lane in range(order.lanes):
            length = (lane + 1) * total // order.lanes - lane * total // order.lanes
            for k in range(length):
                step, row = divmod(k, per_lane)
                seen[order.record(step * BATCH + lane * per_lane + row)] += 1
        return int(np.sum(seen != 1))
    for host in range(hosts):
        rows = range(host * BATCH // hosts, (host + 1) * BATCH // hosts)
        dataset = mixture.batches([source], [], BATCH, rows=rows, seed=1)
        for step in range(-(-total // BATCH)):
            numbers = dataset[step]["number"]
            place = step * BATCH + np.array(rows)
            np.add.at(seen, numbers[place < total], 1)
    return int(np.sum(seen != 1))


# ---- the figures


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=9, help="batches that each process reads")
    parser.add_argument("--form", nargs="+", choices=["encoded", "footage"])
    parser.add_argument("--folder", type=Path, help="where data are made; default: a temporary one")
    parser.add_argument("--no-epoch", action="store_true", help="leave the epoch out")
    parser.add_argument("--child", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        form, folder, window, host, hosts, steps = args.child
        numbers = json.loads(f"[{window}, {host}, {hosts}, {steps}]")
        print(json.dumps(measure(form, folder, *numbers)))
        return
    figures = {"clips": CLIPS, "images": IMAGES}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for form in args.form or ["encoded", "footage"]:
            root = Path(folder) / form
            begin = time.perf_counter()
            files, counts = (make_encoded if form == "encoded" else make_footage)(root)
            print(
                f"{form}: {files:,} files made in {time.perf_counter() - begin:.0f} s", flush=True
            )
            figures[f"{form}_files"] = files
            for window in (None, WINDOW):
                for hosts in args.processes:
                    name = f"{form}_{'all' if window is None else 'window'}_{hosts}"
                    figures[name] = _run(form, root, window, hosts, args.steps)
                    print(name, figures[name], flush=True)
            if form == "encoded" and not args.no_epoch:
                for window in (None, WINDOW):
                    missed = count_missed(counts, window, max(args.processes))
                    figures[f"epoch_{'all' if window is None else 'window'}"] = missed
                    print(
                        f"an epoch of {sum(counts):,} clips misses or repeats {missed}", flush=True
                    )
    print_figures(figures)


def _run(form: str, root: Path, window: int | None, hosts: int, steps: int) -> dict:
    command = [sys.executable, __file__, "--child", form, str(root), json.dumps(window)]
    children = [
        subprocess.Popen([*command, str(host), str(hosts), str(steps)], stdout=subprocess.PIPE)
        for host in range(hosts)
    ]
    found = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    if any(child.returncode for child in children):
        raise SystemExit("a process failed; it says how above")
    worst = {name: round(max(each[name] for each in found), 3) for name in found[0]}
    return worst | {"resumed": all(each["resumed"] for each in found)}


if __name__ == "__main__":
    main()
