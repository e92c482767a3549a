"""Say what a video says of where it comes from.

    gen1 detect out.mp4
    gen1 detect out.mp4 other.gif --json

Three things are looked at. The metadata may say that the file is synthetic. Content credentials
(C2PA, with the extra `credentials`) may say it under a signature, which breaks if the file is
changed. The frames may bear the invisible mark of `gen1 edit --watermark`, which outlives H.264 and
scaling. That none is found does not mean that a video is genuine.
"""

import json
from pathlib import Path
from typing import Any

from gen1_jax.errors import UserError

HELP = "whether a video says, or its frames show, that it is synthetic"


def add_arguments(parser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a video or picture")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each file")


def run(args) -> None:
    for path in args.files:
        found = examine(path)
        print(json.dumps({"file": str(path), **found}) if args.json else show(path, found))


def examine(path: Path) -> dict[str, Any]:
    """Returns what is found in a file.

    Raises:
      UserError: it cannot be read.
    """
    from gen1_jax.video.footage import open_footage
    from gen1_jax.video.provenance import SOURCE_TYPE, read_credentials
    from gen1_jax.video.tags import read_tags
    from gen1_jax.video.watermark import find_mark

    mark = find_mark(open_footage(path).frames)
    try:
        tags = read_tags(path)
    except UserError:  # a format that has none
        tags = {}
    try:
        credentials = read_credentials(path) if path.is_file() else None
    except UserError as error:
        credentials = str(error)
    return {
        "metadata": tags.get(SOURCE_TYPE),
        "software": tags.get("software"),
        "credentials": credentials,
        "watermark": mark._asdict(),
    }


def show(path: Path, found: dict[str, Any]) -> str:
    """Returns the findings as lines of text."""
    metadata = "does not say that the file is synthetic"
    if found["metadata"]:
        by = f", by {found['software']}" if found["software"] else ""
        metadata = f"says synthetic ({found['metadata'].rsplit('/', 1)[-1]}{by})"
    credentials = found["credentials"]
    if isinstance(credentials, dict):
        term = credentials.get("source type", "no source type").rsplit("/", 1)[-1]
        signer = credentials.get("issuer", "unknown")
        credentials = f"{credentials['state'].lower()}, {term}, signed by {signer}"
    mark = found["watermark"]
    chance = f"below 1 in {1 / mark['chance']:.0e}" if mark["chance"] < 0.1 else "likely"
    is_marked = "found" if mark["is_marked"] else "not found"
    return "\n".join(
        [
            f"{path}",
            f"  metadata     {metadata}",
            f"  credentials  {credentials or 'none'}",
            f"  watermark    {is_marked} (score {mark['score']:.1f}; by chance {chance})",
        ]
    )
