"""Make a data set of real footage: videos into clips, or captioned images.

    gen1 ingest clips films/*.mp4 --out DATA
    gen1 ingest images pictures --out DATA

Each SRC is a folder tree, a glob, a file, or a manifest: a CSV, JSONL or Parquet file with a column
`path` and optionally a column `caption`. Paths in a manifest are relative to it or absolute; files
outside its folder are taken only with --allow-outside. Without a manifest, the caption is the
content of a .txt or .json file beside the video or image. A folder of numbered pictures is a video.
A tar archive as img2dataset writes it holds images.

Every input is used, or dropped for a reason. DATA/clips/report.json counts the reasons, and
DATA/clips/inputs.jsonl lists every input. To resume an ingest that was stopped, give the same
command again. An ingest of other SRC with the same settings adds to DATA: what is there stays as it
is, and what it holds already is dropped. At scale, name a Beam runner and its options; all workers
must see DATA and SRC under the same paths:

    gen1 ingest clips SRC --out DATA --runner FlinkRunner --beam --flink_master=host:8081
"""

import argparse
import dataclasses
import os
from pathlib import Path

from gen1_jax.errors import UserError

HELP = "make a data set of your own videos or images"


def add_arguments(parser) -> None:
    kinds = parser.add_subparsers(
        dest="kind", metavar="clips|images", required=True, parser_class=type(parser)
    )
    clips = kinds.add_parser(
        "clips",
        help="videos into clips",
        description="Cut videos (or folders of numbered pictures) at their shots, and store each "
        "shot as clips of N frames. No clip spans a cut.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    images = kinds.add_parser(
        "images",
        help="captioned images, sorted by size",
        description="Scale and crop images (also those in webdataset's tar archives) to the few "
        "sizes that training batches have, and store them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = clips.add_argument
    add(
        "--size",
        type=_size,
        default="256x448",
        metavar="HxW",
        help="size of the frames, height x width",
    )
    add("--num-frames", type=int, default=8, metavar="N", help="number of frames of a clip")
    add(
        "--stride",
        type=int,
        default=4,
        metavar="N",
        help="source frames from one frame of a clip to the next",
    )
    add(
        "--max-clips",
        type=int,
        default=0,
        metavar="N",
        help="largest number of clips of one shot; 0 is all",
    )
    add(
        "--min-motion",
        type=float,
        default=0.5,
        metavar="LEVELS",
        help="least mean change of luma from frame to frame, in levels of 255; a clip below it is "
        "near-still and dropped",
    )
    add(
        "--min-luma",
        type=float,
        default=16.0,
        metavar="LEVELS",
        help="least mean luma, in levels of 255; a clip below it is too dark and dropped",
    )
    add("--keep-bars", action="store_true", help="do not crop constant black bars")
    add(
        "--crf",
        type=int,
        default=18,
        metavar="Q",
        help="x264's quality of stored clips, 0 to 51; smaller is better",
    )
    add = images.add_argument
    add(
        "--buckets",
        type=_size,
        nargs="+",
        metavar="HxW",
        default=tuple(map(_size, ("320x320", "320x384", "384x320", "256x448", "448x256"))),
        help="sizes, height x width; an image goes to the one that crops the least of it",
    )
    add(
        "--quality",
        type=int,
        default=92,
        metavar="Q",
        help="quality of the stored JPEG, 1 to 100",
    )
    for subparser in (clips, images):
        add = subparser.add_argument
        add("source", nargs="+", metavar="SRC", help="folders, globs, files or manifests")
        add(
            "-o",
            "--output",
            "--out",
            dest="out",
            required=True,
            type=Path,
            metavar="DATA",
            help="folder of the data set; clips and images may go to the same one",
        )
        add(
            "--against",
            nargs="+",
            type=Path,
            default=(),
            metavar="DATA",
            help="other data sets of gen1 ingest; what they hold is dropped as a duplicate",
        )
        add(
            "--allow-outside",
            action="store_true",
            help="let a manifest name files outside its own folder",
        )
        add(
            "--max-upscale",
            type=float,
            default=1.0,
            metavar="FACTOR",
            help="largest factor by which a picture may be enlarged",
        )
        add(
            "--min-kept",
            type=float,
            default=0.5,
            metavar="SHARE",
            help="least share of a picture's area that cropping to the size may keep; 0 keeps "
            "pictures of every shape, whatever is cut off",
        )
        add(
            "--validation-fraction",
            type=float,
            default=0.01,
            metavar="SHARE",
            help="share of the inputs that is held out as the validation split; with few inputs, "
            "take 0.1 or more",
        )
        add(
            "--workers",
            type=int,
            default=os.cpu_count() or 1,
            metavar="N",
            help="number of processes on this machine",
        )
        add(
            "--runner",
            default="DirectRunner",
            help="Beam's runner: DirectRunner (here), DaskRunner, DataflowRunner, FlinkRunner …",
        )
        add("--no-progress", action="store_true", help="show no bar")
        add("--beam", nargs=argparse.REMAINDER, default=[], metavar="OPTION",
            help="the rest of the line goes to Beam: --beam --project=mine")  # fmt: skip


def run(args) -> None:
    from gen1_jax.data_pipelines.footage.runner import Runner, check_beam

    check_beam()
    from gen1_jax.data_pipelines.footage import clips, images
    from gen1_jax.data_pipelines.footage.history import notes
    from gen1_jax.data_pipelines.footage.ingest import ingest
    from gen1_jax.data_pipelines.footage.report import format_report

    values = {**vars(args), "crop_bars": not vars(args).get("keep_bars")}
    module, kind = (
        (clips, clips.ClipSettings) if args.kind == "clips" else (images, images.ImageSettings)
    )
    if args.kind == "images":
        values["buckets"] = tuple(args.buckets)
    settings = kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})
    module.check_settings(settings)
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: 1 or more is accepted")
    runner = Runner(args.runner, args.workers, tuple(args.beam))
    runner.check()
    result = ingest(
        args.source,
        args.out,
        settings,
        validation_fraction=args.validation_fraction,
        against=args.against,
        allow_outside=args.allow_outside,
        runner=runner,
        progress=not args.no_progress,
    )
    if not result.fresh:
        print(f"{args.out / args.kind} is complete already; nothing was done")
    lines = [format_report(result.report, result.fresh), *notes(args.out, args.kind)]
    print("\n".join(lines))


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdigit() for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; accepted: HxW, such as 256x448")
    return int(sides[0]), int(sides[1])
