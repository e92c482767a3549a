"""Flags that say at which size a video is edited and written."""

from typing import Any

from gen1_jax.errors import UserError


def add_size_arguments(parser) -> None:
    parser.add_argument(
        "--size",
        metavar="HxW",
        help="size to edit at, e.g. 64x64 (the size of training that is nearest in shape)",
    )
    parser.add_argument(
        "--fit",
        choices=("crop", "pad"),
        default="crop",
        help="how an input of another shape is brought to the size: crop cuts its borders off; pad "
        "adds its mirror image around it, and cuts that off from the result (%(default)s)",
    )
    parser.add_argument(
        "--output-size",
        metavar="model|source|HxW",
        default="model",
        help="size of the result: that of the edit (model), that of the input (source), or another "
        "of the same shape (%(default)s)",
    )


def check_size(args) -> None:
    """Raises UserError if --output-size is no size."""
    if args.output_size not in ("model", "source"):
        parse_size(args.output_size, None, 1, "--output-size")


def size_of(args, multiple: int) -> dict[str, Any]:
    """Returns the options of `VideoEditor.open` that choose the size; sides are such multiples."""
    size = parse_size(args.size, None, multiple)
    return {"fit": args.fit} | ({} if size is None else {"size": size})


def output_size(args) -> Any:
    """Returns the option `size` of `Edit.at`."""
    if args.output_size in ("model", "source"):
        return args.output_size
    return parse_size(args.output_size, None, 1, "--output-size")


def parse_size(
    text: str | None, default: tuple[int, int] | None, multiple: int, flag: str = "--size"
) -> tuple[int, int] | None:
    """Returns (height, width) of "HxW", or the default without a text.

    Raises:
      UserError: the text is no size, or its sides are no multiples of `multiple`.
    """
    if text is None:
        return default and tuple(default)
    height, x, width = text.lower().partition("x")
    if not (x and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UserError(f"{flag} {text}: HEIGHTxWIDTH is accepted, e.g. 64x64")
    if int(height) % multiple or int(width) % multiple:
        raise UserError(f"{flag} {text}: multiples of {multiple} are accepted")
    return int(height), int(width)
