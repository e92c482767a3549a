"""Means agree with hand counts, tables line up, plots show every point."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from gen1_jax.errors import UserError
from gen1_jax.evaluation import report


def sweep(clips: int = 8) -> list[dict]:
    """Records as a model with the paper's trends would give them."""
    rng = np.random.default_rng(0)
    records = []
    for clip in range(clips):
        base = rng.normal(0, 0.05)
        for temporal, level in itertools.product((0.5, 1.0, 1.5), (0, 3, 7)):
            noise = rng.normal(0, 0.005, 3)
            records.append(
                {
                    "clip": f"clip{clip}",
                    "prompt": "a red ball",
                    "temporal_scale": temporal,
                    "structure_level": level,
                    "guidance_scale": 4.0,
                    "frame_consistency": 0.85 + 0.06 * temporal + base + noise[0],
                    "prompt_consistency": 0.3 - 0.03 * temporal + 0.01 * level + base + noise[1],
                    "structure_correlation": 0.95 - 0.04 * level + noise[2],
                }
            )
    return records


# ---- means and tables


def test_summarise_by_hand():
    records = [
        {"clip": "a", "temporal_scale": 1.0, "frame_consistency": 0.8, "flicker": None},
        {"clip": "b", "temporal_scale": 1.0, "frame_consistency": 0.6, "flicker": 2.0},
        {"clip": "a", "temporal_scale": 0.5, "frame_consistency": 0.4},
    ]
    low, high = report.summarise(records)
    assert (low["temporal_scale"], high["temporal_scale"]) == (0.5, 1.0)
    assert (low["count"], high["count"]) == (1, 2)
    assert high["frame_consistency"].mean == pytest.approx(0.7)
    assert high["frame_consistency"].half_width == pytest.approx(12.706 * 0.1, rel=1e-3)
    assert high["flicker"].count == 1 and low["flicker"].count == 0
    assert "structure_level" not in low and "prompt_consistency" not in low
    # several records of one video are one observation
    seeds = [{"clip": f"a#{i}", "video": "a", "flicker": float(i)} for i in range(9)]
    (row,) = report.summarise([*seeds, {"clip": "b", "flicker": 6.0}], by=())
    assert (row["count"], row["videos"]) == (10, 2)
    assert row["flicker"].count == 2 and row["flicker"].mean == 5.0
    mixed = [{"method": None, "flicker": 1.0}, {"method": "sdedit", "flicker": 2.0}]
    assert [row["method"] for row in report.summarise(mixed, by=("method",))] == [None, "sdedit"]


def test_table_lines_up():
    rows = report.summarise(sweep(), by=("temporal_scale", "structure_level"))
    lines = report.format_table(rows).splitlines()
    assert len(lines) == 2 + 9 and len({len(line) for line in lines}) == 1
    assert lines[0].split()[:2] == ["temporal", "scale"] and "±" in lines[2]
    marked = report.format_table(rows, markdown=True).splitlines()
    assert all(line.startswith("| ") and line.count("|") == 8 for line in marked)
    assert set(marked[1]) == set("|-: ")
    assert "-" in report.format_table([{"a": 1}, {"b": None}]).splitlines()[-1]
    assert report.format_table([]) == "(no records)"


def test_the_summary_compares_settings_on_the_same_videos(tmp_path):
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


# ---- the plot


def test_plot_is_drawn(tmp_path):
    report.plot_trends(sweep(), tmp_path / "plots/t.png")
    image = np.asarray(Image.open(tmp_path / "plots/t.png").convert("RGB")).astype(int)
    assert image.shape[1] > image.shape[0] > 500
    coloured = (image.max(-1) - image.min(-1) > 60).mean(axis=0)
    middle = len(coloured) // 2
    assert coloured[:middle].sum() > 1 and coloured[middle:].sum() > 1  # both panels have curves
    assert [p.name for p in (tmp_path / "plots").iterdir()] == ["t.png"]
    report.plot_trends(sweep(1), tmp_path / "t.svg")  # one clip: no error bars


def test_plot_refuses(tmp_path):
    with pytest.raises(UserError, match="two values"):
        report.plot_trends(
            [r for r in sweep() if r["temporal_scale"] == 1 and r["structure_level"] == 0],
            tmp_path / "t.png",
        )
    with pytest.raises(UserError, match="no record holds flicker"):
        report.plot_trends(sweep(), tmp_path / "t.png", x="flicker")
    with pytest.raises(UserError, match=r"\.png, \.svg, \.pdf"):
        report.plot_trends(sweep(), tmp_path / "t.gif")


def test_importing_leaves_matplotlib_alone():
    code = "import sys, gen1_jax.evaluation.report as r; print('matplotlib' in sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "False"
