"""The results of a study as a table, as JSON and as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen1_jax.evaluation.tables import format_table
from gen1_jax.files import replacing, write_json

_LONGEST = 28  # letters of a method's name beside its bar


def write_results(result: Mapping[str, Any], folder: Path) -> str:
    """Writes results.json, table.md and preferences.png into a folder.

    Args:
      result: of `tally`.
      folder: where to write.

    Returns:
      The table and what was left out, as plain text.
    """
    rows, remarks = _rows(result), _remarks(result)
    write_json(folder / "results.json", result)
    with replacing(folder / "table.md") as part:
        lines = (format_table(rows, markdown=True), "", *(f"- {line}" for line in remarks))
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    plot_preferences(result, folder / "preferences.png")
    return "\n".join((format_table(rows), "", *remarks))


def _rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, found in (*result["rivals"].items(), ("all", result["overall"])):
        raters = found["raters"]
        rows.append(
            {
                f"{result['ours']} against": name,
                "pairs": found["pairs"],
                "won": found["won"],
                "lost": found["lost"],
                "ties": found["ties"],
                "unjudged": found["unjudged"],
                "preferred": _percent(found["preference"]),
                "95 %": f"{_percent(found['low'])} to {_percent(found['high'])}",
                "raters": "-".join(map(str, dict.fromkeys(raters))),
                "votes": f"{found['for_ours']}/{found['votes']}",
                "κ": "-" if found["kappa"] is None else f"{found['kappa']:.2f}",
            }
        )
    if len(result["rivals"]) == 1:
        rows.pop()  # it would say the same again
    return rows


def _remarks(result: Mapping[str, Any]) -> list[str]:
    people = result["participants"]
    lines = [f"{people['counted']} of {people['all']} participants count"]
    for what, who in (
        ("left out", people["failed_checks"]),
        ("counted, but not finished", people["did_not_finish"]),
    ):
        lines += [f"{what}: participant {name}, {reason}" for name, reason in who.items()]
    if result["answers_without_playable_video"]:
        lines.append(
            f"{result['answers_without_playable_video']} answers say that a video was not playable"
        )
    if result.get("lines_left_out"):
        lines.append(f"{result['lines_left_out']} problems in the files; those lines are left out")
    lines.append("preferred: share of won in won and lost, with Wilson's interval")
    if len(result["rivals"]) > 1:
        lines.append("all: mean over videos, with the bootstrap's interval over videos")
    return lines


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def plot_preferences(result: Mapping[str, Any], path: Path) -> None:
    """Draws the paper's figure 7: for each rival, the share of pairs in which ours is preferred."""
    # Without pyplot, a figure needs no display and heeds no setting of the user's.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rivals = result["rivals"]
    figure = Figure(figsize=(7, 1.3 + 0.5 * len(rivals)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, found in enumerate(rivals.values()):
        share = found["preference"]
        if share is None:
            axes.text(50, place, "no majority", ha="center", va="center", color="0.4", fontsize=9)
            continue
        share, low, high = (100 * found[name] for name in ("preference", "low", "high"))
        axes.barh(place, share, 0.62, color="C0")
        axes.barh(place, 100 - share, 0.62, left=share, color="0.85")
        axes.plot([low, high], [place, place], "k-", linewidth=1.2, clip_on=False)
        for end in (low, high):
            axes.plot([end, end], [place - 0.12, place + 0.12], "k-", linewidth=1.2, clip_on=False)
    # What stands beside a bar can overlap neither the bar nor its interval.
    said = axes.secondary_yaxis("right")
    said.set_yticks(
        range(len(rivals)),
        [f"{_percent(f['preference'])} of {f['won'] + f['lost']}" for f in rivals.values()],
    )
    said.tick_params(length=0)
    said.spines["right"].set_visible(False)
    names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in rivals]
    axes.set_yticks(range(len(rivals)), names)
    axes.axvline(50, color="black", linewidth=0.8, linestyle=":")
    axes.set_ylim(len(rivals) - 0.5, -0.5)  # the first on top
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"pairs in which the majority prefers {result['ours'][:_LONGEST]} [%]")
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as part:
        figure.savefig(part)
