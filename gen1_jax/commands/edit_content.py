"""Flags that say what an edit should look like, and how it begins."""

from pathlib import Path
from typing import Any

from gen1_jax.commands.edit_like import Several
from gen1_jax.errors import UserError
from gen1_jax.text import check_text, name_of


def add_content_arguments(parser) -> None:
    parser.add_argument(
        "--prompt",
        action=Several,
        metavar="[Ts: ]TEXT",
        help="what the result should look like, in words; several begin with the times from "
        'which they count, such as "0s: a red ball" and "2s: a blue ball"',
    )
    parser.add_argument(
        "--image",
        action=Several,
        type=Path,
        metavar="PATH",
        help="a picture whose look the result takes; its middle square counts; of a video, some "
        "frames count; several are mixed",
    )
    parser.add_argument(
        "--image-shares",
        metavar="W,W,…",
        help="how much each of several pictures counts (all alike)",
    )
    parser.add_argument(
        "--image-weight",
        type=float,
        metavar="W",
        help="how much the pictures count beside a prompt, 0 to 1 (0.5)",
    )
    parser.add_argument(
        "--blend",
        choices=("slerp", "mean"),
        default="slerp",
        help="how contents are mixed: along the arc between them, or added up (%(default)s)",
    )
    parser.add_argument(
        "--negative-prompt",
        metavar="TEXT",
        help="what to lead away from; it takes the place of no content in guidance",
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="S",
        help="share of the steps to run, above 0 up to 1: below 1 the edit begins from the source "
        "with noise, and keeps more of it (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (%(default)s)")
    parser.add_argument(
        "--variations",
        type=int,
        default=1,
        metavar="N",
        help="number of edits, with seeds from --seed on; they are made together, and written as "
        "OUT_1.mp4, OUT_2.mp4, … with a contact sheet OUT.png (%(default)s)",
    )


def check_content(args) -> None:
    """Raises UserError if the flags say no content, or a wrong one."""
    from gen1_jax.editing.content import read_prompts

    if args.prompt is None and args.image is None:
        raise UserError("give --prompt or --image, which the content is taken from")
    prompts = [] if args.prompt is None else read_prompts(args.prompt).values()
    if any(not check_text(text, "--prompt").strip() for text in prompts):
        raise UserError("--prompt is empty; say what the video should look like, or give --image")
    negative = args.negative_prompt
    if negative is not None and not check_text(negative, "--negative-prompt").strip():
        raise UserError("--negative-prompt is empty; say what to lead away from, or leave it out")
    if args.image_shares is not None and args.image is None:
        raise UserError("--image-shares says how much each --image counts, and there is none")
    if args.image_weight is not None and (args.prompt is None or args.image is None):
        raise UserError("--image-weight mixes --image with --prompt; give both of them")
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed {args.seed}; 0 to {2**32 - 1} are accepted")
    if args.variations < 1 or args.seed + args.variations > 2**32:
        raise UserError(
            f"--variations {args.variations}; 1 or more is accepted, up to seed {2**32 - 1}"
        )
    _weights_of(args)


def content_of(args) -> dict[str, Any]:
    """Returns the keywords of `VideoEditor.vary` that say what is wanted."""
    return {
        "prompt": args.prompt,
        "image": args.image,
        "image_shares": _weights_of(args),
        "image_weight": 0.5 if args.image_weight is None else args.image_weight,
        "blend": args.blend,
        "negative_prompt": args.negative_prompt,
        "strength": args.strength,
        "seed": args.seed,
        "variations": args.variations,
    }


def label_of(args) -> str:
    """Returns what an edit is called in pictures."""
    if args.prompt:
        return ", then ".join(args.prompt)
    return f"edit like {', '.join(name_of(image.name) for image in args.image)}"


def _weights_of(args) -> list[float] | None:
    if args.image_shares is None:
        return None
    try:
        return [float(each) for each in args.image_shares.split(",")]
    except ValueError:
        raise UserError(
            f"--image-shares {args.image_shares}; numbers such as 0.7,0.3 are accepted"
        ) from None
