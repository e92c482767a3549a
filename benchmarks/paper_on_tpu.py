"""Compiles the paper's programs for TPUs that are not there: do they fit, and what bounds them?

    python benchmarks/paper_on_tpu.py [CASE ...] [--keep DIR]

Each case runs `gen1 compile` with the real TPU compiler (`pip install -e '.[compile]'`), and takes
5 to 15 minutes of a CPU core and a few GB of memory. Without names all cases are compiled. With
--keep a case that was compiled before is read from DIR. docs/performance.md explains the figures.

The last line is one JSON object: case → the figures of `gen1 compile --json`; "guided" has the
FLOPs of one guided call against three video passes.
"""

import json
from pathlib import Path

from common import GEN1, make_parser, print_figures, run_command

VIDEO, IMAGES = "--config paper:blur", "--config paper:image --images"
# Weak scaling: 9 clips a chip, on 16 to 256 chips.
SCALING = {16: "2x2x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"}
CASES = {
    "v5p": f"{VIDEO} --topology v5p:4x4x8",
    "v5p images": f"{IMAGES} --topology v5p:4x4x8",
    "v5e": f"{VIDEO} --topology v5e:8x16 --microbatches 9 --set mesh.fsdp=16",
    "v6e": f"{VIDEO} --topology v6e:8x16 --microbatches 9 --set mesh.fsdp=16",
    "sampling": "--config paper:blur --what sample --topology v5p:2x2x1 --steps 50"
    " --set mesh.fsdp=1",
    "frames": "--config paper:blur --what sample --topology v5p:2x2x2 --steps 50 --batch-size 1"
    " --set mesh.data=1 mesh.fsdp=1 mesh.frames=8",
    "encode": "--config paper:encoded --what encode --topology v5p:2x2x1",
} | {
    f"scaling {chips}": f"{VIDEO} --topology v5p:{layout} --set data.batch_size={9 * chips}"
    f" data.image_batch_size={72 * chips}"
    for chips, layout in SCALING.items()
    if chips != 128
}


def compile_case(arguments: str) -> dict:
    """Runs `gen1 compile`; returns the figures of its last line."""
    output = run_command([*GEN1, "compile", *arguments.split(), "--json"], show=True)
    *table, last = output.splitlines()
    print("\n".join(table), flush=True)
    return json.loads(last)


def compare_guided_call() -> dict:
    """Returns the compiled FLOPs of a guided call, and of three video passes.

    The guided call has two video branches and one image branch.
    """
    from gen1_jax.aot.environment import prepare_environment

    prepare_environment("v5p:2x2x1")
    import jax
    import jax.numpy as jnp

    from gen1_jax.aot.hlo import Program
    from gen1_jax.aot.target import make_target
    from gen1_jax.configs.paper import get_config
    from gen1_jax.distributed import batch_sharding, replicated
    from gen1_jax.models.unet import VideoUNet
    from gen1_jax.weights.folder import param_template

    mesh = make_target("v5p:2x2x1", {"data": -1}).mesh
    module = VideoUNet.from_config(get_config("blur").model.to_dict(), dtype=jnp.bfloat16)

    def shape(sharding, *sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=sharding)

    params = jax.tree.map(lambda x: shape(replicated(mesh), *x.shape), param_template(module))
    b, over = mesh.size, batch_sharding(mesh)
    inputs = (
        shape(over, b, 3, 8, 32, 56, 12),
        shape(over, b),
        shape(over, b, 3, 1, module.cross_attention_dim),
    )
    flops = {}
    for name, video_branches in (("one call", 2), ("three video passes", 3)):

        def predict(params, *inputs, k=video_branches):
            return module.apply({"params": params}, *inputs, num_video_branches=k)

        with jax.set_mesh(mesh):
            program = Program(jax.jit(predict).lower(params, *inputs).compile().as_text())
        flops[name] = program.flops()
        print(f"{name}: {flops[name]:.4g} FLOPs a chip, collectives: {program.collectives(b)}")
    return {**flops, "ratio": flops["one call"] / flops["three video passes"]}


def main() -> None:
    parser = make_parser(__doc__)
    names = [*CASES, "guided"]
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(names))
    parser.add_argument("--keep", type=Path, help="folder to keep results in")
    args = parser.parse_args()
    if unknown := set(args.cases) - set(names):
        parser.error(f"no case {', '.join(unknown)}; known: {', '.join(names)}")
    figures = {}
    for name in args.cases or names:
        kept = args.keep / f"{name.replace(' ', '_')}.json" if args.keep else None
        if kept and kept.exists():
            figures[name] = json.loads(kept.read_text())
            continue
        print(f"\n{name}", flush=True)
        figures[name] = compare_guided_call() if name == "guided" else compile_case(CASES[name])
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(figures[name]))
    print_figures(figures)


if __name__ == "__main__":
    main()
