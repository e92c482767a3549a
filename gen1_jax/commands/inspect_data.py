"""Look at a folder of training data: what is in it, in numbers and in pictures.

    gen1 inspect data/footage

DATA is a folder that `gen1 ingest` or `gen1 precompute` made. A table says what is there.
contact_sheet.png and mosaic.mp4 show random items of it, in the folder DATA_inspect beside DATA or
in --output. Encoded clips are shown by the first three channels of their latents: roughly, but well
enough to recognise them.
"""

import json
from pathlib import Path

from gen1_jax.errors import UserError

HELP = "count and picture what a data folder holds"


def add_arguments(parser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="ingested or encoded folder")
    parser.add_argument(
        "-o",
        "--output",
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the pictures (default: DATA_inspect, beside DATA)",
    )
    parser.add_argument(
        "--items", type=int, default=24, metavar="N", help="random items shown (default: 24)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default: 0)")
    parser.add_argument("--split", help="show this split (default: train, or the first)")
    parser.add_argument(
        "--all",
        action="store_true",
        help="read every record, not only 1000 of each kind (the counts are exact anyway)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    parser.add_argument(
        "--no-pictures", action="store_true", help="print the numbers, write no pictures"
    )


def run(args) -> None:
    from gen1_jax.data_pipelines.footage.inspect import LOOKED_AT, open_data
    from gen1_jax.data_pipelines.footage.showing import show

    if args.items < 1:
        raise UserError(f"--items {args.items}; 1 or more is accepted")
    data = open_data(args.data)
    split = args.split or ("train" if "train" in data.splits else data.splits[0])
    if split not in data.splits:
        raise UserError(f"{args.data} has no split {split!r}; it has: {', '.join(data.splits)}")
    named = args.data if args.data.name not in ("", "..") else args.data.resolve()  # . has no name
    out = args.output or named.with_name(f"{named.name}_inspect")
    summary = data.summarize(None if args.all else LOOKED_AT, args.seed)
    if not args.json:
        print(data.table(summary))
    if not args.no_pictures:
        items = data.draw(split, args.items, args.seed)
        summary["pictures"] = [str(path) for path in show(items, out)]
        if not args.json:
            print(f"pictured in {' and '.join(summary['pictures'])}")
    if args.json:
        print(json.dumps(summary))
