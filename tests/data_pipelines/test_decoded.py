"""Damaged records are named, counted, and replaced by others that every host draws alike."""

import warnings

import numpy as np
import pytest

from gen1_jax.data_pipelines.decoded import Decoded
from gen1_jax.errors import Damaged, UserError


def decode_unless(damaged):
    def decode(record):
        if record in damaged:
            raise Damaged(f"record {record} is damaged")
        return {"value": record}

    return decode


def values(source):
    return [source[i]["value"] for i in range(len(source))]


def test_whole_records_are_decoded():
    assert values(Decoded(range(10), decode_unless(()))) == list(range(10))


def test_a_damaged_record_is_always_replaced_by_the_same_other():
    damaged = {3, 17, 18}
    first, second = (Decoded(range(100), decode_unless(damaged), max_damaged=0.1) for _ in range(2))
    with pytest.warns(UserWarning) as noted:
        read = values(first)
    assert [int(str(w.message).split()[1]) for w in noted] == sorted(damaged)
    assert "3 of 100 records" in str(noted[-1].message)
    assert set(first.damage.records) == damaged
    assert not set(read) & damaged
    assert [v for i, v in enumerate(read) if i not in damaged] == sorted({*range(100)} - damaged)
    # Another process reads them in another order, and draws the same.
    with pytest.warns(UserWarning):
        assert [second[i]["value"] for i in (18, 3, 17)] == [read[i] for i in (18, 3, 17)]


def test_a_record_is_noted_once():
    source = Decoded(range(5), decode_unless({2}))
    with pytest.warns(UserWarning, match="record 2 is damaged"):
        once = source[2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert source[2] == once


def test_replacements_favour_no_record():
    damaged = set(range(0, 1000, 2))
    source = Decoded(range(1000), decode_unless(damaged), max_damaged=1)
    with pytest.warns(UserWarning):
        replaced = [source[i]["value"] for i in damaged]
    assert np.bincount(replaced).max() <= 8  # 500 draws among 500 records
    assert 450 < np.mean(replaced) < 550


def test_too_many_are_an_error():
    source = Decoded(range(2000), decode_unless({1, 2, 3}))
    with pytest.warns(UserWarning):
        source[1], source[2]
    with pytest.raises(UserError, match="record 3 is damaged; 3 of 2000"):
        source[3]


def test_a_source_without_one_whole_record_ends():
    with pytest.raises(UserError, match="damaged"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Decoded(range(40), decode_unless(range(40)), max_damaged=1)[0]


def test_other_errors_pass():
    def decode(record):
        raise OSError("the network is down")

    with pytest.raises(OSError, match="network"):
        Decoded(range(3), decode)[0]
