"""Means agree with hand counts, tables line up, and what is beyond doubt is marked."""

import numpy as np
import pytest

from gen1_jax.evaluation import tables


def test_summarise_by_hand():
    records = [
        {"clip": "a", "temporal_scale": 1.0, "frame_consistency": 0.8, "flicker": None},
        {"clip": "b", "temporal_scale": 1.0, "frame_consistency": 0.6, "flicker": 2.0},
        {"clip": "a", "temporal_scale": 0.5, "frame_consistency": 0.4},
    ]
    low, high = tables.summarise(records)
    assert (low["temporal_scale"], high["temporal_scale"]) == (0.5, 1.0)
    assert (low["count"], high["count"]) == (1, 2)
    assert high["frame_consistency"].mean == pytest.approx(0.7)
    assert high["frame_consistency"].half_width == pytest.approx(12.706 * 0.1, rel=1e-3)
    assert high["flicker"].count == 1 and low["flicker"].count == 0
    assert "structure_level" not in low and "prompt_consistency" not in low
    # several records of one video are one observation
    seeds = [{"clip": f"a#{i}", "video": "a", "flicker": float(i)} for i in range(9)]
    (row,) = tables.summarise([*seeds, {"clip": "b", "flicker": 6.0}], by=())
    assert (row["count"], row["videos"]) == (10, 2)
    assert row["flicker"].count == 2 and row["flicker"].mean == 5.0
    # words stand in the order in which they come
    names = [None, "gen1", "depth-per-frame"]
    mixed = [{"method": name, "flicker": 1.0} for name in names[1:] + names[:1]]
    assert [row["method"] for row in tables.summarise(mixed, by=("method",))] == names


def test_table_lines_up(sweep):
    rows = tables.summarise(sweep(), by=("temporal_scale", "structure_level"))
    lines = tables.format_table(rows).splitlines()
    assert len(lines) == 2 + 9 and len({len(line) for line in lines}) == 1
    assert lines[0].split()[:2] == ["temporal", "scale"] and "±" in lines[2]
    marked = tables.format_table(rows, markdown=True).splitlines()
    assert all(line.startswith("| ") and line.count("|") == 8 for line in marked)
    assert set(marked[1]) == set("|-: ")
    assert "-" in tables.format_table([{"a": 1}, {"b": None}]).splitlines()[-1]
    assert tables.format_table([]) == "(no records)"
    narrow = [{"clip": i, "flicker": 1 + 1e-4 * i} for i in range(5)]
    assert "1.0002 ± 0.0002" in tables.format_table(tables.summarise(narrow))


def changed(**means: float) -> list[dict]:
    """Twelve videos at two settings: measures whose mean differs by so many deviations."""
    draws = np.random.default_rng(0).normal(size=(12, len(means)))
    return [
        {"clip": str(clip), "temporal_scale": scale}
        | {name: scale * (draws[clip, i] + mean) for i, (name, mean) in enumerate(means.items())}
        for scale in (0.0, 1.0)
        for clip in range(12)
    ]


def test_what_is_beyond_doubt_is_marked_with_its_direction():
    records = changed(frame_consistency=3, flicker=3, prompt_consistency=-3, mask_iou=0)
    (row,) = changes = tables.compare_settings(records)
    head, _, line = tables.format_table(changes).splitlines()
    cells = dict(zip(head.split("  "), line.split("  "), strict=False))
    assert "frame consistency" in cells
    found = {n: tables.verdict_of(n, row[n]) for n in row if hasattr(row[n], "p_holm")}
    assert found == {
        "frame_consistency": "better",
        "prompt_consistency": "worse",
        "mask_iou": None,
        "flicker": "worse",  # more of it
    }
    assert line.count("✓") == 1 and line.count("✗") == 2
    assert tables.format_table(changes, markdown=True).count("**") == 6
    assert "the table's 4 comparisons" in tables.explain_marks(changes)
    assert tables.verdict_of("no measure of ours", row["flicker"]) == "different"


def test_settings_that_lack_videos_are_compared_on_the_others():
    whole = changed(flicker=3)
    (row,) = tables.compare_settings(whole[:-2])
    assert (row["count"], row["alone"], row["flicker"].count) == (10, 2, 10)
    assert row["flicker"].mean == pytest.approx(np.mean([r["flicker"] for r in whole[12:-2]]))
