"""The sweep: what is measured, what is not made twice, what is replaced."""

import dataclasses
import json

import numpy as np
import pytest

from gen1_jax.diffusion.solvers import SOLVERS
from gen1_jax.errors import UserError
from gen1_jax.evaluation import world as evaluation
from gen1_jax.evaluation.cells import make_grid, settings_of
from gen1_jax.evaluation.methods.gen1 import Gen1, Gen1PerFrame
from gen1_jax.evaluation.methods.registry import make_methods
from gen1_jax.evaluation.records import RUN, record_key
from gen1_jax.evaluation.report import HEADLINE, write_summary
from gen1_jax.evaluation.sweep import run_sweep
from gen1_jax.evaluation.world_items import world_items

GRID = make_grid(structure_level=(0, 7))
METHODS = (Gen1(), Gen1PerFrame())


@pytest.fixture(scope="module")
def world(micro_run):
    return world_items(micro_run / "world", "test", "test", 3)


@pytest.fixture
def sweep(editor, world, quick, tmp_path):
    """Runs a sweep of three clips, two a batch; (records, clips and settings edited)."""

    def sweep(**changes):
        edited = []
        settings = {"num_steps": 1, "batch_size": 2, "progress": False}
        records = run_sweep(
            editor,
            changes.pop("items", world),
            changes.pop("grid", GRID),
            tmp_path,
            methods=METHODS,
            on_edit=lambda item, setting, _: edited.append(
                (item.clip[-1], setting["structure_level"])
            ),
            **settings | changes,
        )
        return records, edited

    return sweep


def close(records: list[dict], others: list[dict]) -> bool:
    """Whether records agree up to rounding, which the place in a batch may change, and time."""
    records, others = ([each | {"seconds": 0} for each in those] for those in (records, others))
    return all(
        r.keys() == o.keys() and all(o[k] == pytest.approx(v, abs=5e-3) for k, v in r.items())
        for r, o in zip(records, others, strict=True)
    )


def test_one_control_varies_around_the_first_values():
    grid = make_grid(structure_level=(0, 3), temporal_scale=(1.0, 0.5), guidance_scale=(4.0,))
    assert [tuple(s.values()) for s in grid] == [(0, 1.0, 4.0), (3, 1.0, 4.0), (0, 0.5, 4.0)]
    assert make_grid() == [{}]


def test_a_full_grid_has_every_combination_once():
    grid = make_grid(False, structure_level=(0, 3), temporal_scale=(1.0, 0.5, 1.0))
    assert [tuple(s.values()) for s in grid] == [(0, 1.0), (0, 0.5), (3, 1.0), (3, 0.5)]


def test_each_method_has_the_controls_that_it_takes():
    settings = settings_of(METHODS, temporal_scale=(0.5, 1.0), structure_level=(0, 3))
    assert [(s["method"], s.get("temporal_scale"), s["structure_level"]) for s in settings] == [
        *(("gen1", scale, level) for scale in (0.5, 1.0) for level in (0, 3)),
        *(("gen1-per-frame", None, level) for level in (0, 3)),
    ]


def test_records_tell_solvers_apart_and_older_ones_count(world):
    key = {"method": "gen1", "num_steps": 15}
    keys = {
        record_key(key | made.identity(world[0]))
        for solver in SOLVERS
        for made in make_methods(["gen1"], None, {}, solver=solver)
    }
    assert len(keys) == 3 and record_key(key) in keys


def test_records_hold_the_settings_and_the_measures(sweep, editor, tmp_path):
    records, edited = sweep()
    assert edited == [("0", 0), ("1", 0), ("0", 7), ("1", 7), ("2", 0), ("2", 7)]
    places = [(r["clip"][-1], r["structure_level"]) for r in records]
    assert places == [(clip, level) for level in (0, 7) for clip in "012"]
    written = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [(r["clip"][-1], r["structure_level"]) for r in written] == edited
    assert sorted(map(str, written)) == sorted(map(str, records))
    for record in records:
        assert record["guidance_scale"] == editor.settings["guidance_scale"]
        assert record["model"] == editor.fingerprint and record["num_steps"] == 1
        assert record["video"] == record["clip"] and record["dtype"] == "float32"
        assert (record["frames"], record["height"], record["stride"]) == (8, 32, 1)
        for name in ("colour_accuracy", "mask_iou"):
            assert 0 <= record[name] <= 1, name
        for name in ("frame_consistency", "prompt_consistency", "structure_correlation"):
            assert -1 <= record[name] <= 1, name  # below 0 for random models only
    assert "structure level" in write_summary(records, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics) == {*HEADLINE, "measures", "settings"}
    settings = metrics.pop("settings")
    base = [r["frame_consistency"] for r in records if r["structure_level"] == 0]
    np.testing.assert_allclose(metrics["frame_consistency"], np.mean(base))
    assert [(s["structure_level"], s["records"]) for s in settings] == [(0, 3), (7, 3)]
    for setting in settings:
        own = [r for r in records if r["structure_level"] == setting["structure_level"]]
        assert setting["guidance_scale"] == editor.settings["guidance_scale"]
        for name in ("frame_consistency", "structure_error", "flicker", "mask_iou"):
            got = setting[name]
            np.testing.assert_allclose(got["mean"], np.mean([r[name] for r in own]))
            assert got["half_width"] >= 0


