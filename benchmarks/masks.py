"""Measures edits of the world with the true masks: what stays outside, and what changes inside.

    python benchmarks/masks.py runs/demo/pipeline [--clips 32] [--steps 25] [--feather 2]

Held-out clips of the world are rendered, and the object of each gets another colour: without a
mask, and with the object's true mask. The last line is one JSON object.

- psnr: of what the model made against the autoencoder's own reconstruction of the source, before
  the source's pixels are put back; by distance from the mask in pixels, and over all pixels that
  take nothing of the edit ("outside"). Means over clips, dB.
- kept: the share of pixels outside that are the source's, to the bit, in the result.
- colour, colour_change: how often the object is found in the wanted colour, and the paired
  difference of the masked edit and the one without a mask, with its interval.
"""

import json
from pathlib import Path

from common import make_parser, print_figures

from gen1_jax.aot.environment import prepare_environment

DISTANCES = (1, 2, 3, 4, 6, 8, 12, 64)  # pixels; each bin ends here


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("pipeline", type=Path, help="a pipeline folder")
    parser.add_argument("--clips", type=int, default=32, help="clips (%(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="sampling steps (%(default)s)")
    parser.add_argument("--feather", type=float, help="as of gen1 edit")
    parser.add_argument("--records", type=Path, help="a file of figures, from which it goes on")
    parser.add_argument("--pictures", type=Path, help="a folder for the first clips' edits")
    args = parser.parse_args()
    prepare_environment("")
    records = measure(args)
    print_figures(summarise(records))


def measure(args) -> list[dict[str, float]]:
    """Returns the figures of each clip."""
    import numpy as np
    from tqdm import tqdm

    from gen1_jax.data_pipelines.moving_shapes.builder import split_seed
    from gen1_jax.data_pipelines.moving_shapes.lineup import Lineup
    from gen1_jax.data_pipelines.moving_shapes.renderer import render
    from gen1_jax.data_pipelines.moving_shapes.vocabulary import COLOURS, canonical_caption
    from gen1_jax.editing import VideoEditor
    from gen1_jax.video.io import write_video
    from gen1_jax.video.pictures import side_by_side

    editor = VideoEditor.load(args.pipeline)
    size, count = tuple(editor.settings["size"]), editor.settings["num_frames"]
    records = []
    if args.records and args.records.exists():
        records = json.loads(args.records.read_text(encoding="utf-8"))
    for number in tqdm(range(len(records), args.clips), desc="clips"):
        seed = split_seed("test", number)
        clip = render(seed, num_frames=count, size=size)
        others = [name for name in COLOURS if name != clip.truth["colour"]]
        colour = others[number % len(others)]
        prompt = canonical_caption({**clip.truth, "colour": colour}, False)
        options = {"prompt": prompt, "seed": number, "steps": args.steps}
        plain = editor.edit(clip.frames, **options)
        masked = editor.edit(clip.frames, **options, mask=clip.mask, feather=args.feather)
        again = reconstruct(editor, clip.frames)
        decoded = masked.decoded.array()
        share = masked._mask.on_frames().array()
        lineup = Lineup(
            seed, clip.truth, {"colour": colour}, num_frames=count, size=size,
            camera=clip.truth["camera"],
        )  # fmt: skip
        found = {way: lineup.find(e.frames).values for way, e in
                 (("plain", plain), ("masked", masked))}  # fmt: skip
        records.append(
            {
                "psnr": by_distance(decoded, again, clip.mask),
                "outside": psnr(decoded, again, share == 0),
                "all_outside": psnr(decoded, again, ~clip.mask),
                "inside": psnr(decoded, again, clip.mask),
                "kept": float((masked.frames == clip.frames)[share == 0].mean()),
                "plain": float(found["plain"]["colour"] == colour),
                "masked": float(found["masked"]["colour"] == colour),
            }
        )
        if args.records:
            args.records.write_text(json.dumps(records), encoding="utf-8")
        if args.pictures and number < 6:
            args.pictures.mkdir(parents=True, exist_ok=True)
            shown = {
                "source": clip.frames,
                "mask": np.repeat(np.uint8(255 * share)[..., None], 3, -1),
                "plain": plain.frames,
                "decoded": decoded,
                "masked": masked.frames,
                "wanted": lineup.wanted.frames,
            }
            write_video(args.pictures / f"{number}.webp", side_by_side(shown), 8, overwrite=True)
    return records


def reconstruct(editor, frames):
    """Returns what the autoencoder makes of frames [n H W 3]."""
    import jax

    def there_and_back(params, frames):
        conditioner = editor.conditioner
        return conditioner.decode(params, conditioner.encode_frames(params, frames[None]))[0]

    program = editor.__dict__.setdefault("_benchmark", jax.jit(there_and_back))
    return program(editor.params, frames)


def psnr(frames, others, where) -> float:
    import numpy as np

    error = (np.asarray(frames, float) - others)[where]
    return float(10 * np.log10(255**2 / max(np.square(error).mean(), 1e-3))) if error.size else None


def by_distance(frames, others, mask) -> list[float]:
    import numpy as np
    from scipy.ndimage import distance_transform_cdt

    away = np.stack([distance_transform_cdt(~each, "chessboard") for each in mask])
    away[~mask.any((1, 2))] = 1000
    edges = zip((0, *DISTANCES), DISTANCES, strict=False)
    return [psnr(frames, others, (away > low) & (away <= high)) for low, high in edges]


def summarise(records) -> dict:
    """Returns means, and the paired difference of colours."""
    import numpy as np

    from gen1_jax.evaluation.statistics import confidence_interval

    def mean(values) -> float:
        return round(float(np.mean([value for value in values if value is not None])), 3)

    change = confidence_interval([each["masked"] - each["plain"] for each in records])
    bins = zip(*(each["psnr"] for each in records), strict=True)
    return {
        "clips": len(records),
        "psnr": {str(high): mean(values) for high, values in zip(DISTANCES, bins, strict=True)},
        **{
            f"psnr_{name}": mean(each[name] for each in records)
            for name in ("outside", "all_outside", "inside")
        },
        "psnr_outside_least": round(min(each["outside"] for each in records), 2),
        "kept": mean(each["kept"] for each in records),
        "colour": {way: mean(each[way] for each in records) for way in ("plain", "masked")},
        "colour_change": [round(x, 4) for x in (change.mean, change.low, change.high)],
    }


if __name__ == "__main__":
    main()
