"""The tally of a study: its arithmetic against published values, and files that people edited."""

import json
import re

import numpy as np
import pytest
from command_line import gen1, refused
from study_files import answers_of, evaluation, write_csv

from gen1_jax.evaluation.study.answers import COLUMNS, Answer, read_answers
from gen1_jax.evaluation.study.make import make_study
from gen1_jax.evaluation.study.pairs import find_pairs
from gen1_jax.evaluation.study.tally import fleiss_kappa, preference, tally

# ---- arithmetic


def test_kappa_of_the_worked_example():
    # Fourteen raters, ten subjects, five categories: https://en.wikipedia.org/wiki/Fleiss'_kappa
    counts = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    assert fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)


def test_kappa_at_its_ends():
    assert fleiss_kappa([[5, 0], [0, 5], [5, 0]]) == 1
    assert fleiss_kappa([[1, 1], [1, 1]]) == -1  # two raters who never agree
    assert fleiss_kappa([[5, 0], [5, 0]]) is None  # chance alone would agree always
    assert fleiss_kappa([[1, 0], [0, 1]]) is None  # one rater agrees with nobody
    assert fleiss_kappa([]) is None
    rng = np.random.default_rng(0)
    chance = rng.binomial(5, 0.7, 4000)
    assert abs(fleiss_kappa(np.stack([chance, 5 - chance], 1))) < 0.02
    # Subjects of other numbers of raters change nothing, if they agree as much.
    assert fleiss_kappa([[5, 0], [0, 3], [5, 0], [0, 2]]) == 1


@pytest.mark.parametrize(
    ("won", "percent", "low", "high"),
    # The shares that one reading of the paper gives for its figure 7 (unconfirmed), of 34 pairs;
    # the intervals by Wilson's (1927) formula, worked by hand.
    [(30, 88.24, 73.38, 95.33), (27, 79.41, 63.20, 89.65), (31, 91.18, 77.04, 96.95)],
)
def test_preferences_of_34_pairs(won, percent, low, high):
    found = preference(won, 34)
    assert round(100 * found["preference"], 2) == percent
    z, p, n = 1.959964, won / 34, 34
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert [found["low"], found["high"]] == pytest.approx([middle - half, middle + half], abs=1e-6)
    assert [100 * found["low"], 100 * found["high"]] == pytest.approx([low, high], abs=0.006)


def test_no_pair_has_no_preference():
    assert preference(0, 0) == {"preference": None, "low": None, "high": None}


def a_key(pairs: int, checks: int = 1, rivals: tuple[str, ...] = ("sdedit",)) -> dict:
    sides = {0: {"a": "gen1"}, 1: {"b": "gen1"}}
    entries = {
        f"p{rival}{n}": {"clip": f"c{n}", "video": f"v{n}", "caption": "x"}
        | dict.fromkeys("ab", rival)
        | sides[n % 2]
        for rival in rivals
        for n in range(pairs)
    }
    tested = {f"check{n}": {"clip": "c0", "right": "a"} for n in range(checks)}
    base = {"study": "s1", "seed": 0, "each": len(entries), "ours": "gen1"}
    return base | {"pairs": entries, "checks": tested}


def answers(key: dict, wins: dict[str, int], raters: int) -> list[Answer]:
    """Answers of raters who all pass; of each pair, `wins` of them choose ours."""
    found = []
    for n in range(raters):
        found += [
            Answer(f"r{n}", check, entry["right"], 1) for check, entry in key["checks"].items()
        ]
        for pair, entry in key["pairs"].items():
            ours = "a" if entry["a"] == "gen1" else "b"
            choice = ours if n < wins.get(pair, 0) else {"a": "b", "b": "a"}[ours]
            found.append(Answer(f"r{n}", pair, choice, 1))
    return found


def test_the_majority_of_five_decides_a_pair():
    key = a_key(34)
    wins = {pair: (3 if n < 27 else 2) for n, pair in enumerate(key["pairs"])}
    found = tally(key, answers(key, wins, 5))["rivals"]["sdedit"]
    assert (found["won"], found["lost"], found["ties"]) == (27, 7, 0)
    assert round(100 * found["preference"], 2) == 79.41
    assert (found["for_ours"], found["votes"]) == (27 * 3 + 7 * 2, 170)