def test_a_stopped_sweep_goes_on(sweep, tmp_path):
    """Edits whose records are there are not made; a torn line's is, and comes out the same."""
    whole, _ = sweep()
    path = tmp_path / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], *lines[4:5], lines[5][:40]]))
    records, edited = sweep()
    assert edited == [("1", 7), ("2", 7)] and close(records, whole)  # in a batch of their own
    assert len(path.read_text().splitlines()) == 7  # the torn line stays, closed off
    again, edited = sweep()
    assert edited == [] and again == records


def test_noise_follows_the_clip_and_not_the_batch(sweep, world, tmp_path):
    """The same records come of a batch of another size, and of clips in another order."""
    whole, _ = sweep(grid=GRID[:1], batch_size=2)
    (tmp_path / "records.jsonl").unlink()
    records, _ = sweep(grid=GRID[:1], batch_size=2, items=world[::-1])
    assert close(records[::-1], whole)
    (tmp_path / "records.jsonl").unlink()
    records, _ = sweep(grid=GRID[:1], batch_size=2, items=world[2:])
    assert close(records, whole[2:])
    (tmp_path / "records.jsonl").unlink()
    records, _ = sweep(grid=GRID[:1], seeds=(1,))
    assert not close([record | {"seed": 0} for record in records], whole)


def test_depth_and_content_are_computed_once_for_all_settings(sweep, editor, monkeypatch):
    calls = []
    for name in ("text_content", "estimate_depth"):
        made = getattr(editor, name)
        monkeypatch.setitem(
            editor.__dict__, name, lambda *a, f=made, n=name: calls.append(n) or f(*a)
        )
    sweep()
    assert calls.count("text_content") == 2  # batches
    assert calls.count("estimate_depth") == 2 + 4  # of the sources, and of the edits to measure


def test_the_baseline_edits_each_frame_alone(sweep, tmp_path):
    plain, _ = sweep(grid=GRID[:1])
    records, edited = sweep(grid=settings_of(METHODS))
    assert len(edited) == 3 and records[:3] == plain
    assert {r["method"] for r in records[3:]} == {"gen1-per-frame"}
    assert all("temporal_scale" not in record for record in records[3:])
    like = [r | {"method": "gen1", "temporal_scale": 1.0} for r in records[3:]]
    assert not close(sorted_keys(like), sorted_keys(plain))
    assert "gen1-per-frame" in write_summary(records, tmp_path)
    first, second = json.loads((tmp_path / "metrics.json").read_text())["settings"]
    assert (first["method"], second["method"]) == ("gen1", "gen1-per-frame")
    assert "change" in second and "temporal_scale" not in second
    assert not (tmp_path / "trends.png").exists()  # no control varies


def sorted_keys(records: list[dict]) -> list[dict]:
    return [dict(sorted(record.items())) for record in records]


def test_several_seeds_are_cells_of_their_own(sweep):
    first, _ = sweep(grid=GRID[:1])
    records, edited = sweep(grid=GRID[:1], seeds=(0, 1, 1))  # one given twice counts once
    assert len(edited) == 3 and records[:3] == first
    assert [r["seed"] for r in records] == [0, 0, 0, 1, 1, 1]


def test_no_edit_is_made_again_for_a_video_without_room(sweep):
    """Whether there is room is known when a batch's turn comes, and every edit is asked about."""
    records, _ = sweep(grid=GRID[:1])
    asked = []

    def is_missing(item, setting):
        asked.append(item.clip)
        return len(asked) <= len(records)  # the room is taken when the edits begin

    assert sweep(grid=GRID[:1], is_missing=is_missing) == (records, [])
    assert asked[:3] == [record["clip"] for record in records]


