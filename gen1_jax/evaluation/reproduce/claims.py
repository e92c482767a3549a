"""The paper's claims as comparisons on the same videos, and what comes of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gen1_jax.evaluation.records import Record
from gen1_jax.evaluation.reproduce.arms import BASELINE
from gen1_jax.evaluation.reproduce.tuning import OF_STRENGTH, OURS, RIVALS
from gen1_jax.evaluation.statistics import DOUBT, Change, compare_all, holm

FRAME, PROMPT, STRUCTURE = "frame_consistency", "prompt_consistency", "structure_error"
RISES, FALLS, KEEPS = "rises", "falls", "does not fall"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One change that a claim speaks of.

    Attributes:
      label: from what to what.
      before: records.
      after: records of the same videos, prompts and seeds.
      metric: what changes.
      expected: RISES, FALLS or KEEPS. KEEPS holds unless the measure falls beyond doubt, so it
        alone shows nothing.
    """

    label: str
    before: Sequence[Record]
    after: Sequence[Record]
    metric: str
    expected: str


@dataclasses.dataclass(frozen=True)
class Claim:
    """What the paper says, and the comparisons that would show it.

    Attributes:
      says: the paper's statement, in our words.
      comparisons: all of which have to come out.
    """

    says: str
    comparisons: Sequence[Comparison]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a comparison.

    Attributes:
      comparison: of two sets of records.
      change: on the same videos, with Holm's correction over all comparisons of all claims.
      verdict: "shown", "not shown" or "the opposite".
    """

    comparison: Comparison
    change: Change
    verdict: str


def judge(claims: Sequence[Claim]) -> list[list[Outcome]]:
    """Returns the outcomes of each claim's comparisons."""
    flat = [each for claim in claims for each in claim.comparisons]
    changes = [compare_all(c.before, [c.after], [c.metric])[0][c.metric] for c in flat]
    corrected = holm([change.p for change in changes])
    outcomes = iter(
        [
            Outcome(c, change := dataclasses.replace(x, p_holm=float(p)), verdict_of(c, change))
            for c, x, p in zip(flat, changes, corrected, strict=True)
        ]
    )
    return [[next(outcomes) for _ in claim.comparisons] for claim in claims]


def verdict_of(comparison: Comparison, change: Change) -> str:
    """Returns "shown", "not shown" or "the opposite"; chance may explain what is not shown."""
    is_real = change.p_holm < DOUBT
    if comparison.expected == KEEPS:
        return "the opposite" if is_real and change.mean < 0 else "shown"
    if not is_real:
        return "not shown"
    return "shown" if (change.mean > 0) == (comparison.expected == RISES) else "the opposite"


def sum_up(outcomes: Sequence[Outcome]) -> str:
    """Returns the verdict on a claim, all of whose comparisons have to come out."""
    verdicts = [each.verdict for each in outcomes]
    if len(set(verdicts)) == 1:
        return verdicts[0]
    return f"in part: {verdicts.count('shown')} of {len(verdicts)} shown"


# ---- the claims


def claims_of(results: Mapping[str, Mapping[str, Any]]) -> list[Claim]:
    """Returns the claims that the results of finished parts can speak to."""
    claims = []
    if "methods" in results:
        claims += _claims_on_methods(results["methods"]["records"], results["methods"]["best"])
    if "shapes" in results:
        by_level = _by(results["shapes"]["records"], OURS, "structure_level")
        claims.append(
            Claim(
                "a larger t_s raises prompt consistency (prompts that ask for another shape)",
                _steps(by_level, "t_s", PROMPT, RISES),
            )
        )
    if "characters" in results:
        records = results["characters"]["records"]
        by_level = _by(records, OURS, "structure_level")
        unedited = _only(records, "unedited")
        for metric, words in (
            ("image_prompt_consistency", "content of an example picture is retained with t_s = 3"),
            ("success", "the same, by all attributes of the picture"),
        ):
            pair = Comparison("source → t_s = 3", unedited, by_level[3], metric, RISES)
            claims.append(Claim(words, [pair]))
    if "counterfactuals" in results:
        claims += _claims_on_training(results["counterfactuals"]["records"])
    return claims


