"""The parts of a reproduction, in the order in which they run. Each goes on where it stopped."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gen1_jax.config import load_config
from gen1_jax.editing import VideoEditor
from gen1_jax.evaluation.reproduce.arms import ARMS, BASELINE, train_arm
from gen1_jax.evaluation.reproduce.links import link_parts
from gen1_jax.evaluation.reproduce.probes import find_leaks
from gen1_jax.evaluation.reproduce.tuning import (
    OF_STRENGTH,
    OURS,
    RIVALS,
    choose_settings,
    tuning_grid,
)
from gen1_jax.evaluation.reproduce.work import METRICS, Work
from gen1_jax.evaluation.world_items import picture_items, world_items
from gen1_jax.workflow import run_all

CURVE = (0.4, 0.7, 1.0)  # strengths
TEMPORAL = (0.5, 1.5)  # beside the 1 of the best setting
LEVELS = (0, 3, 7)
CHARACTER_LEVEL = 3  # as in the paper
CHARACTERS = (6, 5)  # clips, and example pictures of each
OF_LEVELS = (BASELINE, "noise")  # arms that are compared at a coarser structure too
FAR = ("far",)  # prompts that change all that is no structure
TUNING_METRICS = ("frame_consistency", "prompt_consistency")


class Part(NamedTuple):
    """A part.

    Attributes:
      what: it does, in words.
      run: does it and returns what it found.
      needs: parts whose results it uses.
    """

    what: str
    run: Callable[[Work], Mapping[str, Any]]
    needs: tuple[str, ...] = ()


def train_rivals(work: Work) -> dict[str, Any]:
    config = load_config("rivals")
    given = ("autoencoder", "clip", "prior", "tokenizer", "world", "encoded", "image", "video")
    link_parts(work.run, work.output, given)
    run_all(config, work.output, lambda part: load_config(f"rivals:{part}"), progress=work.progress)
    return {"trained": list(config.parts)}


def tune(work: Work) -> dict[str, Any]:
    items = world_items(work.world, None, "validation", work.sizes.tuning_clips, edits=FAR)
    records = work.sweep("tuning", items, tuning_grid(), TUNING_METRICS)
    return {"best": choose_settings(records), "records": records}


def compare_methods(work: Work) -> dict[str, Any]:
    best = work.result("tuning")["best"]
    ours = {"method": OURS, **best[OURS]}
    grid = [
        ours,
        {"method": "gen1-per-frame", "guidance_scale": ours["guidance_scale"]},
        *({"method": name, **best[name]} for name in RIVALS),
        {"method": "gen1-fed-text", **best[OURS]},
        {"method": "unedited"},
        *({**ours, "temporal_scale": value} for value in TEMPORAL),
        *({**ours, "structure_level": value} for value in LEVELS[1:]),
        *({"method": m, **best[m], "strength": s} for m in OF_STRENGTH for s in CURVE),
    ]
    unique = {tuple(sorted(setting.items())): setting for setting in grid}
    items = world_items(work.world, None, "test", work.sizes.clips, edits=FAR)
    return {"best": best, "records": work.sweep("methods", items, list(unique.values()))}


def change_shapes(work: Work) -> dict[str, Any]:
    ours = {"method": OURS, **work.result("tuning")["best"][OURS]}
    items = world_items(work.world, None, "test", work.sizes.clips, edits=("shape",))
    grid = [{**ours, "structure_level": level} for level in LEVELS]
    return {"records": work.sweep("shapes", items, [*grid, {"method": "unedited"}])}


def replace_characters(work: Work) -> dict[str, Any]:
    ours = {"method": OURS, **work.result("tuning")["best"][OURS]}
    items = picture_items(work.world, None, "test", *CHARACTERS)
    grid = [{**ours, "structure_level": level} for level in (0, CHARACTER_LEVEL)]
    metrics = (*METRICS, "image_prompt_consistency")
    found = work.sweep("characters", items, [*grid, {"method": "unedited"}], metrics)
    return {"records": found}


def run_counterfactuals(work: Work) -> dict[str, Any]:
    items = world_items(work.world, None, "test", work.sizes.clips, edits=FAR)
    records = []
    for seed in work.sizes.arm_seeds:  # one that was stopped has whole seeds
        for name in ARMS:
            folder = work.output / "arms" / name / str(seed)
            levels = (0, CHARACTER_LEVEL) if name in OF_LEVELS else (0,)
            grid = [{"method": OURS, "structure_level": level} for level in levels]
            editor = VideoEditor.load(train_arm(name, work.run, folder, seed, work.progress))
            found = work.sweep(f"arms/{name}/{seed}/edits", items, grid, editor=editor)
            records += [record | {"arm": name, "training_seed": seed} for record in found]
    return {"records": records}


def probe_leaks(work: Work) -> dict[str, Any]:
    return {"rows": find_leaks(work.editor, work.judges.clip, work.world, work.sizes.probe_clips)}


PARTS = {
    "rivals": Part("trains the rivals, and a CLIP that measures", train_rivals),
    "tuning": Part("finds each method's best setting on validation clips", tune, ("rivals",)),
    "methods": Part(
        "edits test clips by all methods, and over the controls", compare_methods, ("tuning",)
    ),
    "shapes": Part("edits test clips towards other shapes", change_shapes, ("tuning",)),
    "characters": Part("edits clips towards example pictures", replace_characters, ("tuning",)),
    "counterfactuals": Part(
        "trains the UNet with one choice of the paper turned round",
        run_counterfactuals,
        ("rivals",),
    ),
    "leaks": Part(
        "reads content off the structure, and structure off the content", probe_leaks, ("rivals",)
    ),
}
