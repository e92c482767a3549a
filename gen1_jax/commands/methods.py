"""The options of `gen1 evaluate` that say which methods are measured, and what they need."""

import re
from pathlib import Path

from gen1_jax.errors import UserError
from gen1_jax.evaluation.methods.names import MODELS, NAMES, check_methods, is_pipeline


def add_method_arguments(parser) -> None:
    parser.add_argument(
        "--method",
        nargs="+",
        metavar="NAME",
        help=f"one or several of {', '.join(NAMES)} (gen1)",
    )
    parser.add_argument(
        "--per-frame", action="store_true", help="the same as --method gen1 gen1-per-frame"
    )
    parser.add_argument(
        "--outputs",
        nargs="+",
        metavar="NAME=DIR",
        help="measure what other systems made: for each clip a video, or a folder of frames, of "
        "the clip's name",
    )
    for model, what in (
        ("image", "the image model without structure (RUN/image/model)"),
        ("video", "the video model without structure (RUN/video/model)"),
        (
            "depth",
            "the image model with depth (RUN/rival_depth/model), or the whole folder of "
            "Stable Diffusion 2's depth model",
        ),
    ):
        parser.add_argument(
            f"--{model}-model",
            type=Path,
            metavar="DIR",
            help=f"for the methods that need it, {what}",
        )


def method_names(args) -> list[str]:
    """Returns the names of the methods, gen1 alone where none is asked for."""
    names = args.method or ([] if args.outputs else ["gen1"])
    return [*names, *(["gen1", "gen1-per-frame"] if args.per_frame else [])]


def check_method_arguments(args) -> None:
    """Checks what can be checked before the pipeline is loaded.

    Raises:
      UserError: a method is unknown, or what it needs is missing.
    """
    check_methods(method_names(args))
    find_models(args)
    find_outputs(args)


def find_models(args) -> dict[str, Path]:
    """Returns the model folders that the methods need, by the model's name.

    Raises:
      UserError: one of them is not there.
    """
    run = args.model.parent
    own = {"image": run / "image", "video": run / "video", "depth": run / "rival_depth"}
    found = {}
    for name in method_names(args):
        if name in MODELS:
            model = MODELS[name]
            folder = getattr(args, f"{model}_model") or own[model] / "model"
            whole = model == "depth" and is_pipeline(folder)
            if not whole and not (folder / "config.json").exists():
                raise UserError(
                    f"--method {name} needs a model that is not at {folder}; give its folder by "
                    f"--{model}-model"
                )
            found[model] = folder
    return found


def find_outputs(args) -> dict[str, Path]:
    """Returns the folders of other systems' results by the system's name.

    Raises:
      UserError: an argument names no folder, or a name occurs twice.
    """
    found = {}
    for entry in args.outputs or ():
        name, equals, folder = entry.partition("=")
        if not (re.fullmatch(r"[\w.-]+", name) and equals and folder) or name in found:
            raise UserError(
                f"--outputs {entry}; NAME=DIR is accepted, each name once, of letters, digits, "
                "hyphens, dots and underscores"
            )
        if not Path(folder).is_dir():
            raise UserError(f"--outputs {entry}: no such folder")
        found[name] = Path(folder)
    return found


def make_methods_of(args, editor) -> list:
    """Returns the methods that the arguments ask for; see `methods.base.Method`."""
    from gen1_jax.evaluation.methods.registry import make_methods

    return make_methods(
        method_names(args), editor, find_models(args), find_outputs(args), args.solver
    )
