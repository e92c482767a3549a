"""Encode clips and images ahead of training: latents, structure at blur levels, CLIP embeddings.

    gen1 precompute --config demo:encoded --workdir runs/demo/encoded
    gen1 precompute --config paper:encoded --workdir runs/paper/encoded --processes 16

Training on the result needs no encoders. The output is written in shards, each of which is whole
or not there. To resume a job that was stopped, give the same command again. It ends with the same
bytes whatever the number of processes and devices. If the memory was too small, resume it with a
smaller batch_size.
"""

from gen1_jax import config as configs
from gen1_jax.commands.mesh import add_device_arguments, make_mesh_of
from gen1_jax.commands.overrides import add_set_argument
from gen1_jax.commands.processes import add_processes_argument, joined
from gen1_jax.errors import UserError
from gen1_jax.files import as_path

HELP = "encode clips ahead of training, or resume the encoding"


def add_arguments(parser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        help="a config by name or path, and its encoding part: tiny:encoded",
    )
    parser.add_argument(
        "--workdir",
        required=True,
        type=as_path,
        help="folder to write to; a path, gs://BUCKET/… or s3://BUCKET/…",
    )
    add_set_argument(parser, "batch_size=8")
    add_processes_argument(parser)
    add_device_arguments(
        parser, mesh="data=N: use so many devices of each process, which share the clips (all)"
    )
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def run(args) -> None:
    import jax

    from gen1_jax.programs import keep_programs
    from gen1_jax.workflow import run_part

    settings = [*args.set, *([f"dtype={args.dtype}"] if args.dtype else [])]
    config = configs.load_config(args.config, settings, default_part="encoded")
    if config.kind != "encode":
        raise UserError(
            f"--config {args.config}: this part encodes nothing; name one that does, "
            "e.g. tiny:encoded"
        )
    with joined(args):
        keep_programs(args.workdir)
        devices = jax.local_devices() if args.mesh else None
        mesh = make_mesh_of(args, axes=("data",), devices=devices)
        run_part(config, args.workdir, progress=not args.no_progress, mesh=mesh)