def test_an_even_number_of_raters_ties_and_rivals_are_apart():
    key = a_key(3, rivals=("x", "y"))
    found = tally(key, answers(key, {"px0": 4, "px1": 2, "py0": 1}, 4))
    assert {n: found["rivals"]["x"][n] for n in ("won", "lost", "ties")} == {
        "won": 1,
        "lost": 1,
        "ties": 1,
    }
    assert found["rivals"]["x"]["preference"] == 0.5 and found["rivals"]["y"]["preference"] == 0
    # Video 0 has won one of two, video 1 lost one (the other is a tie), video 2 lost both.
    assert found["overall"]["preference"] == pytest.approx((0.5 + 0 + 0) / 3)
    assert found["overall"]["videos"] == 3


def test_who_fails_a_check_is_left_out_and_counted():
    key = a_key(4, checks=2)
    given = answers(key, dict.fromkeys(key["pairs"], 3), 5)
    wrong = [Answer(a.participant, a.pair, "b", 1) if a == given[0] else a for a in given]
    found = tally(key, wrong)
    assert found["participants"]["failed_checks"] == {"r0": "1 of 2 checks right"}
    assert (found["participants"]["all"], found["participants"]["counted"]) == (5, 4)
    assert found["rivals"]["sdedit"]["ties"] == 4  # 2 to 2 without the first
    without = [a for a in given if a != given[0]]  # a check that was cut out is not passed
    assert "r0" in tally(key, without)["participants"]["failed_checks"]
    cut = [a for a in given if (a.participant, a.pair) != ("r1", "psdedit2")]
    assert tally(key, cut)["participants"]["did_not_finish"] == {"r1": "3 of 4 pairs answered"}


# ---- files


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The key's file of a study of six pairs, and its content."""
    folder = tmp_path_factory.mktemp("study")
    pairs, _ = find_pairs(evaluation(folder / "results", ("gen1", "sdedit-video", "outputs")))
    make_study(pairs, folder / "study")
    path = folder / "study" / "key.json"
    return path, json.loads(path.read_text())


def test_answers_become_a_table_a_json_and_a_plot(tmp_path, capsys, study):
    path, key = study
    files = [write_csv(tmp_path / f"{n}.csv", answers_of(key, str(n))) for n in range(1, 5)]
    rows = answers_of(key, "p0", lambda pair: "a")  # a blind one
    (tmp_path / "p0.json").write_text(json.dumps({"answers": rows}))
    out = tmp_path / "results"
    code, text, err = gen1(capsys, "study", "tally", path, *files, tmp_path / "p0.json", "-o", out)
    assert code == 0, err
    found = json.loads((out / "results.json").read_text())
    passed = all(check["right"] == "a" for check in key["checks"].values())
    assert found["participants"]["counted"] == 4 + passed
    assert set(found["rivals"]) == {"sdedit-video", "outputs"}
    assert all(rival["won"] == 3 for rival in found["rivals"].values())
    assert "100.00 %" in text and "100.00 %" in (out / "table.md").read_text()
    assert (out / "preferences.png").stat().st_size > 5000
    refused(capsys, "study", "tally", path, *files, "-o", out, culprit="add --overwrite")


def edited(rows: list[dict], number: int, **changes: str) -> list[dict]:
    return [row | changes if n == number else row for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda rows: edited(rows, 2, pair="p123"), r"a.csv, line 4: the study has no pair 'p123'"),
        (lambda rows: edited(rows, 0, choice="c"), "line 2: choice 'c'; a, b or none is accepted"),
        (lambda rows: edited(rows, 0, side="up"), "line 2: side 'up' does not go with choice"),
        (lambda rows: edited(rows, 0, seconds="-1"), "line 2: seconds '-1'; a number of 0 or more"),
        (lambda rows: edited(rows, 0, seconds="nan"), "line 2: seconds 'nan'; a number"),
        (lambda rows: edited(rows, 0, check="2"), "line 2: check '2'; for pair p.* it is [01]"),
        (lambda rows: edited(rows, 0, participant="=1+1"), "line 2: participant '=1.1'; letters"),
        (lambda rows: edited(rows, 0, study="s9"), "1 lines are of study 's9'; s.* is accepted"),
        (
            lambda rows: [*rows, rows[3]],
            r"line 11: participant 1 has answered p\w+ before: .*line 5",
        ),
        (lambda rows: rows[:0], "line 1: no answers follow"),
    ],
)
def test_a_line_edited_by_hand_is_named(tmp_path, study, change, line):
    _, key = study
    rows = answers_of(key, "1")
    file = write_csv(tmp_path / "a.csv", change(rows))
    good, problems, notes = read_answers([file], key)
    assert len(problems) == 1 and not notes
    assert re.search(line, problems[0]), problems[0]
    assert len(good) == max(0, min(len(rows), len(change(rows)) - 1))


