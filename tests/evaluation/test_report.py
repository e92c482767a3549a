"""The files of an evaluation hold all measures of all settings, and what sets them apart."""

import json

import numpy as np
import pytest

from gen1_jax.evaluation import report


def test_the_summary_compares_settings_on_the_same_videos(tmp_path, sweep):
    records = sweep()
    for record in records:
        record["structure_correlation"] -= 1
    report.write_summary(records, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    first, *others = metrics["settings"]
    assert metrics["structure_correlation"] == first["structure_correlation"]["mean"] < 0
    assert "change" not in first and first["videos"] == 8
    own = [
        [r for r in records if r["temporal_scale"] == w and r["structure_level"] == 0]
        for w in (0.5, 1.5)
    ]
    change = next(s for s in others if s["temporal_scale"] == 1.5)["change"]["frame_consistency"]
    name = "frame_consistency"
    differences = [b[name] - a[name] for a, b in zip(*own, strict=True)]
    assert change["mean"] == pytest.approx(np.mean(differences))
    assert 0.05 < change["low"] < change["mean"] < change["high"] < 0.07
    assert first[name]["half_width"] > 2 * change["half_width"]
    assert "Differences to the first setting" in (tmp_path / "table.md").read_text()


def test_the_summary_by_kind_of_edit(tmp_path, sweep):
    records = [
        record | {"kind": ("object", "style")[int(record["clip"][-1]) % 2], "camera": "still"}
        for record in sweep()
        if record["structure_level"] == 0
    ]
    text = report.write_summary(records, tmp_path, ["structure_correlation"])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert "by_camera" not in metrics  # all are alike
    assert [(r["kind"], r["temporal_scale"], r["videos"]) for r in metrics["by_kind"]] == [
        (kind, scale, 4) for scale in (0.5, 1.0, 1.5) for kind in ("object", "style")
    ]
    (row,) = [r for r in metrics["by_kind"] if (r["kind"], r["temporal_scale"]) == ("style", 1.0)]
    own = [
        r["frame_consistency"]
        for r in records
        if (r["kind"], r["temporal_scale"]) == ("style", 1.0)
    ]
    assert row["frame_consistency"]["mean"] == pytest.approx(np.mean(own))
    assert "By kind:" in (tmp_path / "table.md").read_text()
    assert "frame consistency" not in text and text.count("structure correlation") == 2
    assert "structure level" not in text  # it does not vary
    assert metrics["measures"].keys() == {
        *("frame_consistency", "prompt_consistency", "structure_correlation")
    }
    assert metrics["measures"]["frame_consistency"]["higher_is_better"] is True
