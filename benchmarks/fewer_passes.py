"""Measures what fewer and cheaper passes of the network cost: solvers, and reuse between steps.

    python benchmarks/fewer_passes.py runs/demo/pipeline --world runs/demo/world -o runs/fewer

Held-out clips of the world are edited towards another colour in several ways, all from the same
noise. Edits go to the output folder as they are made; the same command goes on where it was
stopped. The last line is one JSON object: for each way the FLOPs of the trajectory of one clip (of
the compiled programs), the means of the measures, and their differences to DDIM's 50 steps with
95 % intervals over clips.

- psnr: of the frames, to DDIM's in 250 steps, on the first batch of clips.
- interval A-B: guidance from the A-th to the B-th part of the steps; elsewhere the prediction with
  content alone, one branch of three.
- deep N: what the network computes below its first resolution is reused, in all but every N-th step
  (DeepCache, Ma et al. 2312.00858).
"""

import json
import time
from functools import partial
from pathlib import Path

from common import make_parser, print_figures

from gen1_jax.aot.environment import prepare_environment

METRICS = ("frame_consistency", "prompt_consistency", "structure_correlation", "colour_accuracy")
REFERENCE, EXACT = "ddim 250", "ddim 50"
WAYS = (
    EXACT, REFERENCE, "ddim 25", "ddim 20", "ddim 10",
    *(f"{solver} {steps}" for solver in ("dpm++", "unipc") for steps in (8, 10, 15, 20, 25)),
    "ddim 50 interval 0-0.5", "ddim 50 interval 0.2-0.7", "ddim 50 deep 2", "ddim 50 deep 3",
    "ddim 50 deep 5", "dpm++ 20 interval 0-0.5", "dpm++ 20 deep 2", "dpm++ 20 deep 3",
)  # fmt: skip


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("pipeline", type=Path, help="a pipeline folder")
    parser.add_argument("--world", type=Path, required=True, help="the folder of the world")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder for results")
    parser.add_argument("--clips", type=int, default=32, help="clips (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="clips at a time (%(default)s)")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), metavar="WAY")
    parser.add_argument("--temporal-scale", type=float, default=1.0, help="ω_t (%(default)s)")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many")
    args = parser.parse_args()
    prepare_environment("")
    args.output.mkdir(parents=True, exist_ok=True)
    cost = measure(args)
    print_figures({way: each for way, each in summarise(args, cost).items()})


class Passes:
    """The network in its several forms, compiled once each.

    All take (z, t, content, structure); `deep` is what the network computed below its first
    resolution, [b g ...].
    """

    def __init__(self, editor, temporal_scale: float):
        import jax

        self.editor, self.scale = editor, temporal_scale
        self.guided = jax.jit(self._guided)
        self.content = jax.jit(self._content)
        self.full = jax.jit(self._full)
        self.shallow = jax.jit(self._shallow)

    def _branches(self, params, z, t, content, structure, count):
        """Returns the arguments of the network for the first branches of guidance."""
        import jax.numpy as jnp

        from gen1_jax.diffusion.structure import model_input

        b = z.shape[0]
        inputs = model_input(z, structure, jnp.zeros(b, jnp.int32))
        tokens = content[:, None]
        contents = [tokens, jnp.zeros_like(tokens), jnp.zeros_like(tokens)][:count]
        return (
            {"params": params["unet"]},
            jnp.stack([inputs] * count, axis=1),
            jnp.broadcast_to(t, (b,)),
            jnp.stack(contents, axis=1),
        )

    def _combined(self, branches):
        import jax.numpy as jnp

        from gen1_jax.diffusion.guidance import combine

        scale = self.editor.settings["guidance_scale"]
        return combine(*jnp.moveaxis(branches, 1, 0), self.scale, scale)

    def _guided(self, *arguments):
        own = self._branches(*arguments, 3)
        return self._combined(self.editor.unet.apply(*own, num_video_branches=2))

    def _content(self, *arguments):
        own = self._branches(*arguments, 1)
        return self.editor.unet.apply(*own, num_video_branches=1)[:, 0]

    def _full(self, *arguments):
        """As `_guided`; it returns what was computed below the first resolution too."""
        import flax.linen as nn

        kept, last = [], f"up_blocks_{len(self.editor.unet.block_out_channels) - 2}"

        def keep(run, args, kwargs, context):
            out = run(*args, **kwargs)
            if context.module.name == last and context.method_name == "__call__":
                kept.append(out[0])
            return out

        with nn.intercept_methods(keep):
            return self._guided(*arguments), kept[0]

    def _shallow(self, *arguments):
        """The first resolution alone, with what was computed below it in an earlier step."""
        import flax.linen as nn

        *arguments, deep = arguments
        unet = self.editor.unet
        levels = len(unet.block_out_channels)
        down = {f"down_blocks_{i}" for i in range(1, levels)}
        up = {f"up_blocks_{i}" for i in range(levels - 1)}

        def skip(run, args, kwargs, context):
            name = context.module.name
            if context.method_name != "__call__" or name not in down | up | {"mid_block"}:
                return run(*args, **kwargs)
            if name in up:
                for _ in range(unet.layers_per_block + 1):
                    args[-1].pop()
                return deep, []
            outputs = unet.layers_per_block + (name != f"down_blocks_{levels - 1}")
            return args[0], [args[0]] * (outputs if name in down else 0)

        with nn.intercept_methods(skip):
            return self._guided(*arguments)

    # ---- trajectories

    def predictor(self, way: str):
        """Returns (step, number of steps, *arguments) → prediction; and what runs in each step."""
        words = way.split()
        kind = words[2] if len(words) > 2 else "exact"
        cache = {}

        def choose(step: int, steps: int) -> str:
            if kind == "interval":
                low, high = map(float, words[3].split("-"))
                return "guided" if low * steps <= step < high * steps else "content"
            if kind == "deep":
                return "shallow" if step % int(words[3]) else "full"
            return "guided"

        def predict(step, steps, *arguments):
            what = choose(step, steps)
            if what == "full":
                prediction, cache["deep"] = self.full(*arguments)
                return prediction
            if what == "shallow":
                return self.shallow(*arguments, cache["deep"])
            return getattr(self, what)(*arguments)

        return predict, choose


def measure(args) -> dict[str, float]:
    """Makes and measures what is missing; returns the FLOPs of each way."""
    import jax
    import numpy as np

    from gen1_jax.diffusion.solvers import begin, make_table, step
    from gen1_jax.editing import VideoEditor
    from gen1_jax.evaluation.clips import Clips
    from gen1_jax.evaluation.evidence import Evidence, Source
    from gen1_jax.evaluation.judges import Judges
    from gen1_jax.evaluation.metrics.table import measure as take
    from gen1_jax.evaluation.world_items import world_items

    started = time.perf_counter()
    editor = VideoEditor.load(args.pipeline)
    items = world_items(args.world, None, "test", args.clips)
    passes, judges = Passes(editor, args.temporal_scale), Judges(editor)
    encode = jax.jit(editor.conditioner.encode_structure)
    decode = jax.jit(editor.conditioner.decode)
    advance = jax.jit(partial(step, editor.schedule))
    costs = {}
    for first in range(0, args.clips, args.batch_size):
        clips = Clips(editor, items[first : first + args.batch_size], 0)
        source = Source(clips, judges)
        b = len(clips.items)
        prepared = None
        for way in args.ways:
            path = args.output / f"{way.replace(' ', '_')}-{first}.npz"
            if way == REFERENCE and first:
                continue
            if path.exists() or time.perf_counter() - started > 60 * args.minutes:
                continue
            if prepared is None:
                structure = encode(editor.params, clips.structure_map, np.zeros(b, np.int32))
                keys = jax.vmap(jax.random.key)(np.asarray(clips.seeds, np.uint32))
                noise = jax.vmap(lambda k, s=structure: jax.random.normal(k, s.shape[1:]))(keys)
                prepared = clips.content, structure
            solver, steps = way.split()[:2]
            rows = make_table(editor.schedule, solver, int(steps), editor.settings["spacing"])
            predict, _ = passes.predictor(way)
            state = begin(editor.schedule, rows, noise)
            for i in range(int(steps)):
                row = jax.tree.map(lambda x, i=i: x[i], rows)
                prediction = predict(i, int(steps), editor.params, state.z, row.t, *prepared)
                state, _ = advance(row, state, prediction)
            frames = np.asarray(decode(editor.params, state.z))
            found = take(Evidence(frames, source, judges, 0.0), METRICS)
            table = {name: np.array([each[name] for each in found], float) for name in METRICS}
            np.savez(path, frames=frames, **table)
            print(f"{way}, clips from {first}: {time.perf_counter() - started:.0f} s", flush=True)
            arguments = (editor.params, noise, np.int32(1), *prepared)
            costs.setdefault("arguments", arguments)
    # ---- the arithmetic of each form, by the compiled program
    path = args.output / "flops.json"
    if not path.exists() and "arguments" in costs:
        path.write_text(json.dumps(count_flops(passes, costs["arguments"])))
    flops = json.loads(path.read_text()) if path.exists() else {}
    found = {}
    for way in args.ways if flops else ():
        _, choose = passes.predictor(way)
        steps = int(way.split()[1])
        found[way] = sum(flops[choose(i, steps)] for i in range(steps))
    return found


def count_flops(passes: Passes, arguments) -> dict[str, float]:
    """Returns the FLOPs of one pass of each form, of one clip."""
    import jax

    from gen1_jax.aot.hlo import Program

    b = arguments[1].shape[0]
    deep = jax.eval_shape(passes.full, *arguments)[1]
    found = {}
    for name in ("guided", "content", "full", "shallow"):
        own = (*arguments, deep) if name == "shallow" else arguments
        text = getattr(passes, name).lower(*own).compile().as_text()
        found[name] = Program(text).flops() / b
    return found


def summarise(args, cost) -> dict[str, dict]:
    import numpy as np

    from gen1_jax.evaluation.statistics import confidence_interval

    tables = {}
    for way in args.ways:
        paths = [
            args.output / f"{way.replace(' ', '_')}-{first}.npz"
            for first in range(0, args.clips, args.batch_size)
        ]
        if all(path.exists() for path in paths):
            loaded = [np.load(path) for path in paths]
            tables[way] = {
                name: np.concatenate([each[name] for each in loaded])
                for name in ("frames", *METRICS)
            }
    path = args.output / f"{REFERENCE.replace(' ', '_')}-0.npz"
    reference = np.load(path)["frames"] if path.exists() else None
    figures = {}
    for way, table in tables.items():
        own = {"gflops": round(cost[way] / 1e9, 2)} if way in cost else {}
        if EXACT in cost and way in cost:
            own["gain"] = round(cost[EXACT] / cost[way], 2)
        if reference is not None and way != REFERENCE:
            error = np.square((table["frames"][: len(reference)] - reference.astype(float)) / 255)
            own["psnr"] = round(float(np.mean(-10 * np.log10(error.mean((1, 2, 3, 4))))), 1)
        for name in METRICS:
            own[name] = round(float(np.nanmean(table[name])), 4)
            if EXACT in tables and way != EXACT:
                change = confidence_interval(table[name] - tables[EXACT][name])
                ends = (change.mean, change.low, change.high)
                own[f"{name}_change"] = [round(float(x), 4) for x in ends]
        figures[way] = own
        print(way, json.dumps(own))
    return figures


if __name__ == "__main__":
    main()
