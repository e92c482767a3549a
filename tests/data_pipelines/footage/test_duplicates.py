"""The search over chunks: what is dropped, in which order, in pieces of any size, and resumed."""

import numpy as np
import pytest
from test_neighbours import draw

from gen1_jax.data_pipelines.footage import duplicates
from gen1_jax.data_pipelines.footage.chunks import Job
from gen1_jax.data_pipelines.footage.duplicates import read_final, resolve
from gen1_jax.data_pipelines.footage.images import ImageSettings
from gen1_jax.data_pipelines.footage.neighbours import PAIR
from gen1_jax.data_pipelines.footage.outcomes import Outcome
from gen1_jax.data_pipelines.footage.runner import LOCAL
from gen1_jax.files import write_json


def make_job(work, chunks):
    job = Job(str(work), str(work), ImageSettings(), 0.0)
    job.chunks.mkdir(parents=True)
    for index, rows in enumerate(chunks):
        if len(rows):
            job.chunk(index, ".prints").write_bytes(rows.tobytes())
        inputs = len(np.unique(rows["input"]))
        records = rows["input"][rows["frame"] == 0].tolist()
        outcomes = [Outcome(f"{index}/{i}", kept=records.count(i)) for i in range(inputs)]
        content = {
            "outcomes": [outcome.to_json() for outcome in outcomes],
            "records": [(each, "train", 1) for each in records],
        }
        write_json(job.chunk(index, ".json"), content)
    return job


def changed(rows, random):
    """Returns prints of near-copies."""
    copies = rows.copy()
    copies["luma"] = np.clip(rows["luma"] + random.integers(-2, 3, rows["luma"].shape), 0, 255)
    copies["digest"] = random.integers(1, 2**63, (len(rows), 2))
    return copies


@pytest.fixture(scope="module")
def chunks():
    """Three chunks of 40 pictures, and an empty one; the last two of them begin with copies."""
    random = np.random.default_rng(3)
    rows = [draw(random, 40) for _ in range(3)]
    rows[1][:10] = changed(rows[0][10:20], random)
    rows[2][:5] = changed(rows[1][30:35], random)
    rows[2][5] = rows[0][0]
    for each in rows:
        each["input"] = np.arange(40)
    return [rows[0], rows[1], np.zeros(0, rows[0].dtype), rows[2]]


def kept(job, count):
    return [
        [place for place, _ in final["splits"].get("train", [])]
        for _, final in read_final(job, count)
    ]


def finals(job):
    return {path.name: path.read_bytes() for path in sorted(job.chunks.glob("*.final.json"))}


def test_the_later_of_two_inputs_is_dropped(chunks, tmp_path):
    job = make_job(tmp_path / "work", chunks)
    resolve(job, 4, LOCAL)
    assert kept(job, 4) == [list(range(40)), list(range(10, 40)), [], list(range(6, 40))]
    found = [final for _, final in read_final(job, 4)]
    assert found[1]["same"] == [[i, 0, 10 + i] for i in range(10)]
    assert found[3]["same"] == [[i, 1, 30 + i] for i in range(5)] + [[5, 0, 0]]
    assert found[1]["outcomes"][0]["dropped"] == {"duplicate": 1}
    assert found[1]["outcomes"][0]["kept"] == 0


def test_pieces_of_any_size_and_a_stop_change_nothing(chunks, tmp_path, monkeypatch):
    whole = make_job(tmp_path / "whole", chunks)
    resolve(whole, 4, LOCAL)
    monkeypatch.setattr(duplicates, "_BATCH", 32)
    monkeypatch.setattr(duplicates, "_RANGE", 300)
    monkeypatch.setattr(duplicates.neighbours, "SAMPLED", 64)
    job = make_job(tmp_path / "pieces", chunks)
    for step in ("write_pairs", "write_final"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(duplicates, step, stop_at(getattr(duplicates, step), 2))
            resolve(job, 4, LOCAL)
    with monkeypatch.context() as patch:
        patch.setattr(duplicates, "write_batch", None)  # batches are not sorted again
        resolve(job, 4, LOCAL)
    assert len(list((tmp_path / "pieces/duplicates").glob("*.entries"))) == 4
    assert len(list((tmp_path / "pieces/duplicates").glob("*.pairs"))) >= 5
    assert finals(job) == finals(whole)


def stop_at(function, number):
    left = [number]

    def call(*arguments):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return function(*arguments)

    call.__name__ = function.__name__
    return call


def test_records_of_one_input_and_known_ones(chunks, tmp_path):
    """Copies within an input stay; records that the data set holds come before all others."""
    random = np.random.default_rng(4)
    rows = np.concatenate([chunks[0][:4], changed(chunks[0][:4], random)])
    rows["input"] = 0
    known = tmp_path / "known"
    known.write_bytes(np.concatenate([changed(chunks[0][2:3], random)] * 2).tobytes())
    job = make_job(tmp_path / "work", [rows])
    resolve(job, 1, LOCAL, known=[known])
    assert kept(job, 1) == [[0, 1, 3, 4, 5, 7]]
    assert next(read_final(job, 1))[1]["same"] == [[0, -1, 2], [0, -1, 2]]


def test_candidates_with_other_detail_or_colour_stay(chunks, tmp_path):
    """They have the same keys as an earlier picture, which is what makes them candidates."""
    rows = chunks[0][:4].copy()
    rows["digest"] += 1
    rows["chroma"][:2] = 90
    fine = np.random.default_rng(5).integers(-30, 31, (2, 16, 16)).repeat(2, 1).repeat(2, 2)
    rows["luma"][2:] = np.clip(rows["luma"][2:] * 0.8 + 25 + fine, 0, 255)
    job = make_job(tmp_path / "work", [chunks[0][:4], rows])
    resolve(job, 2, LOCAL)
    pairs = np.fromfile(tmp_path / "work/duplicates/000000.pairs", PAIR, offset=16)
    assert len(np.unique(pairs["later"])) >= 3
    assert kept(job, 2) == [list(range(4))] * 2
