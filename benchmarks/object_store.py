"""Reads encoded clips from an object store in both orders: what a host asks for, and its time.

    python benchmarks/object_store.py [--latency 0.03] [--steps 24] [--threads 8]

The store is moto's S3 server, which this benchmark starts on this machine; `--latency` adds seconds
to every request, as a store at a distance takes. The clips have the paper's size. One of 8 hosts
reads its rows of each batch:

- all, asked: all clips are shuffled together, and each record's entries are asked for;
- window, asked: files are shuffled within windows of 2, and entries are asked for;
- window, copied: the same order, and files are copied whole to the local disk (data.shard_cache).

For each it reports requests, megabytes and seconds a batch, and the clips that a batch takes from
this host. The last line is one JSON object.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from common import make_parser, print_figures

from scale_data import write_clips

from gen1_jax.data_pipelines.encoded.batches import make_encoded_stream
from gen1_jax.data_pipelines.encoded.reader import EncodedSource
from gen1_jax.data_pipelines.shards import ShardCache
from gen1_jax.stores import StorePath, upload_folder

HOSTS, BATCH, WINDOW = 8, 16, 2
FIELDS = ("latents", "structure", "structure_level", "content")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}


class Counted:
    """Counts what is asked of the store, and makes each request later."""

    def __init__(self, latency: float):
        self._latency = latency
        self.requests = self.bytes = 0
        self._range, self._download = StorePath.read_range, StorePath.download

    def __enter__(self) -> "Counted":
        def read_range(path, offset, length):
            self._note(length)
            return self._range(path, offset, length)

        def download(path, file):
            self._note(path.size())
            return self._download(path, file)

        StorePath.read_range, StorePath.download = read_range, download
        return self

    def __exit__(self, *raised) -> None:
        StorePath.read_range, StorePath.download = self._range, self._download

    def _note(self, size: int) -> None:
        self.requests += 1
        self.bytes += size
        time.sleep(self._latency)


def start_store() -> subprocess.Popen:
    """Starts moto's server, and points the libraries to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    code = "import sys; from moto.server import main; main(sys.argv[1:])"
    server = subprocess.Popen(
        [sys.executable, "-c", code, "-H", "127.0.0.1", "-p", port],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.environ |= CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                return server
        time.sleep(0.1)
    raise SystemExit("moto's server does not answer")


def read(folder: str, window: int | None, cache: str, args) -> dict:
    source = EncodedSource(folder, partial(ShardCache, cache, 10**9) if cache else None)
    stream = make_encoded_stream(
        source,
        batch_size=BATCH,
        image_fraction=0.0,
        fields=FIELDS,
        shuffle_window=window,
        rows=lambda size, frames: range(size // HOSTS),
        num_threads=args.threads,
        prefetch=args.threads,
    )
    seconds = []
    with Counted(args.latency) as counted:
        for _ in range(args.steps):
            begin = time.perf_counter()
            next(stream)
            seconds.append(time.perf_counter() - begin)
        stream.close()
    return {
        "requests": round(counted.requests / args.steps, 2),
        "megabytes": round(counted.bytes / args.steps / 1e6, 2),
        "seconds": round(sum(seconds) / args.steps, 3),
        "median": round(statistics.median(seconds), 3),
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--latency", type=float, default=0.03, help="seconds added to a request")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--shards", type=int, default=32)
    args = parser.parse_args()
    server = start_store()
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as local:
            write_clips(Path(local, "train"), shards=args.shards, per_shard=16)
            store = StorePath("s3://clips/train")
            store._store.mkdir("clips")
            upload_folder(Path(local, "train"), store)
            figures = {"clips_of_a_batch": BATCH // HOSTS, "latency": args.latency}
            figures["all_asked"] = read(str(store), None, "", args)
            figures["window_asked"] = read(str(store), WINDOW, "", args)
            figures["window_copied"] = read(str(store), WINDOW, f"{local}/cache", args)
        for name, found in figures.items():
            print(name, found)
        print_figures(figures)
    finally:
        server.kill()


if __name__ == "__main__":
    main()
