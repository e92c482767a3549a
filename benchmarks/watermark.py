"""Measures the invisible mark: what it costs, after what it is found, and false alarms.

    python benchmarks/watermark.py [--clips 200] [--unmarked 2000] [--films FOLDER]

Clips of the world are rendered at each size, marked, written as H.264, and looked at. Films in a
folder are cut into pieces of as many frames. The last line is one JSON object.

- psnr: of the marked frames, against those without, in dB.
- found: share of clips in which the mark is found: as it is; after H.264 at crf 23; after scaling
  to half and back; after both; after the half size was itself written at crf 23.
- false alarms: clips without the mark in which one is found; as they are, and after H.264.
"""

import io
from fractions import Fraction
from pathlib import Path

from common import make_parser, print_figures


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--clips", type=int, default=200, help="marked clips (%(default)s)")
    parser.add_argument("--unmarked", type=int, default=2000, help="others (%(default)s)")
    parser.add_argument("--frames", type=int, default=8, help="frames of each (%(default)s)")
    parser.add_argument("--films", type=Path, help="a folder of mp4 files, beside the world")
    parser.add_argument("--sizes", nargs="+", default=["32x32", "64x64", "256x448"])
    args = parser.parse_args()
    figures = {}
    for text in args.sizes:
        size = tuple(map(int, text.split("x")))
        makers = {"world": lambda count, size=size: world(count, args.frames, size)}
        if args.films:
            makers["films"] = lambda count, size=size: films(args.films, count, args.frames, size)
        for name, make in makers.items():
            figures[f"{name} {text}"] = measure(make, args)
            print(name, text, figures[f"{name} {text}"], flush=True)
    print_figures(figures)


def world(count, frames, size):
    from gen1_jax.data_pipelines.moving_shapes.renderer import render

    for index in range(count):
        yield render(500_000 + index, num_frames=frames, size=size).frames


def films(folder, count, frames, size):
    """Pieces of the films that start at every frame, scaled and cropped to the size."""
    from gen1_jax.video.footage import open_footage

    for path in sorted(folder.glob("*.mp4")):
        piece = []
        for frame in open_footage(path, size=size).frames:
            piece = [*piece, frame][-frames:]
            if len(piece) == frames and count > 0:
                count -= 1
                yield piece


def measure(make, args):
    import numpy as np

    from gen1_jax.video.watermark import find_mark, mark_frame

    errors, found = [], {name: [] for name in CHANGES}
    for clip in make(args.clips):
        marked = [mark_frame(frame) for frame in clip]
        difference = np.stack(marked).astype(float) - np.stack(clip)
        errors.append(10 * np.log10(255**2 / np.mean(difference**2)))
        for name, change in CHANGES.items():
            found[name].append(find_mark(change(marked)))
    scores = [[find_mark(clip), find_mark(h264(clip))] for clip in make(args.unmarked)]
    return {
        "clips": len(errors),
        "psnr": round(float(np.mean(errors)), 1),
        "found": {name: sum(f.is_marked for f in each) / len(each) for name, each in found.items()},
        "least score": {name: round(min(f.score for f in each), 1) for name, each in found.items()},
        "unmarked": len(scores),
        "false alarms": [sum(each[i].is_marked for each in scores) for i in (0, 1)],
        "highest score": [round(max(each[i].score for each in scores), 2) for i in (0, 1)],
    }


# ---- what happens to a file


def h264(frames, crf="23"):
    import av

    from gen1_jax.video.writing import even_sides, write_h264

    height, width = frames[0].shape[:2]
    with io.BytesIO() as file:
        options = {"crf": crf, "preset": "medium"}
        write_h264(file, map(even_sides, frames), Fraction(24), options=options)
        file.seek(0)
        with av.open(file) as container:
            decoded = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return [frame[:height, :width] for frame in decoded]


def scaled(frames, size):
    from gen1_jax.video.pixels import resize_frame

    return [resize_frame(frame, size) for frame in frames]


def halved(frames):
    return scaled(frames, tuple(side // 2 for side in frames[0].shape[:2]))


CHANGES = {
    "itself": lambda frames: frames,
    "crf 23": h264,
    "half and back": lambda frames: scaled(halved(frames), frames[0].shape[:2]),
    "half, back, crf 23": lambda frames: h264(scaled(halved(frames), frames[0].shape[:2])),
    "half at crf 23": lambda frames: h264(halved(frames)),
}


if __name__ == "__main__":
    main()
