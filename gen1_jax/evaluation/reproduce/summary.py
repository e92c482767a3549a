"""Writes what a reproduction found: one table of the claims, means of all methods, and figure 6."""

from collections.abc import Mapping, Sequence
from typing import Any

from gen1_jax.evaluation.reproduce.arms import ARMS
from gen1_jax.evaluation.reproduce.claims import Claim, Outcome, claims_of, judge, sum_up
from gen1_jax.evaluation.reproduce.parts import PARTS
from gen1_jax.evaluation.reproduce.tuning import OURS
from gen1_jax.evaluation.reproduce.work import METRICS, RESULT, Work
from gen1_jax.evaluation.statistics import confidence_interval
from gen1_jax.evaluation.tables import format_table, summarise
from gen1_jax.evaluation.trade_off import plot_trade_off
from gen1_jax.files import read_json, replacing

REPORT, FIGURE = "reproduce.md", "trade_off.png"
SHOWN = (
    "frame_consistency",
    "prompt_consistency",
    "success",
    "structure_error",
    "structure_correlation",
    "flicker",
)


def write_report(work: Work) -> str:
    """Writes reproduce.md and trade_off.png of what is done; returns the table of claims."""
    results = {}
    for name in PARTS:
        if (found := read_json(work.output / name / RESULT)) is not None:
            results[name] = found
    claims = claims_of(results)
    table = format_claims(claims, judge(claims)) if claims else "(no claim can be judged yet)"
    sections = [table]
    if missing := [name for name in PARTS if name not in results]:
        sections.insert(0, f"Parts that are not done: {', '.join(missing)}.")
    if "methods" in results:
        sections += [_best(results["methods"]["best"]), _means(results["methods"]["records"])]
        shown = [r for r in results["methods"]["records"] if r["method"] not in _LEFT_OUT]
        plot_trade_off(_ours_first(shown), work.output / FIGURE)
        sections.append(f"![figure 6]({FIGURE})")
    for name in ("shapes", "characters"):
        if name in results:
            sections.append(f"{name.capitalize()}:\n\n{_means(results[name]['records'])}")
    if "counterfactuals" in results:
        sections.append(_arms(results["counterfactuals"]["records"]))
    if "leaks" in results:
        sections.append(f"What a linear probe reads:\n\n{format_leaks(results['leaks']['rows'])}")
    with replacing(work.output / REPORT) as part:
        part.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return f"{table}\n\nthe whole report is {work.output / REPORT}"


_LEFT_OUT = ("unedited", "gen1-fed-text")  # of the figure


def format_claims(claims: Sequence[Claim], outcomes: Sequence[Sequence[Outcome]]) -> str:
    """Returns the table of the paper's statements beside what was found here."""
    rows = []
    for claim, found in zip(claims, outcomes, strict=True):
        here = "; ".join(_say(each) for each in found)
        rows.append({"the paper": claim.says, "here": here, "verdict": sum_up(found)})
    count = sum(len(claim.comparisons) for claim in claims)
    return (
        f"{format_table(rows, markdown=True)}\n\nChanges on the same videos, with 95 % intervals. "
        f"Beyond doubt is p < 0.05 after Holm's correction for all {count} comparisons."
    )


def _say(outcome: Outcome) -> str:
    c, change = outcome.comparison, outcome.change
    name = c.metric.replace("_", " ")
    ends = f"[{change.low:+.4f}, {change.high:+.4f}]"
    return (
        f"{c.label}: {name} {change.mean:+.4f} {ends}, p = {change.p_holm:.2g} ({outcome.verdict})"
    )


def format_leaks(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of the probes, whose intervals are over held-out clips."""
    shown = [
        {
            "what": row["what"],
            "off": row["off"],
            "t_s": "-" if row["level"] is None else row["level"],
            "right, or R²": confidence_interval(row["right"]),
            "chance": round(row["chance"], 3),
            "clips": len(row["right"]),
        }
        for row in rows
    ]
    return format_table(shown, markdown=True)


def _best(best: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [{"method": name, **setting} for name, setting in best.items()]
    return f"Best settings, of validation clips:\n\n{format_table(rows, markdown=True)}"


def _means(records: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name in (*SHOWN, "image_prompt_consistency") if name in records[0]]
    return format_table(summarise(records, metrics=names), markdown=True)


def _arms(records: Sequence[Mapping[str, Any]]) -> str:
    rows = summarise(records, ["arm", "structure_level"], METRICS)
    rows = [
        {"arm": ARMS[row["arm"]].question, "t_s": row["structure_level"]}
        | {name: row[name] for name in SHOWN}
        for row in rows
    ]
    return f"Counterfactuals:\n\n{format_table(rows, markdown=True)}"


def _ours_first(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the records in an order in which the figure takes our own setting for the first."""
    return sorted(records, key=lambda record: record["method"] != OURS)
