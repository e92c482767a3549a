"""The numbers of a study: majorities, preferences with their intervals, and agreement."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gen1_jax.evaluation.statistics import confidence_interval
from gen1_jax.evaluation.study.answers import NONE, Answer

LEVEL = 0.95


def preference(won: int, count: int) -> dict[str, float | None]:
    """Returns the share of pairs won, with Wilson's 95 % interval; None where there is no pair."""
    from scipy.stats import binomtest  # a second to import

    if not count:
        return {"preference": None, "low": None, "high": None}
    low, high = binomtest(won, count).proportion_ci(LEVEL, method="wilson")
    return {"preference": won / count, "low": float(low), "high": float(high)}


def fleiss_kappa(counts: Sequence[Sequence[int]] | np.ndarray) -> float | None:
    """Returns Fleiss' κ (1971), the agreement of raters beyond chance: 1 is full, 0 is chance.

    Where the number of raters differs between subjects, each subject's agreement is that of its own
    raters. For one number this is Fleiss' formula.

    Args:
      counts: `[subjects categories]`, the number of raters who chose a category. Subjects of fewer
        than two raters are left out.

    Returns:
      κ, or None where it is not defined: no subject is left, or all raters chose one category.
    """
    counts = np.asarray([row for row in counts if sum(row) >= 2], np.float64)
    if not counts.size:
        return None
    raters = counts.sum(1)
    agreement = ((counts * (counts - 1)).sum(1) / (raters * (raters - 1))).mean()
    chance = ((counts.sum(0) / counts.sum()) ** 2).sum()
    return None if chance == 1 else float((agreement - chance) / (1 - chance))


def tally(key: Mapping, answers: Sequence[Answer]) -> dict[str, Any]:
    """Returns the results of a study.

    A pair goes to the method that most of its raters chose; equally many are a tie, which is
    counted apart. A participant counts only with the right choice in every check.

    Args:
      key: of the study.
      answers: of `read_answers`.

    Returns:
      `rivals`: for each, its pairs `won` by our method, `lost`, `ties` and those of `no` answer,
      the `preference` for ours among won and lost with Wilson's interval `low` to `high`, all
      `votes` and those `for_ours`, and `kappa`. `overall`: the mean preference over videos, with
      its bootstrap interval, and the agreement over all pairs. `participants`: how many there were,
      and who was left out or did not finish. `pairs`: the votes of each.
    """
    checks, own = key["checks"], {}
    for answer in answers:
        own.setdefault(answer.participant, []).append(answer)
    failed, short = {}, {}
    for participant, given in own.items():
        right = sum(checks[a.pair]["right"] == a.choice for a in given if a.pair in checks)
        if right < len(checks):
            failed[participant] = f"{right} of {len(checks)} checks right"
        elif (done := sum(a.pair in key["pairs"] for a in given)) < key["each"]:
            short[participant] = f"{done} of {key['each']} pairs answered"
    votes = {pair: Counter() for pair in key["pairs"]}
    unplayed = 0
    for answer in answers:
        if answer.participant in failed or answer.pair in checks:
            continue
        if answer.choice == NONE:
            unplayed += 1
        else:
            votes[answer.pair][key["pairs"][answer.pair][answer.choice]] += 1
    pairs = [_judge(key["ours"], key["pairs"][pair], votes[pair], pair) for pair in votes]
    rivals = {}
    for rival in sorted({pair["rival"] for pair in pairs}):
        rivals[rival] = _sum_up([pair for pair in pairs if pair["rival"] == rival])
    return {
        "study": key["study"],
        "ours": key["ours"],
        "rivals": rivals,
        "overall": _overall(pairs),
        "participants": {
            "all": len(own),
            "counted": len(own) - len(failed),
            "failed_checks": failed,
            "did_not_finish": short,
        },
        "answers_without_playable_video": unplayed,
        "pairs": pairs,
    }


def _judge(ours: str, entry: Mapping, votes: Counter, pair: str) -> dict[str, Any]:
    rival = entry["a"] if entry["b"] == ours else entry["b"]
    for_ours, for_rival = votes[ours], votes[rival]
    lead = (for_ours > for_rival) - (for_ours < for_rival)
    result = {1: "won", -1: "lost", 0: "tie" if for_ours else "none"}[lead]
    return {
        "pair": pair,
        "clip": entry["clip"],
        "video": entry["video"],
        "caption": entry["caption"],
        "rival": rival,
        "for_ours": for_ours,
        "for_rival": for_rival,
        "majority": result,
    }


def _sum_up(pairs: Sequence[Mapping]) -> dict[str, Any]:
    found = Counter(pair["majority"] for pair in pairs)
    raters = [pair["for_ours"] + pair["for_rival"] for pair in pairs]
    return {
        "pairs": len(pairs),
        "won": found["won"],
        "lost": found["lost"],
        "ties": found["tie"],
        "unjudged": found["none"],
        **preference(found["won"], found["won"] + found["lost"]),
        "votes": sum(raters),
        "for_ours": sum(pair["for_ours"] for pair in pairs),
        "raters": [min(raters), max(raters)],
        "kappa": fleiss_kappa([[pair["for_ours"], pair["for_rival"]] for pair in pairs]),
    }


def _overall(pairs: Sequence[Mapping]) -> dict[str, Any]:
    """Returns the sum of all rivals. Pairs of one video depend on each other: the video counts."""
    decided = [pair for pair in pairs if pair["majority"] in ("won", "lost")]
    mean = confidence_interval(
        [pair["majority"] == "won" for pair in decided], [pair["video"] for pair in decided], LEVEL
    )
    numbers = {"preference": mean.mean, "low": mean.low, "high": mean.high}
    known = {name: None if np.isnan(value) else value for name, value in numbers.items()}
    return _sum_up(pairs) | known | {"videos": mean.count}
