"""Measures edits of long videos of the world: seams between windows, and drift from first to last.

    python benchmarks/long_videos.py runs/demo/pipeline [--clips 64] [--frames 64] [--steps 10]

Held-out clips of the world are rendered with many frames, and each is edited towards another colour
in several ways. The last line is one JSON object.

- seam: frame consistency and flicker of neighbouring frames, across the borders of windows against
  inside of them. The interval is that of the difference, over videos.
- `apart-N` has windows of every N-th frame, and the frames between in windows of their own.
- drift: the distance of the object's mean colour (Lab) to that of the rendered edit, in the first
  window and in the last.
"""

import json
from pathlib import Path

from common import make_parser, print_figures

from gen1_jax.aot.environment import prepare_environment


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("pipeline", type=Path, help="a pipeline folder")
    parser.add_argument("--clips", type=int, default=64, help="videos (%(default)s)")
    parser.add_argument("--frames", type=int, default=64, help="frames of each (%(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="sampling steps (%(default)s)")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--pictures", type=Path, help="a folder for the first video's edits")
    parser.add_argument("--records", type=Path, help="a file for each video's figures")
    args = parser.parse_args()
    prepare_environment("")
    records = measure(args)
    if args.records:
        args.records.write_text(json.dumps(records), encoding="utf-8")
    figures = {way: summarise(each) for way, each in records.items()}
    for way, each in figures.items():
        print(way, json.dumps(each))
    print_figures(figures)


# ---- ways to edit a long video


def fused(overlap: int, stride: int = 1):
    def edit(editor, frames, prompt, seed, steps):
        made = editor.edit(
            frames, prompt=prompt, seed=seed, steps=steps, overlap=overlap, window_stride=stride
        )
        return made.frames, borders(len(frames), editor.trained.num_frames, overlap, stride)

    return edit


def cut(editor, frames, prompt, seed, steps):
    """Clips one after another, each an edit of its own with the same seed."""
    import numpy as np

    length = editor.trained.num_frames
    clips = [frames[i : i + length] for i in range(0, len(frames), length)]
    made = [editor.edit(clip, prompt=prompt, seed=seed, steps=steps).frames for clip in clips]
    return np.concatenate(made), borders(len(frames), length, 0)


def handed_on(editor, frames, prompt, seed, steps):
    """Clips one after another; each begins with the last frame of the edit before."""
    from functools import partial

    import jax
    import numpy as np

    length = editor.trained.num_frames
    starts = range(0, len(frames) - length + 1, length - 1)
    content = editor.text_content([prompt], seed)
    made = []
    sample = editor.__dict__.setdefault(
        "_benchmark", jax.jit(partial(continue_clip, editor), static_argnames="num_steps")
    )
    for number, start in enumerate(starts):
        clip = frames[start : start + length]
        known = made[-1][-1] if made else clip[0]
        depth = editor.estimate_depth(clip[None])
        maps = editor.conditioner.structure_map(clip[None], depth)
        key = jax.random.key(seed + number)
        own = sample(editor.params, maps, content, key, known, bool(made), num_steps=steps)
        made.append(np.asarray(own)[1 if made else 0 :])
    made = np.concatenate(made)
    return made, [start for start in starts[1:]]


