"""Reads of very many files: few are open at once, and an error of reading is no damage."""

import os
import resource
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from encoded_files import LEVELS, write_folder

from gen1_jax.data_pipelines import shards
from gen1_jax.data_pipelines.encoded.batches import make_encoded_stream
from gen1_jax.data_pipelines.encoded.reader import EncodedSource
from gen1_jax.data_pipelines.encoded.writer import SHARD_BYTES, choose_records_per_shard
from gen1_jax.data_pipelines.ordering import Windowed
from gen1_jax.errors import Damaged, TryAgain, UserError


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(shards, "_PAUSES", (0, 0))


# ---- files


@pytest.fixture
def few_files():
    """Limits this process to 30 more files than it has open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_more_files_than_may_be_open_are_read(tmp_path, monkeypatch, few_files):
    """100 shards are read in random order by four threads, with 30 files to open."""
    pool = shards.Pool(shards._open, os.close, most=12)
    monkeypatch.setattr(shards, "_descriptors", pool)
    folder = write_folder(tmp_path / "train", count=400)
    source = EncodedSource(folder)
    assert source.shard_counts == [4] * 100
    order = np.random.default_rng(0).permutation(400).tolist()
    with ThreadPoolExecutor(4) as threads:
        tokens = list(threads.map(lambda index: int(source[index]["tokens"][0]), order))
    assert tokens == order and len(pool) <= 12


def test_a_file_in_use_is_not_closed():
    closed = []
    pool = shards.Pool(lambda name: [name], closed.append, most=1)
    with pool.use("a") as a:
        with pool.use("b"):
            assert not closed
        assert a == ["a"] and closed == [["b"]]
        pool.forget("a")
        assert not closed[1:]
    with pool.use("c"):
        pass
    assert closed == [["b"], ["a"]] and len(pool) == 1


def test_threads_that_open_one_file_share_it():
    opened, closed, together = [], [], threading.Barrier(3)

    def open_file(name):
        together.wait()
        opened.append(object())
        return opened[-1]

    pool = shards.Pool(open_file, closed.append, most=4)

    def use(_):
        with pool.use("a") as handle:
            together.wait()
            return handle

    with ThreadPoolExecutor(3) as threads:
        handles = set(threads.map(use, range(3)))
    assert len(handles) == 1 and len(closed) == 2 and handles.isdisjoint(closed)


# ---- errors of reading


def test_an_error_of_reading_is_tried_again(monkeypatch, no_pauses):
    failures = [OSError(24, "Too many open files"), OSError(5, "Input/output error")]

    def read():
        if failures:
            raise failures.pop()
        return b"whole"

    assert shards.trying_again(read, "x") == b"whole"


def test_an_error_of_opening_is_not_called_damage(tmp_path, monkeypatch, no_pauses):
    """Nothing is replaced: the run ends, and a new start may cure it."""
    source = EncodedSource(write_folder(tmp_path / "train"))

    def refuse(path):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(shards, "_descriptors", shards.Pool(refuse, os.close))
    with pytest.raises(TryAgain, match="cannot read .*clips-000001.records: Too many open files"):
        source[5]["tokens"]
    stream = make_encoded_stream(source, batch_size=2, levels=LEVELS, num_threads=0)
    with pytest.raises(TryAgain, match=r"Too many open files \(tried 3 times\)"):
        next(stream)
    assert not source.damage.records


def test_a_file_that_ends_early_is_damage(tmp_path):
    folder = write_folder(tmp_path / "train")
    path = folder / "clips-000000.records"
    path.write_bytes(path.read_bytes()[:-1])
    source = EncodedSource(folder)
    assert len(source[0]["structure"][2]) == 4
    with pytest.raises(Damaged, match="record 3 of .* 1155 bytes; 1156 are expected"):
        source[3]["structure"][2]


def test_a_missing_file_is_found_before_a_record_is_read(tmp_path):
    folder = write_folder(tmp_path / "train")
    (folder / "clips-000001.records").unlink()
    with pytest.raises(UserError, match="train lacks clips-000001.records"):
        EncodedSource(folder)


# ---- sizes of files


@pytest.mark.parametrize(
    ("size", "count", "most_files"),
    [(1_150_000, 6_400_000, 14_000), (143_000, 240_000_000, 66_000)],  # the paper's clips, images
)
def test_files_of_a_large_folder_are_sized_by_bytes(size, count, most_files):
    records = choose_records_per_shard(size, count)
    assert SHARD_BYTES <= records * size < SHARD_BYTES + size
    assert count / records < most_files


def test_a_small_folder_has_files_to_share():
    assert choose_records_per_shard(100_000, 50) == 64
    assert choose_records_per_shard(100_000, 64 * 100) == 100
    assert choose_records_per_shard(10**9, 100) == 1


# ---- windows of files


class Counted:
    """A source of numbers in files of these lengths."""

    def __init__(self, counts):
        self.shard_counts = counts

    def __len__(self):
        return sum(self.shard_counts)

    def __getitem__(self, index):
        return index


@pytest.mark.parametrize(
    ("counts", "batch_size", "window"),
    [([5, 3, 7, 1], 8, 1), (range(1, 38), 24, 2), ([3], 4, 1), ([40] * 20, 64, 4), ([6] * 9, 1, 3)],
)
def test_an_epoch_of_windows_holds_every_record_once(counts, batch_size, window):
    source = Counted(list(counts))
    order, total = Windowed(source, window, batch_size, seed=1), len(source)
    rows, lanes = batch_size // order.lanes, order.lanes
    read = [[] for _ in range(lanes)]
    for index in range((3 * total // batch_size + 4) * batch_size):
        read[index % batch_size // rows].append(order[index])
    lengths = [(k + 1) * total // lanes - k * total // lanes for k in range(lanes)]
    assert max(lengths) - min(lengths) <= 1
    epochs = [
        [own[n * epoch : n * (epoch + 1)] for own, n in zip(read, lengths, strict=True)]
        for epoch in range(2)
    ]
    flat = [[record for own in lanes for record in own] for lanes in epochs]
    assert sorted(flat[0]) == sorted(flat[1]) == list(range(total))
    assert flat[0] != flat[1] or total < 8


def test_a_host_reads_few_files_at_a_time():
    """Of 1,000 files, one of 8 hosts touches those of its own lanes' windows."""
    order = Windowed(Counted([50] * 1000), window=2, batch_size=64, seed=0)
    assert order.lanes == 64
    own = range(8)  # the first host's rows of each batch
    files = {order[step * 64 + row] // 50 for step in range(100) for row in own}
    assert len(files) <= 8 * 3
    near = [order[step * 64] for step in range(100)]  # one lane's first window
    assert len(set(near)) == 100 and near != sorted(near)


def test_a_stream_of_windows_is_the_same_for_any_hosts_and_resumes(tmp_path):
    folder = write_folder(tmp_path / "train", count=40)
    options = {"batch_size": 8, "levels": LEVELS, "fields": ("latents", "tokens")}
    options |= {"shuffle_window": 2, "image_batch_size": 8}

    def read(steps, state=0, **others):
        stream = make_encoded_stream(EncodedSource(folder), **options | others)
        stream.set_state({"next_index": state})
        batches = [next(stream).tokens[:, 0].tolist() for _ in range(steps)]
        stream.close()
        return batches

    whole = read(10)
    assert whole != read(10, shuffle_window=None)
    halves = [read(10, rows=lambda size, n, i=i: range(i, size, 2)) for i in range(2)]
    assert [[*a[:1], *b[:1]] for a, b in zip(*halves, strict=True)] == [own[:2] for own in whole]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(own) for own in whole]
    assert read(4, state=6) == whole[6:] == read(4, state=6, num_workers=1)
    videos = [step for step in range(10) if step != 7]  # one batch in eight holds images
    assert sorted(sum((whole[step] for step in videos[:5]), [])) == list(range(40))
