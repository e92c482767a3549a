"""Shows what the range of depth does to the structure of real clips (`depth.range`).

    python benchmarks/depth_range.py runs/demo/pipeline CLIP.mp4 … [--frames 32]

Depth is estimated by the pipeline's own network. Windows of 8 frames are normalised with each
range. `window` is the RMS change of the structure of shared frames between neighbouring windows.
`pixel` is that of all other pixels when one pixel of a window gets a value one and a half spans
beyond the greatest. Both are in units of the structure, which lies in [−1, 1].

The last line is one JSON object.
"""

from pathlib import Path

from common import make_parser, print_figures

from gen1_jax.aot.environment import prepare_environment

RANGES = ((0.0, 1.0), (0.005, 0.995), (0.01, 0.99), (0.02, 0.98), (0.05, 0.95))
WINDOW = 8  # frames


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("pipeline", type=Path, help="a pipeline folder")
    parser.add_argument("clips", nargs="+", type=Path, help="videos")
    parser.add_argument("--frames", type=int, default=32, help="frames of each (%(default)s)")
    args = parser.parse_args()
    prepare_environment("")
    figures = {clip.name: measure(args.pipeline, clip, args.frames) for clip in args.clips}
    for name, ranges in figures.items():
        for quantiles, found in ranges.items():
            print(f"{name}, range {quantiles}: {found}")
    print_figures(figures)


def measure(pipeline: Path, clip: Path, num_frames: int) -> dict[str, dict[str, float]]:
    """Returns both changes of a clip's structure, by range."""
    import jax
    import numpy as np

    from gen1_jax.conditioning import Conditioner
    from gen1_jax.diffusion.structure import clip_depth, normalise_clip
    from gen1_jax.pipeline import read_settings
    from gen1_jax.video.io import read_video

    conditioner, params = Conditioner.load({"depth": pipeline / "depth"})
    size = tuple(read_settings(pipeline)["size"])
    frames = read_video(clip, num_frames=num_frames, size=size).frames
    depth = np.asarray(jax.jit(conditioner.estimate_depth)(params, frames[None]))[0]

    def see(x, quantiles):
        return np.asarray(normalise_clip(clip_depth(x[None], *quantiles)))[0]

    def rms(x):
        return float(np.sqrt(np.square(x).mean()))

    found = {}
    for quantiles in RANGES:
        windows, pixels = [], []
        for start in range(0, num_frames - WINDOW, 2):
            window = depth[start : start + WINDOW]
            seen = see(window, quantiles)
            following = see(depth[start + 1 : start + 1 + WINDOW], quantiles)
            windows.append(rms(seen[1:] - following[:-1]))
            wrong = window.copy()
            wrong[3, 5, 7] += window.max() - wrong[3, 5, 7] + 1.5 * np.ptp(window)
            change = see(wrong, quantiles) - seen
            change[3, 5, 7] = 0
            pixels.append(rms(change))
        means = {"window": float(np.mean(windows)), "pixel": float(np.mean(pixels))}
        found[f"{quantiles[0]}-{quantiles[1]}"] = {k: round(v, 5) for k, v in means.items()}
    return found


if __name__ == "__main__":
    main()
