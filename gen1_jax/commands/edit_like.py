"""The flag `--like` of `gen1 edit`, and the record that it reads: an edit is made again."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen1_jax.errors import UserError
from gen1_jax.structure_settings import EXTRACTORS

# Flags that name files, which the record keeps digests of.
INPUTS = ("input", "image", "structure", "mask", "redo_of")
# What says where results go and how they are shown; all other flags make the result what it is.
OUTSIDE = (
    "command", "module", "like", "like_path", "output", "overwrite", "save_structure",
    "no_preview", "events", "preview_every", "quiet", "prompts", "processes", "join_timeout",
    "sign_cert", "sign_key",
)  # fmt: skip


class Several(argparse.Action):
    """Gathers the values of a flag that is given several times, in place of an earlier edit's."""

    def __call__(self, parser, namespace, value, option_string=None):
        earlier = getattr(namespace, self.dest)
        kept = [] if earlier is None or isinstance(earlier, Earlier) else earlier
        setattr(namespace, self.dest, [*kept, value])


class Earlier(list):
    """The values of a flag in an earlier edit."""


class EarlierSeed(int):
    """The seed of an earlier edit."""


class Like(argparse.Action):
    """Takes every flag that was not given yet from the record of an earlier edit."""

    def __call__(self, parser, namespace, value, option_string=None):
        from gen1_jax.editing.record import read_record

        record = read_record(value)
        for name, earlier in record["flags"].items():
            if name in vars(namespace) and name not in OUTSIDE:
                if getattr(namespace, name) == parser.get_default(name):
                    setattr(namespace, name, _as_given(name, earlier))
        namespace.like, namespace.like_path = record, Path(value)


def add_like_argument(parser) -> None:
    parser.add_argument(
        "--like",
        action=Like,
        metavar="OUT",
        help="make an earlier edit again: all flags that are not given are those of OUT.mp4 (or of "
        "another output, or of OUT.json); flags after this one change it",
    )


def input_of(args) -> Path:
    """Returns the input, which an earlier edit may name.

    Raises:
      UserError: there is none.
    """
    if args.input is None and args.like:  # argparse may have taken the earlier one back
        args.input = _as_given("input", args.like["flags"].get("input"))
    if args.input is None:
        raise UserError("give a video to edit, such as gen1 edit clip.mp4, or --like OUT.mp4")
    return args.input


def record_of(args, editor: Any) -> dict[str, Any]:
    """Returns the record of the edit that the flags ask for.

    Raises:
      UserError: with --like, the model or a file is another one by now.
    """
    import jax

    from gen1_jax import __version__
    from gen1_jax.editing.record import check_unchanged, make_record

    flags = {name: value for name, value in vars(args).items() if name not in OUTSIDE}
    record = make_record(
        flags=flags,
        inputs={name: flags[name] for name in INPUTS},
        model=editor.fingerprint,
        computing={
            "gen1-jax": __version__,
            "jax": jax.__version__,
            "platform": jax.default_backend(),
            "devices": int(editor.mesh.size),
            "structure": _extractor(args, editor),
        },
    )
    if args.like:
        earlier = args.like["flags"]
        anew = {name for name, value in record["flags"].items() if earlier.get(name) != value}
        # Other LoRAs make another UNet of the same model.
        check_unchanged(args.like, record, anew | ({"model"} if "lora" in anew else set()))
        changed = [f"{name} {record['flags'][name]}" for name in sorted(anew) if name in earlier]
        print(f"as before{', but ' if changed else ''}{', '.join(changed)}")
        other = {k: v for k, v in record["computing"].items() if args.like["computing"].get(k) != v}
        if other:
            said = ", ".join(f"{name} {value}" for name, value in other.items())
            print(f"computed otherwise than before ({said}): frames may differ by rounding")
    return record


def _extractor(args, editor: Any) -> str:
    """Returns what the structure is made of, with the extractor's version: "canny 1"."""
    recipe = editor.conditioner.recipe
    if args.no_structure:
        return "none"
    kind = args.structure_kind or recipe.extractor
    version = recipe.version if kind == recipe.extractor else EXTRACTORS[kind].version
    return f"{'given as ' if args.structure else ''}{kind} {version}"


def tags_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tags of a file that was made so."""
    from gen1_jax.editing.record import TAG, to_tag

    return {TAG: to_tag(record, {name: None for name in INPUTS})}


def _as_given(name: str, value: Any) -> Any:
    """Returns a recorded value in the type that the parser gives."""
    to_type = Path if name in (*INPUTS, "model") else lambda each: each
    if name == "seed":
        return EarlierSeed(value)
    if isinstance(value, list):
        return Earlier(to_type(each) for each in value)
    return None if value is None else to_type(value)
