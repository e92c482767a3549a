"""Train one part of a config: autoencoder, clip, depth, prior, or a stage of the UNet.

    gen1 train --config demo:video --workdir runs/demo/video

Training resumes from the newest checkpoint in the work folder. Ctrl-C ends it after saving a
checkpoint (exit code 130), and so does SIGTERM (exit code 75: start the same command again).
Output: checkpoints/, logs/ (TensorBoard), samples/ (pictures); at the end model/ (safetensors).
"""

from gen1_jax import config as configs
from gen1_jax.commands.overrides import add_set_argument
from gen1_jax.commands.processes import add_processes_argument, joined
from gen1_jax.errors import UserError
from gen1_jax.files import as_path

HELP = "train one part, or resume its training"


def add_arguments(parser) -> None:
    parser.add_argument("--config", required=True, help=configs.HELP)
    parser.add_argument(
        "--workdir",
        required=True,
        type=as_path,
        help="folder of this part; a path, gs://BUCKET/… or s3://BUCKET/…",
    )
    add_set_argument(parser, "num_steps=100")
    parser.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="N",
        help="write a profile of N steps to WORKDIR/profile",
    )
    add_processes_argument(parser)
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def run(args) -> None:
    from gen1_jax.programs import keep_programs
    from gen1_jax.runtime import keep_freed_memory
    from gen1_jax.workflow import run_part

    config = configs.load_config(args.config, args.set)
    if config.kind != "train":
        raise UserError(
            f"--config {args.config}: this part is not trained; name one that is, e.g. tiny:video"
        )
    keep_freed_memory()  # before the first computation
    if args.profile < 0:
        raise UserError(f"--profile {args.profile}; accepted: a number of steps, 1 or more")
    with joined(args):
        keep_programs(args.workdir)
        run_part(config, args.workdir, progress=not args.no_progress, profile=args.profile)
