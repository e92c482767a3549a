"""Flags of `gen1 edit` that say what the file says of itself: mark and content credentials."""

from pathlib import Path
from typing import TYPE_CHECKING

from gen1_jax.errors import UserError

if TYPE_CHECKING:
    from gen1_jax.video.provenance import Signing
    from gen1_jax.video.streams import Stream


def add_provenance_arguments(parser) -> None:
    parser.add_argument(
        "--watermark",
        action="store_true",
        help="mark the frames invisibly as synthetic, for `gen1 detect`",
    )
    parser.add_argument(
        "--sign-cert",
        type=Path,
        metavar="PEM",
        help="sign content credentials (C2PA) with this certificate chain; needs --sign-key and "
        "the extra `credentials`",
    )
    parser.add_argument("--sign-key", type=Path, metavar="PEM", help="the private key of it")


def signing_of(args) -> "Signing | None":
    """Returns what the output is signed with; None: nothing.

    Raises:
      UserError: one of the flags is missing, the output takes no credentials, or what they name is
        not accepted.
    """
    from gen1_jax.video.provenance import load_signing

    if args.sign_cert is None and args.sign_key is None:
        return None
    if args.sign_cert is None or args.sign_key is None:
        raise UserError("--sign-cert and --sign-key are given together")
    if args.redo is not None:
        raise UserError("--redo writes no content credentials; leave out --sign-cert")
    if not args.output.suffix:
        raise UserError(f"{args.output}: a folder of pictures takes no content credentials")
    return load_signing(args.sign_cert, args.sign_key)


def marked(args, frames: "Stream") -> "Stream":
    """Returns the frames, with the mark if it is wanted."""
    from gen1_jax.video.watermark import mark_frame

    return frames.map(mark_frame) if args.watermark else frames
