"""`gen1 report` makes tables of records alone, of all or of some."""

import json

import pytest
from command_line import gen1

from gen1_jax.evaluation.records import append_records, records_path


@pytest.fixture
def folder(tmp_path, sweep):
    """Records of gen1 by two processes, then of a rival, then of an edit whose mask changed."""
    records = [record | {"method": "gen1", "seed": 0, "given": "a"} for record in sweep(7)]
    rivals = [
        {k: v for k, v in r.items() if k != "temporal_scale"}
        | {"method": "sdedit-video", "strength": 0.5, "flicker": 1.0}
        for r in records
        if (r["temporal_scale"], r["structure_level"]) == (1.0, 0)
    ]
    append_records(records_path(tmp_path), records[:30])
    append_records(records_path(tmp_path, 1), records[30:] + rivals)
    append_records(records_path(tmp_path, 1), [rivals[0] | {"given": "b", "flicker": 2.0}])
    return tmp_path


def test_all_records_of_a_folder_are_shown_together(capsys, folder):
    code, text, err = gen1(capsys, "report", folder)
    assert code == 0, err
    assert "1 older records of the same edits are left out" in text
    metrics = json.loads((folder / "metrics.json").read_text())
    assert len(metrics["settings"]) == 10 and metrics["settings"][-1]["strength"] == 0.5
    assert metrics["settings"][-1]["flicker"]["mean"] == pytest.approx(8 / 7)
    assert {p.name for p in folder.iterdir()} == {
        *("records.jsonl", "records-00001.jsonl", "table.md", "metrics.json"),
        *("trends.png", "trade_off.png"),
    }


def test_some_methods_and_measures(capsys, folder):
    command = ["report", folder, "-o", folder / "two", "--method", "sdedit-video", "gen1"]
    command += ["--metrics", "structure_correlation", "--by", "clip"]
    code, text, err = gen1(capsys, *command)
    assert code == 0, err
    assert "the table's 9 comparisons" in text and "frame consistency" not in text
    metrics = json.loads((folder / "two" / "metrics.json").read_text())
    assert metrics["measures"].keys() == {"structure_correlation"}
    assert metrics["settings"][0]["method"] == "sdedit-video" and len(metrics["by_clip"]) == 70


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--method", "gen2"], "no records of 'gen2'; accepted: gen1, sdedit-video"),
        (["--metrics", "beauty"], "no measure 'beauty'"),
        (["--by", "mood"], "--by mood: no record has this field"),
    ],
)
def test_what_is_not_there_is_named(capsys, folder, arguments, message):
    code, _, err = gen1(capsys, "report", folder, *arguments)
    assert code == 2 and message in err
    code, _, err = gen1(capsys, "report", folder / "nothing", *arguments[:0])
    assert code == 2 and "no records; a folder that" in err
