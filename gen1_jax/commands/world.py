"""Make the moving-shapes world: seeded clips with true depth, mask and caption, a TFDS data set.

With --show, also write a few clips as mp4, to look at and to edit, and a picture of them.
"""

from pathlib import Path

HELP = "make the moving-shapes data set"


def add_arguments(parser) -> None:
    parser.add_argument("--workdir", required=True, type=Path, help="folder of the data set")
    parser.add_argument(
        "--builder", default="demo", help="its size: demo (1024 clips), tiny (4096), test (24)"
    )
    parser.add_argument(
        "--show",
        type=int,
        default=0,
        metavar="N",
        help="write N test clips: WORKDIR/clips/*.mp4, preview.png",
    )
    parser.add_argument("--no-progress", action="store_true", help="no bar")


def run(args) -> None:
    import numpy as np

    from gen1_jax.data_pipelines.moving_shapes.builder import build
    from gen1_jax.data_pipelines.moving_shapes.records import decode_example
    from gen1_jax.video import pictures
    from gen1_jax.video.io import write_video

    source = build(args.workdir, args.builder, progress=not args.no_progress)
    for split, records in source.items():
        print(f"{split}: {len(records)} clips")
    if args.show > 0:
        clips = [
            decode_example(source["test"][i]) for i in range(min(args.show, len(source["test"])))
        ]
        rows = [
            {
                clip["caption"]: clip["frames"],
                "depth": pictures.colour_depth(clip["depth"]),
                "mask": np.repeat(clip["mask"][..., None], 3, axis=-1).astype(np.uint8) * 255,
            }
            for clip in clips
        ]
        pictures.save_image(args.workdir / "preview.png", pictures.contact_sheet(rows))
        for i, clip in enumerate(clips):
            path = args.workdir / "clips" / f"clip_{i:02d}.mp4"
            write_video(path, clip["frames"], fps=8, overwrite=True)
            print(f"{path}: {clip['caption']}")
        print(f"pictured in {args.workdir / 'preview.png'}")