def test_a_turned_choice_is_seen(tmp_path, study):
    # The choice alone was changed: then it is not what stood on that side.
    _, key = study
    rows = answers_of(key, "1")
    turned = edited(rows, 0, choice={"a": "b", "b": "a"}[rows[0]["choice"]])
    _, problems, _ = read_answers([write_csv(tmp_path / "a.csv", turned)], key)
    assert len(problems) == 1 and "does not go with choice" in problems[0]


def test_forms_of_files(tmp_path, study):
    _, key = study
    rows = answers_of(key, "1")
    plain = write_csv(tmp_path / "a.csv", rows)
    expected = read_answers([plain], key)
    assert expected[1:] == ([], []) and len(expected[0]) == 9
    text = plain.read_text()
    for name, content in {
        "mark.csv": b"\xef\xbb\xbf" + text.encode(),
        "semicolons.csv": text.replace(",", ";").encode(),
        "blank.csv": (text + "\n\n").encode(),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert read_answers([tmp_path / name], key) == expected, name
    for name, content, problem in (
        ("short.csv", b"study,pair\n", "line 1: columns participant, side, choice, seconds, check"),
        ("empty.csv", b"", "line 1: columns study, participant"),
        ("bytes.csv", b"study\n\xff\n", "line 2: holds bytes that are no UTF-8"),
        ("more.csv", text.replace("2.5", "2,5", 1).encode(), "line 2: more values than the 7"),
        ("less.csv", text.replace(",2.5", "", 1).encode(), "line 2: fewer values than the 7"),
        ("a.json", b"[]", "line 1: not the JSON of a study's page"),
        ("b.json", b'{"answers": [3]}', "answer 1: not an object of study, participant"),
    ):
        (tmp_path / name).write_bytes(content)
        _, problems, _ = read_answers([tmp_path / name], key)
        assert len(problems) == 1 and f"{name}, {problem}" in problems[0], problems


def test_a_file_sent_twice_counts_once_and_another_answer_is_named(tmp_path, study):
    _, key = study
    rows = answers_of(key, "1")
    first, again = (write_csv(tmp_path / name, rows) for name in ("a.csv", "a (1).csv"))
    good, problems, notes = read_answers([first, again], key)
    assert len(good) == 9 and not problems
    assert notes == [f"{again}: 9 lines repeat those of {first}; they count once"]
    flipped = answers_of(key, "1", lambda pair: "none")
    other = write_csv(tmp_path / "b.csv", flipped)
    good, problems, _ = read_answers([first, other], key)
    assert len(good) == 9 and len(problems) == 9 and f"before: {first}, line 2" in problems[0]


def test_wrong_lines_are_refused_or_left_out_as_asked(tmp_path, capsys, study):
    path, key = study
    rows = edited(answers_of(key, "1"), 1, choice="c")
    rows = edited(rows, 4, pair="p0")
    file, out = write_csv(tmp_path / "a.csv", rows), tmp_path / "results"
    code, _, err = gen1(capsys, "study", "tally", path, file, "-o", out)
    lines = err.splitlines()
    assert code == 2 and not out.exists() and len(lines) == 3
    assert lines[0].startswith(f"{file}, line 3: choice 'c'") and "line 6: " in lines[1]
    assert lines[2].startswith("gen1: 2 problems in the answers, named above")
    code, text, _ = gen1(capsys, "study", "tally", path, file, "-o", out, "--keep-going")
    assert code == 0 and "2 problems in the files; those lines are left out" in text


def test_wrong_keys_and_missing_files_are_one_line(tmp_path, capsys, study):
    path, key = study
    file = write_csv(tmp_path / "a.csv", answers_of(key, "1"))
    out = ("-o", tmp_path / "results")
    refused(capsys, "study", "tally", tmp_path / "key", file, *out, culprit="no such file; the key")
    (tmp_path / "other.json").write_text('{"a": 1}')
    other = tmp_path / "other.json"
    refused(capsys, "study", "tally", other, file, *out, culprit="not the key.json of")
    refused(
        capsys, "study", "tally", path, tmp_path / "b.csv", *out, culprit="b.csv: cannot be read"
    )
    assert set(COLUMNS) == set(answers_of(key, "1")[0])