def test_a_record_counts_only_with_all_measures(sweep, tmp_path, capsys):
    """An earlier version took fewer measures; another one more is asked for now."""
    few, edited = sweep(grid=GRID[:1], metrics=("frame_consistency",))
    assert len(edited) == 3 and not any("flicker" in record for record in few)
    whole, edited = sweep(grid=GRID[:1])
    assert len(edited) == 3 and close(
        [{k: r[k] for k in f} for r, f in zip(whole, few, strict=True)], few
    )
    said = "".join(capsys.readouterr())
    assert "3 records lack measures" in said and "flicker" in said
    assert sweep(grid=GRID[:1]) == (whole, [])
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 6


def test_records_of_other_frames_or_another_type_do_not_count(sweep, tmp_path, capsys):
    whole, _ = sweep(grid=GRID[:1])
    path = tmp_path / "records.jsonl"
    others = [record | {name: "another"} for record in whole for name in RUN]
    # As they were written before there were such fields.
    others += [
        {k: v for k, v in record.items() if k not in ("video", *RUN[1:])} for record in whole
    ]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in others))
    again, edited = sweep(grid=GRID[:1])
    assert edited == [("0", 0), ("1", 0), ("2", 0)] and close(again, whole)
    assert f"none of its {len(others)} records" in "".join(capsys.readouterr())
    assert sweep(grid=GRID[:1]) == (again, [])


def test_records_of_another_video_of_the_same_name_do_not_count(sweep, world):
    first, _ = sweep(grid=GRID[:1], items=world[:2])
    other = dataclasses.replace(world[1], frames=world[1].frames[:, ::-1])
    records, edited = sweep(grid=GRID[:1], items=[world[0], other])
    assert edited == [("1", 0)] and records[0] == first[0] != records[1] != first[1]


def test_records_of_another_model_or_number_of_steps_do_not_count(sweep, editor, monkeypatch):
    first, _ = sweep(grid=GRID[:1])
    records, edited = sweep(grid=GRID[:1], num_steps=2)
    assert len(edited) == len(records) == 3 and all(r["num_steps"] == 2 for r in records)
    monkeypatch.setitem(editor.__dict__, "fingerprint", "another!")
    records, edited = sweep(grid=GRID[:1], num_steps=2)
    assert len(edited) == 3 and {r["model"] for r in records} == {"another!"}
    assert sweep(grid=GRID[:1], num_steps=2) == (records, [])


def test_only_the_records_asked_for_come_back(sweep, world):
    sweep()
    records, edited = sweep(grid=GRID[1:], items=world[:2])
    assert edited == [] and len(records) == 2
    assert {r["structure_level"] for r in records} == {7}


def test_pictures_of_a_stopped_evaluation_are_made_after_all(sweep, world):
    sweep()
    _, edited = sweep(is_missing=lambda item, setting: item is world[2])
    assert edited == [("2", 0), ("2", 7)]


def test_nothing_to_evaluate_is_refused(sweep):
    with pytest.raises(UserError, match="no clips"):
        sweep(items=[])


def test_the_evaluation_part_makes_its_pictures_once(
    editor, micro_run, quick, tmp_path, monkeypatch
):
    """As `gen1 all` runs it; broken off after its records, it makes the pictures on going on."""
    from micro_run import load_evaluation

    config = load_evaluation(micro_run, num_clips=2, num_pictured=2)
    monkeypatch.setattr(evaluation.VideoEditor, "load", lambda *_, **__: editor)
    picture_edits = evaluation.picture_edits

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "picture_edits", broken)
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate_world(config, tmp_path, False)
    monkeypatch.setattr(evaluation, "picture_edits", picture_edits)
    evaluation.evaluate_world(config, tmp_path, False)
    names = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert names == {
        *("records.jsonl", "table.md", "metrics.json", "trends.png", "contact_sheet.png"),
        *(
            "trade_off.png",
            "controls.png",
            "edits.gif",
            "edit_00.mp4",
            "edit_01.mp4",
            "pictures.json",
        ),
    }
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 4
    monkeypatch.setattr(evaluation, "picture_edits", broken)
    evaluation.evaluate_world(config, tmp_path, False)  # all is there
    config.structure_level = (7, 0)  # the records of both are there, the pictures show another edit
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate_world(config, tmp_path, False)
