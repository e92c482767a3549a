"""Measures sections that are made anew (`gen1 edit --redo`) on the world: whether they join.

    python benchmarks/sections.py runs/demo/pipeline [--clips 16] [--frames 24] [--steps 10]

Held-out clips of the world are rendered with many frames and edited towards another colour. Then
the middle third is made anew with another seed: as `--redo` does it, in windows that reach over its
ends, and as an edit of its own that is put there ("cut"). The last line is one JSON object.

- seam: frame consistency and flicker of neighbouring frames across the section's two borders
  against the other pairs, with the interval of the difference over videos; "first" is the edit
  before, at the same places.
- colour: distance of the object's mean colour (Lab) in the section to that of the rendered edit.
- kept: the share of the other frames that are equal, to the bit.
"""

import json
from pathlib import Path

from common import make_parser, print_figures

from long_videos import figures_of, summarise

from gen1_jax.aot.environment import prepare_environment

WAYS = ("first", "redo", "cut")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("pipeline", type=Path, help="a pipeline folder")
    parser.add_argument("--clips", type=int, default=16, help="videos (%(default)s)")
    parser.add_argument("--frames", type=int, default=24, help="frames of each (%(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="sampling steps (%(default)s)")
    parser.add_argument("--records", type=Path, help="a file of figures, from which it goes on")
    parser.add_argument("--pictures", type=Path, help="a folder for the first videos' edits")
    args = parser.parse_args()
    prepare_environment("")
    records = measure(args)
    figures = {way: summarise([each[way] for each in records]) for way in WAYS}
    figures["kept"] = sum(each["kept"] for each in records) / len(records)
    print_figures(figures)


def measure(args) -> list[dict[str, dict[str, float]]]:
    """Returns the figures of each video, by way."""
    from tqdm import tqdm

    from gen1_jax.data_pipelines.moving_shapes.builder import split_seed
    from gen1_jax.data_pipelines.moving_shapes.renderer import render
    from gen1_jax.data_pipelines.moving_shapes.vocabulary import COLOURS, canonical_caption
    from gen1_jax.editing import VideoEditor
    from gen1_jax.video.io import write_video
    from gen1_jax.video.pictures import side_by_side

    editor = VideoEditor.load(args.pipeline)
    size, n = tuple(editor.settings["size"]), args.frames
    records = []
    if args.records and args.records.exists():
        records = json.loads(args.records.read_text(encoding="utf-8"))
    a, b = n // 3, n - n // 3
    for number in tqdm(range(len(records), args.clips), desc="videos"):
        seed = split_seed("test", number)
        clip = render(seed, num_frames=n, size=size)
        others = [name for name in COLOURS if name != clip.truth["colour"]]
        colour = others[number % len(others)]
        target = render(seed, num_frames=n, size=size, changes={"colour": colour})
        prompt = canonical_caption({**clip.truth, "colour": colour}, False)
        options = {"prompt": prompt, "steps": args.steps, "content_seed": number}
        made = {"first": editor.edit(clip.frames, seed=number, **options).frames}
        options["seed"] = number + 1
        anew = editor.edit(clip.frames, redo=(a, b), earlier=made["first"], **options)
        made["redo"] = anew.frames
        made["cut"] = made["first"].copy()
        made["cut"][a:b] = editor.edit(clip.frames[a:b], **options).frames
        near = slice(max(0, a - 4), b + 4)
        record = {
            way: figures_of(
                editor, frames[near], clip.frames[near], clip.mask[near], target.frames[near],
                [a - near.start, b - near.start],
            )
            for way, frames in made.items()
        }  # fmt: skip
        same = (made["redo"] == made["first"]).all((1, 2, 3))
        record["kept"] = float(same[[*range(a), *range(b, n)]].mean())
        records.append(record)
        if args.records:
            args.records.write_text(json.dumps(records), encoding="utf-8")
        if args.pictures and number < 4:
            args.pictures.mkdir(parents=True, exist_ok=True)
            shown = side_by_side({"source": clip.frames, **made})
            write_video(args.pictures / f"{number}.webp", shown, 8, overwrite=True)
    return records


if __name__ == "__main__":
    main()