def _claims_on_methods(records: Sequence[Record], best: Mapping[str, Mapping]) -> list[Claim]:
    def at_best(method: str, **changes: object) -> list[Record]:
        wanted = {**_defaults(method), **best.get(method, best[OURS]), **changes}
        return [
            r
            for r in records
            if r["method"] == method and all(r.get(k, v) == v for k, v in wanted.items())
        ]

    ours = at_best(OURS)
    claims = [
        Claim(
            f"ours is above {rival} in prompt consistency, and not below it in frame consistency",
            [
                Comparison(f"{rival} → ours", at_best(rival), ours, PROMPT, RISES),
                Comparison(f"{rival} → ours", at_best(rival), ours, FRAME, KEEPS),
            ],
        )
        for rival in (*RIVALS, "gen1-per-frame")
    ]
    claims += [
        Claim(
            f"ours keeps more of the structure than {rival}, of which high strengths change it",
            [Comparison(f"{rival} → ours", at_best(rival), ours, STRUCTURE, FALLS)],
        )
        for rival in OF_STRENGTH
    ]
    for method in OF_STRENGTH:
        strengths = sorted({r["strength"] for r in records if r["method"] == method})
        ends = [at_best(method, strength=s) for s in (strengths[0], strengths[-1])]
        label = f"strength {strengths[0]:g} → {strengths[-1]:g}"
        claims.append(
            Claim(
                f"{method}: more strength raises prompt consistency and lowers frame consistency",
                [
                    Comparison(label, *ends, PROMPT, RISES),
                    Comparison(label, *ends, FRAME, FALLS),
                ],
            )
        )
    scales = {s: at_best(OURS, temporal_scale=s) for s in (0.5, 1.0, 1.5)}
    levels = {s: at_best(OURS, structure_level=s) for s in (0, 3, 7)}
    return [
        *claims,
        Claim("a larger ω_t raises frame consistency", _steps(scales, "ω_t", FRAME, RISES)),
        Claim("a larger ω_t lowers prompt consistency", _ends(scales, "ω_t", PROMPT, FALLS)),
        Claim("a larger t_s keeps less of the structure", _steps(levels, "t_s", STRUCTURE, RISES)),
        Claim("a larger t_s raises prompt consistency", _ends(levels, "t_s", PROMPT, RISES)),
        Claim(
            "the prior's image embedding serves better than the text embedding itself",
            [Comparison("text → prior", at_best("gen1-fed-text"), ours, PROMPT, RISES)],
        ),
    ]


def _claims_on_training(records: Sequence[Record]) -> list[Claim]:
    def arm(name: str, level: int = 0) -> list[Record]:
        return [r for r in records if r["arm"] == name and r["structure_level"] == level]

    def better(other: str, metric: str, expected: str = RISES, level: int = 0) -> Comparison:
        label = f"{other} → baseline" + (f", t_s = {level}" if level else "")
        return Comparison(label, arm(other, level), arm(BASELINE, level), metric, expected)

    claims = {
        "training on images too helps": [better("no_images", PROMPT), better("no_images", FRAME)],
        "v, not ε, makes colours consistent (the ε arm starts from a stage that predicts v)": [
            better("epsilon", FRAME),
            better("epsilon", "flicker", FALLS),
        ],
        "blur is more stable than noise": [better("noise", FRAME, RISES, 3)],
        "depth leaves content more free than edges": [better("edges", PROMPT)],
        "attention along time adds to convolutions": [better("convolutions", FRAME)],
        "convolutions along time add to attention": [better("attention", FRAME)],
    }
    there = {record["arm"] for record in records}
    return [
        Claim(says, pairs)
        for says, pairs in claims.items()
        if all(pair.label.partition(" ")[0] in there for pair in pairs)
    ]


def _defaults(method: str) -> dict[str, object]:
    return {"temporal_scale": 1.0, "structure_level": 0} if method == OURS else {}


def _only(records: Sequence[Record], method: str) -> list[Record]:
    return [record for record in records if record["method"] == method]


def _by(records: Sequence[Record], method: str, control: str) -> dict[Any, list[Record]]:
    found: dict[Any, list[Record]] = {}
    for record in _only(records, method):
        found.setdefault(record[control], []).append(record)
    return found


def _steps(by_value: Mapping, name: str, metric: str, expected: str) -> list[Comparison]:
    """Returns the comparison of each value of a control with the next one."""
    values = sorted(by_value)
    return [
        Comparison(f"{name} {a:g} → {b:g}", by_value[a], by_value[b], metric, expected)
        for a, b in zip(values, values[1:], strict=False)
    ]


def _ends(by_value: Mapping, name: str, metric: str, expected: str) -> list[Comparison]:
    a, b = min(by_value), max(by_value)
    return [Comparison(f"{name} {a:g} → {b:g}", by_value[a], by_value[b], metric, expected)]