def continue_clip(editor, params, maps, content, key, known, has_known, *, num_steps):
    """Samples a clip [n H W 3] whose first frame is `known` [H W 3]."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from gen1_jax.diffusion.guidance import guided_prediction
    from gen1_jax.diffusion.process import q_sample
    from gen1_jax.diffusion.sampler import integrate

    level = np.zeros(1, np.int32)
    structure = editor.conditioner.encode_structure(params, maps, level)
    latents = editor.conditioner.encode_frames(params, known[None, None])[:, 0]
    noise = jax.random.normal(key, structure.shape)

    def network(*arguments, **keywords):
        return editor.unet.apply({"params": params["unet"]}, *arguments, **keywords)

    def denoise(z, t):
        noised = q_sample(editor.schedule, latents, noise[:, 0], t)
        z = z.at[:, 0].set(jnp.where(has_known, noised, z[:, 0]))
        scale = editor.settings["guidance_scale"]
        return guided_prediction(network, z, t, content[:, None], structure, level, 1.0, scale)

    z = integrate(denoise, editor.schedule, noise, num_steps)
    return editor.conditioner.decode(params, z)[0]


WAYS = {
    "fused-1": fused(1),
    "fused-2": fused(2),
    "fused-4": fused(4),
    "fused-6": fused(6),
    "apart-2": fused(2, 2),
    "apart-4": fused(2, 4),
    "apart-8": fused(2, 8),
    "cut": cut,
    "handed-on": handed_on,
}


def borders(count: int, length: int, overlap: int, stride: int = 1) -> list[int]:
    """Returns the frames before which a window begins or ends."""
    from gen1_jax.diffusion.windows import place_windows

    if stride > 1:  # every frame is beside a border then
        return []
    frames = place_windows(count, length, overlap, stride).frames
    edges = set(frames[:, 0].tolist()) | {int(last) + 1 for last in frames[:, -1]}
    return sorted(edge for edge in edges if 0 < edge < count)


# ---- measures


def measure(args) -> dict[str, list[dict[str, float]]]:
    """Returns the figures of each video, by way."""
    import numpy as np
    from tqdm import tqdm

    from gen1_jax.data_pipelines.moving_shapes.builder import split_seed
    from gen1_jax.data_pipelines.moving_shapes.renderer import render
    from gen1_jax.data_pipelines.moving_shapes.vocabulary import COLOURS, canonical_caption
    from gen1_jax.editing import VideoEditor
    from gen1_jax.video.io import write_video
    from gen1_jax.video.pictures import side_by_side

    editor = VideoEditor.load(args.pipeline)
    size = tuple(editor.settings["size"])
    records = {way: [] for way in args.ways}
    for number in tqdm(range(args.clips), desc="videos"):
        seed = split_seed("test", number)
        clip = render(seed, num_frames=args.frames, size=size)
        others = [name for name in COLOURS if name != clip.truth["colour"]]
        colour = others[number % len(others)]
        target = render(seed, num_frames=args.frames, size=size, changes={"colour": colour})
        prompt = canonical_caption({**clip.truth, "colour": colour}, False)
        shown = {"source": clip.frames}
        for way in args.ways:
            made, edges = WAYS[way](editor, clip.frames, prompt, number, args.steps)
            n = len(made)  # clips that are handed on may end before the video does
            own = figures_of(editor, made, clip.frames[:n], clip.mask[:n], target.frames[:n], edges)
            records[way].append(own)
            shown[way] = made
        if args.pictures and number < 4:
            shown["wanted"] = target.frames
            args.pictures.mkdir(parents=True, exist_ok=True)
            shown = {key: np.asarray(value) for key, value in shown.items()}
            frames = side_by_side(shown)
            write_video(args.pictures / f"{number}.mp4", frames, 8, overwrite=True)
    return records


def figures_of(editor, made, source, mask, target, edges) -> dict[str, float]:
    import numpy as np

    from gen1_jax.evaluation.metrics.colour import flicker
    from gen1_jax.evaluation.metrics.consistency import normalised
    from gen1_jax.video.pixels import rgb_to_lab

    embed = editor.__dict__.setdefault("_embed", jit_embed(editor))
    unit = normalised(np.asarray(embed(editor.params, made)))
    cosines = (unit[1:] * unit[:-1]).sum(-1)
    pairs = np.stack([made[:-1], made[1:]], 1), np.stack([source[:-1], source[1:]], 1)
    change = flicker(*pairs)
    at_border = np.isin(np.arange(1, len(made)), edges)
    lab, wanted = rgb_to_lab(made), rgb_to_lab(target)
    errors = [
        np.linalg.norm(a[m].mean(0) - b[m].mean(0)) if m.any() else np.nan
        for a, b, m in zip(lab, wanted, mask, strict=True)
    ]
    window = editor.trained.num_frames
    return {
        "consistency": float(cosines.mean()),
        "flicker": float(np.nanmean(change)),
        "colour": float(np.nanmean(errors)),
        "consistency_border": float(np.nanmean(cosines[at_border])),
        "consistency_inside": float(np.nanmean(cosines[~at_border])),
        "flicker_border": float(np.nanmean(change[at_border])),
        "flicker_inside": float(np.nanmean(change[~at_border])),
        "colour_first": float(np.nanmean(errors[:window])),
        "colour_last": float(np.nanmean(errors[-window:])),
    }


def jit_embed(editor):
    import jax

    return jax.jit(editor.conditioner.embed_images)


def summarise(records: list[dict[str, float]]) -> dict[str, list[float]]:
    """Returns means, and differences with their intervals."""
    import numpy as np

    from gen1_jax.evaluation.statistics import confidence_interval

    table = {name: np.array([each[name] for each in records]) for name in records[0]}
    found = {name: round(float(np.nanmean(values)), 4) for name, values in table.items()}
    for name in ("consistency", "flicker"):
        if np.isnan(table[f"{name}_border"]).all():  # one window holds all, or there is no inside
            continue
        change = confidence_interval(table[f"{name}_border"] - table[f"{name}_inside"])
        found[f"{name}_seam"] = [round(float(x), 4) for x in (change.mean, change.low, change.high)]
    drift = confidence_interval(table["colour_last"] - table["colour_first"])
    found["colour_drift"] = [round(float(x), 4) for x in (drift.mean, drift.low, drift.high)]
    found["colour_ratio"] = round(found["colour_last"] / found["colour_first"], 3)
    return found


if __name__ == "__main__":
    main()
