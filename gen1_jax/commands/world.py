"""Make the moving-shapes world: seeded clips with true depth, mask and caption, a TFDS data set.

With --show, also write some clips as mp4 and the first frames of others as images, each with its
caption in a text file beside it, to look at, to edit and to ingest.
"""

from pathlib import Path

HELP = "make the moving-shapes data set"


def add_arguments(parser) -> None:
    parser.add_argument("--workdir", required=True, type=Path, help="folder of the data set")
    parser.add_argument(
        "--builder",
        default="demo",
        help="size of the data set: demo (1024 clips), tiny (4096), test (24)",
    )
    parser.add_argument(
        "--show",
        type=int,
        default=0,
        metavar="N",
        help="write N clips, the test's first: WORKDIR/clips/*.mp4, masks/*.mp4, images/*.png, "
        "preview.png",
    )
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def run(args) -> None:
    from gen1_jax.data_pipelines.moving_shapes.builder import build
    from gen1_jax.data_pipelines.moving_shapes.previews import write_previews

    source = build(args.workdir, args.builder, progress=not args.no_progress)
    for split, records in source.items():
        print(f"{split}: {len(records)} clips")
    if args.show > 0:
        films = write_previews(source, args.workdir, args.show)
        for path, caption in films:
            print(f"{path}: {caption}")
        if len(films) < args.show:
            print(f"--show {args.show}: the world has {len(films)} clips, validation left out")
        print(f"pictured in {args.workdir / 'preview.png'}")
