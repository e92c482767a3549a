"""Flags that say which part of a video is edited, and in which windows."""

import re
from typing import Any

from gen1_jax.errors import UserError


def add_length_arguments(parser) -> None:
    parser.add_argument(
        "--start",
        default="0",
        metavar="N|Ts",
        help="where to begin: a number of frames to skip, or a time such as 2.5s (%(default)s)",
    )
    parser.add_argument("--frames", type=int, help="number of frames to edit (all that follow)")
    parser.add_argument(
        "--seconds", type=float, metavar="T", help="the same as a time (all that follow)"
    )
    parser.add_argument(
        "--stride", type=int, default=1, help="take every N-th frame of the input (%(default)s)"
    )
    parser.add_argument(
        "--window",
        type=int,
        metavar="N",
        help="frames that the model sees together (as many as it was trained on)",
    )
    parser.add_argument(
        "--overlap",
        type=int,
        metavar="N",
        help="frames that neighbouring windows share at least (a quarter of the window)",
    )
    parser.add_argument(
        "--window-stride",
        type=int,
        metavar="N",
        help="frames from one frame of a window to the next, such as the stride of training; "
        "the frames between are in windows of their own, which flicker against each other (1)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="windows that the model sees at a time (one for each device)",
    )


def check_length(args) -> None:
    """Raises UserError if a flag has a value that no video allows."""
    for name, least in (
        ("frames", 1), ("stride", 1), ("window", 1), ("overlap", 0), ("window_stride", 1),
        ("batch_size", 1),
    ):  # fmt: skip
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}; {least} or more is accepted")
    if not re.fullmatch(r"\d+|\d+(\.\d*)?s|\.\d+s", args.start):
        raise UserError(
            f"--start {args.start}; a number of frames is accepted, or a time such as 2.5s"
        )
    if args.seconds is not None and not 0 < args.seconds < float("inf"):
        raise UserError(f"--seconds {args.seconds}; a time above 0 is accepted")
    if args.seconds is not None and args.frames is not None:
        raise UserError("--frames and --seconds both say how long the edit is; give one of them")


def part_of(args) -> dict[str, Any]:
    """Returns the options of `VideoEditor.open` that choose frames."""
    start = args.start if args.start.endswith("s") else int(args.start)
    return {
        "start": start,
        "num_frames": args.frames,
        "seconds": args.seconds,
        "stride": args.stride,
    }


def windows_of(args) -> dict[str, Any]:
    """Returns the keywords of `VideoEditor.edit` that say how windows lie."""
    return {
        name: getattr(args, name) for name in ("window", "overlap", "window_stride", "batch_size")
    }
