"""The paper's claims on the world: best settings, verdicts, probes, and which parts are done."""

import json

import numpy as np
import pytest
from command_line import gen1, refused

from gen1_jax.evaluation.reproduce import claims, parts, probes, tuning
from gen1_jax.evaluation.reproduce.claims import FALLS, KEEPS, RISES, Claim, Comparison
from gen1_jax.evaluation.reproduce.summary import write_report
from gen1_jax.evaluation.reproduce.work import RESULT, Sizes, Work


def records(method="gen1", frame=0.9, prompt=0.5, count=24, seed=0, **more):
    rng = np.random.default_rng(seed)
    return [
        {"method": method, "video": f"v{i}", "clip": f"v{i}", "prompt": "a red ball", "seed": 0}
        | {"frame_consistency": frame + rng.normal(0, 0.001)}
        | {"prompt_consistency": prompt + rng.normal(0, 0.001)}
        | {"success": float(i % 2), "structure_error": 0.5 + 0.01 * i, "flicker": 1.0}
        | {"structure_correlation": 0.7}
        | more
        for i in range(count)
    ]


def test_a_rival_has_its_best_prompt_consistency_among_what_is_as_steady_as_ours():
    tried = [
        *records(prompt=0.6, guidance_scale=2.0),
        *records(prompt=0.8, guidance_scale=4.0),  # ours: the best for the prompt
        *records("sdedit-video", 0.95, 0.5, strength=0.4),
        *records("sdedit-video", 0.93, 0.7, strength=0.7),
        *records("sdedit-video", 0.80, 0.9, strength=1.0),  # above, but less steady than ours
        *records("sdedit-per-frame", 0.70, 0.6, strength=0.4),  # never as steady as ours
        *records("sdedit-per-frame", 0.60, 0.9, strength=1.0),
    ]
    best = tuning.choose_settings(tried)
    assert best["gen1"] == {"guidance_scale": 4.0}
    assert best["sdedit-video"] == {"strength": 0.7}
    assert best["sdedit-per-frame"] == {"strength": 0.4}


@pytest.mark.parametrize(
    "expected, after, verdict",
    [
        (RISES, 0.6, "shown"),
        (RISES, 0.4, "the opposite"),
        (RISES, 0.5, "not shown"),
        (FALLS, 0.4, "shown"),
        (FALLS, 0.6, "the opposite"),
        (KEEPS, 0.5, "shown"),
        (KEEPS, 0.6, "shown"),
        (KEEPS, 0.4, "the opposite"),
    ],
)
def test_the_verdict_follows_the_change(expected, after, verdict):
    pair = records(), records(prompt=after, seed=1)
    found = claims.judge([Claim("", [Comparison("", *pair, "prompt_consistency", expected)])])
    assert found[0][0].verdict == verdict and claims.sum_up(found[0]) == verdict


def test_holms_correction_is_over_the_comparisons_of_all_claims():
    pair = records(), records(prompt=0.5003, seed=1)
    one = Claim("", [Comparison("", *pair, "prompt_consistency", RISES)])
    alone, many = claims.judge([one])[0][0], claims.judge([one] * 5)[0][0]
    assert many.change.p_holm == pytest.approx(min(1, 5 * alone.change.p))


def test_a_claim_of_two_comparisons_comes_out_in_part():
    pair = records(), records(prompt=0.6)
    both = [Comparison("", *pair, m, RISES) for m in ("prompt_consistency", "frame_consistency")]
    assert claims.sum_up(claims.judge([Claim("", both)])[0]) == "in part: 1 of 2 shown"


def test_a_probe_reads_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    labels, truth = rng.integers(4, size=400), rng.integers(4, size=200)
    there = [np.eye(4)[each] + rng.normal(0, 0.1, (len(each), 4)) for each in (labels, truth)]
    noise = [rng.normal(size=(len(each), 30)) for each in (labels, truth)]
    assert np.mean(probes.read_classes(there[0], labels, there[1], truth)["right"]) > 0.99
    found = probes.read_classes(noise[0], labels, noise[1], truth)
    assert abs(np.mean(found["right"]) - 0.25) < 0.1 and 0.25 <= found["chance"] < 0.35
    places = [x[:, :2] for x in noise]
    assert np.mean(probes.read_places(noise[0], places[0], noise[1], places[1])["right"]) > 0.99
    other = rng.normal(size=(400, 2)), rng.normal(size=(200, 2))
    assert np.mean(probes.read_places(noise[0], other[0], noise[1], other[1])["right"]) < 0.05


def test_a_part_is_done_until_what_it_depends_on_changes(micro_run, tmp_path):
    work = Work(micro_run, tmp_path)
    assert not work.is_done("tuning", ("rivals",))
    work.write_result("rivals", (), {})
    work.write_result("tuning", ("rivals",), {"best": {}})
    assert work.is_done("tuning", ("rivals",)) and work.result("tuning")["best"] == {}
    assert not Work(micro_run, tmp_path, Sizes(clips=9)).is_done("tuning", ("rivals",))
    work.write_result("rivals", (), {"other": 1})
    assert not work.is_done("tuning", ("rivals",))


def test_the_report_says_what_was_shown_and_what_is_not_done(tmp_path):
    found = [
        *records(temporal_scale=1.0, structure_level=0, guidance_scale=2.0),
        *records(prompt=0.6, temporal_scale=1.0, structure_level=3, guidance_scale=2.0),
        *records(prompt=0.7, temporal_scale=1.0, structure_level=7, guidance_scale=2.0),
    ]
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / RESULT).write_text(json.dumps({"records": found}))
    table = write_report(Work(tmp_path, tmp_path))
    text = (tmp_path / "reproduce.md").read_text()
    assert "t_s 0 → 3: prompt consistency +0.1" in table and " shown |" in table
    assert "not done: rivals, tuning, methods" in text and "Shapes:" in text


def test_bad_arguments_are_one_line(micro_run, tmp_path, capsys):
    base = ["reproduce", "-o", tmp_path / "out", "--run"]
    refused(capsys, *base, tmp_path, culprit="no finished run")
    refused(capsys, *base, micro_run, "--parts", "method", culprit="did you mean .methods.")
    refused(capsys, *base, micro_run, "--clips", 0, culprit="--clips 0; 2 or more")
    assert not (tmp_path / "out").exists()


def test_parts_run_after_those_they_need(micro_run, tmp_path, capsys):
    assert gen1(capsys, "reproduce", "--run", micro_run, "-o", tmp_path, "--list")[0] == 0
    seen = set()
    for name, part in parts.PARTS.items():
        assert seen.issuperset(part.needs)
        seen.add(name)
