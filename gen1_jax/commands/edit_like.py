"""The flag `--like` of `gen1 edit`, and the record that it reads: an edit is made again."""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gen1_jax.errors import UserError
from gen1_jax.settings import show
from gen1_jax.structure_settings import EXTRACTORS

# Flags that name files, which the record keeps digests of.
INPUTS = ("input", "image", "structure", "mask", "redo_of")
# What says where results go and how they are shown; all other flags make the result what it is.
OUTSIDE = (
    "command", "module", "like", "like_path", "taken", "output", "overwrite", "save_structure",
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


def add_like_argument(parser) -> None:
    parser.add_argument(
        "--like",
        dest="like_path",
        type=Path,
        metavar="OUT",
        help="make an earlier edit again: all flags that are not given are those of OUT.mp4 (or of "
        "another output, or of OUT.json)",
    )
    parser.set_defaults(like=None, taken={})
    parser.prepare = partial(_take_earlier, parser)


def _take_earlier(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Makes the flags of the edit that --like names the defaults of a parser.

    A flag that is given with its usual value is given all the same, so that defaults must be set
    before words are parsed. `like` becomes the record, `taken` what was taken of it, by name.
    """
    words = list(itertools.takewhile(lambda word: word != "--", words))
    paths = [after for word, after in itertools.pairwise(words) if word == "--like"]
    paths += [word.partition("=")[2] for word in words if word.startswith("--like=")]
    if len(paths) > 1:
        raise UserError(f"--like is given {len(paths)} times; one earlier edit is accepted")
    if not paths:
        return
    from gen1_jax.editing.record import read_record  # imports jax, which --help does without

    record, taken = read_record(paths[0]), {}
    for action in parser._actions:
        name = action.dest
        if name in record["flags"] and name not in OUTSIDE:
            try:
                taken[name] = _as_given(parser, action, record["flags"][name])
            except UserError as error:
                raise UserError(f"--like {paths[0]}: its record is damaged: {error}") from error
    parser.set_defaults(**taken, like=record, taken=taken)


def input_of(args) -> Path:
    """Returns the input.

    Raises:
      UserError: there is none.
    """
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
        # What is named again is meant as it is now, even by the same path.
        named = {name for name in (*INPUTS, "model") if flags[name] is not args.taken.get(name)}
        # Other LoRAs make another UNet of the same model.
        named |= {"model"} if "lora" in anew else set()
        check_unchanged(args.like, record, named)
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


def _as_given(parser: argparse.ArgumentParser, action: argparse.Action, value: Any) -> Any:
    """Returns a recorded value as the parser gives it.

    Raises:
      UserError: it is none that the flag accepts.
    """
    if value is None and action.default is None:
        return None
    is_switch, is_list = action.nargs == 0, isinstance(action, Several) or action.nargs == "+"
    kinds = bool if is_switch else list if is_list else str | int | float
    if not isinstance(value, kinds) or (isinstance(value, bool) and not is_switch):
        raise UserError(f"{action.dest} is {show(value)}")
    if is_switch:
        return value
    values = value if is_list else [value]
    found = Earlier(parser._get_value(action, str(each)) for each in values)
    for one in found:
        parser._check_value(action, one)
    if is_list:
        return found
    return EarlierSeed(found[0]) if action.dest == "seed" else found[0]
