"""Each method's own best setting, found on clips that no test looks at."""

from collections.abc import Mapping, Sequence
from typing import Any

from gen1_jax.evaluation.cells import make_grid
from gen1_jax.evaluation.records import CONTROLS, Record
from gen1_jax.evaluation.statistics import intervals_of
from gen1_jax.evaluation.tables import group_records

OURS = "gen1"
GUIDANCE = (2.0, 4.0)
STRENGTHS = (0.4, 0.7, 1.0)
OF_STRENGTH = ("sdedit-per-frame", "sdedit-per-frame-fixed", "sdedit-video", "warp-and-renoise")
RIVALS = (*OF_STRENGTH, "propagate-first-frame", "depth-per-frame")


def tuning_grid() -> list[dict[str, Any]]:
    """Returns the settings that are tried: the guidance of all, and the strength of some."""
    tried = make_grid(False, guidance_scale=GUIDANCE, strength=STRENGTHS)
    grid = [{"method": name, "guidance_scale": g} for name in (OURS, *RIVALS) for g in GUIDANCE]
    grid = [setting for setting in grid if setting["method"] not in OF_STRENGTH]
    return grid + [{"method": name, **setting} for name in OF_STRENGTH for setting in tried]


def choose_settings(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Returns the best setting of each method.

    Ours is that of the highest prompt consistency. A rival's is that of the highest prompt
    consistency among those whose frame consistency is not below ours; if there is none, that of
    the highest frame consistency.
    """
    means: dict[str, list[tuple[dict, float, float]]] = {}
    for setting, group in group_records(records, ("method", *CONTROLS)).items():
        names = ("frame_consistency", "prompt_consistency")
        found = intervals_of(group, names)
        controls = {k: v for k, v in zip(CONTROLS, setting[1:], strict=True) if v is not None}
        means.setdefault(setting[0], []).append((controls, *(found[n].mean for n in names)))
    ours = max(means[OURS], key=lambda each: each[2])
    best: dict[str, Mapping[str, Any]] = {}
    for method, tried in means.items():
        as_steady = [each for each in tried if each[1] >= ours[1]]
        if method == OURS:
            best[method] = ours[0]
        elif as_steady:
            best[method] = max(as_steady, key=lambda each: each[2])[0]
        else:
            best[method] = max(tried, key=lambda each: each[1])[0]
    return {name: dict(setting) for name, setting in best.items()}
