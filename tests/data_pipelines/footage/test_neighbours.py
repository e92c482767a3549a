"""The index of keys: near-copies share one, and ranges of any size find the same pairs."""

import numpy as np
import pytest

from gen1_jax.data_pipelines.footage import neighbours
from gen1_jax.data_pipelines.footage.prints import ROW, cosines


def draw(random, count):
    """Returns prints [count] of random detail."""
    basis, frequency = cosines(16), np.hypot(*np.meshgrid(np.arange(16), np.arange(16)))
    detail = random.standard_normal((count, 16, 16)) * 900 / np.maximum(1, frequency) ** 1.5
    rows = np.zeros(count, ROW)
    rows["luma"] = np.clip(basis.T @ detail @ basis + 128 - detail[:, :1, :1] / 32, 0, 255)
    rows["digest"], rows["frames"] = random.integers(1, 2**63, (count, 2)), 1
    rows["input"] = np.arange(count)
    return rows


@pytest.fixture(scope="module")
def rows():
    return draw(np.random.default_rng(1), 600)


def pairs_of(entries, before=0):
    found = [pairs for _, pairs in neighbours.find_pairs(entries, before)]
    return np.unique(np.concatenate([*found, np.zeros(0, neighbours.PAIR)]))


def in_order(entries):
    return entries[np.lexsort((entries["place"], entries["key"]))]


def test_copies_and_mirrored_ones_are_candidates(rows):
    random = np.random.default_rng(2)
    copies = rows.copy()
    copies["luma"] = np.clip(rows["luma"] + random.integers(-3, 4, rows["luma"].shape), 0, 255)
    copies["luma"][::2] = copies["luma"][::2, :, ::-1]
    copies["digest"] = random.integers(1, 2**63, (len(rows), 2))
    entries = [neighbours.make_entries(each, chunk, 0) for chunk, each in enumerate((rows, copies))]
    assert len(entries[0]) == 17 * len(rows)
    pairs = pairs_of(in_order(np.concatenate(entries)))
    chunks, numbers = neighbours.chunk_and_row(pairs["later"])
    firsts = neighbours.chunk_and_row(pairs["first"])
    true = (chunks == 1) & (firsts[0] == 0) & (firsts[1] == numbers)
    assert len(np.unique(numbers[true])) >= 595 and true.mean() > 0.99
    assert (pairs["distance"] != neighbours.EXACT).all()


def test_equal_digests_are_exact_and_need_no_detail(rows):
    plain = np.zeros(4, ROW)
    plain["digest"], plain["input"] = [[5, 6], [5, 6], [5, 7], [5, 6]], [0, 1, 2, 1]
    entries = in_order(neighbours.make_entries(plain, 0, 0))
    assert len(entries) == 4
    pairs = pairs_of(entries)
    assert (pairs["distance"] == neighbours.EXACT).all()
    assert {(int(pair["first"]), int(pair["later"])) for pair in pairs} == {(0, 1), (0, 3)}
    assert (pairs["input"] == 0).all()


def test_ranges_do_not_change_what_is_found(rows, tmp_path, monkeypatch):
    """One picture of five has the same key, and must be split without losing a pair."""
    monkeypatch.setattr(neighbours, "SAMPLED", 32)
    rows = rows.copy()
    rows["luma"][::5] = rows["luma"][0]
    paths = [tmp_path / f"{number}.entries" for number in range(3)]
    every = []
    for number, path in enumerate(paths):
        entries = neighbours.make_entries(rows[200 * number : 200 * number + 200], number, 0)
        neighbours.write_entries(entries, path)
        every.append(entries)
    whole = in_order(np.concatenate(every))
    bounds = neighbours.choose_bounds([neighbours.read_sample(path) for path in paths], 256)
    assert len(bounds) > 20
    found, sizes, own = [], [], []
    for number, lower in enumerate(bounds):
        upper = bounds[number + 1] if number + 1 < len(bounds) else None
        entries, before = neighbours.read_range(paths, lower, upper)
        assert before <= neighbours.WINDOW
        sizes.append(len(entries) - before)
        own.append(entries[before:])
        found.append(pairs_of(entries, before))
    np.testing.assert_array_equal(np.concatenate(own), whole)
    assert max(sizes) < 1024  # of 10,200: about 256, and half-read samples of three files
    np.testing.assert_array_equal(np.unique(np.concatenate(found)), pairs_of(whole))


def test_a_record_of_a_key_that_all_share_is_compared_with_few(rows):
    rows = np.repeat(rows[:1], 3000)
    rows["input"], rows["digest"] = np.arange(3000), np.arange(1, 6001).reshape(3000, 2)
    entries = in_order(neighbours.make_entries(rows, 0, 0))
    steps = list(neighbours.find_pairs(entries, 0))
    assert len(steps) == neighbours.WINDOW
    assert sum(len(pairs) for _, pairs in steps) <= 16 * 3000 * neighbours.WINDOW
    later = np.unique(np.concatenate([pairs["later"] for _, pairs in steps]))
    assert len(later) == 2999  # all but the first
