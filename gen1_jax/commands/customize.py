"""Teach a finished model one subject, by 15 to 30 pictures of it.

    gen1 customize --images my_dog --model runs/mine/pipeline -o runs/mine/dog
    gen1 edit clip.mp4 --model runs/mine/dog --image my_dog/1.jpg --structure-level 4

Half of each batch is of the subject, and half of the data that the model was trained on, so that it
forgets nothing else. With --rank a LoRA is trained in place of the whole UNet; it lies in NEW/lora,
for `gen1 edit --lora` and for diffusers. Early samples are in NEW.training/customize/samples. The
same command goes on where it was stopped.
"""

from pathlib import Path

from gen1_jax import config as configs
from gen1_jax.commands.overrides import add_set_argument
from gen1_jax.commands.processes import refuse_one_of_many
from gen1_jax.errors import UserError

HELP = "teach a finished model one subject, by 15 to 30 pictures of it"


def add_arguments(parser) -> None:
    parser.add_argument(
        "--images",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="the subject's pictures, 15 to 30; 5 at least. None is left out",
    )
    parser.add_argument("--model", required=True, type=Path, help="pipeline folder to start from")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="NEW", help="the new pipeline folder"
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="what the model was trained on: a folder of `gen1 precompute`, `gen1 ingest` or `gen1 "
        "world`; none: nothing (the folder `encoded` beside the model, if it is there)",
    )
    parser.add_argument(
        "--rank", type=int, metavar="R", help="train a LoRA of this rank, such as 16 (all weights)"
    )
    parser.add_argument("--steps", type=int, help="steps of training (the config's)")
    parser.add_argument(
        "--config",
        default="own",
        help="config whose parts customize and customize_lora say all else (%(default)s)",
    )
    add_set_argument(parser, "optimizer.learning_rate=1e-5")
    parser.add_argument("--no-progress", action="store_true", help="show no bars")


def run(args) -> None:
    from gen1_jax.customizing import customize
    from gen1_jax.programs import keep_programs
    from gen1_jax.runtime import keep_freed_memory

    overrides, part = list(args.set), "customize"
    for name, value in (("steps", args.steps), ("rank", args.rank)):
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}; 1 or more is accepted")
    if args.rank is not None:
        part = "customize_lora"
        overrides.append(f"lora.rank={args.rank}")
    if args.steps is not None:
        overrides.append(f"num_steps={args.steps}")
    config = configs.load_config(args.config, overrides, default_part=part)
    keep_freed_memory()  # before the first computation
    refuse_one_of_many(takes_processes=False)
    keep_programs()
    customize(
        config, args.images, args.model, args.output, args.data, progress=not args.no_progress
    )
    print(
        f"{args.output}: gen1 edit clip.mp4 --model {args.output} --image PICTURE "
        "--structure-level 4"
    )
