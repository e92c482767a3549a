"""Take public checkpoints into a run folder, where training and the encoders start from them.

    gen1 import --unet stable-diffusion-v1-5/stable-diffusion-v1-5/unet \\
      --vae stable-diffusion-v1-5/stable-diffusion-v1-5/vae \\
      --clip openai/clip-vit-large-patch14 --depth Intel/dpt-large \\
      --prior kakaobrain/karlo-v1-alpha/prior -o runs/paper

    gen1 import --pipeline exported -o runs/mine/pipeline

A model is a folder with config.json and safetensors, or a hub id ORG/NAME[/SUBFOLDER][@REVISION].
Where there are several variants of the weights, --variant chooses one, such as fp16.
The first form writes RUN/{unet,autoencoder,clip,depth,prior}/model and RUN/tokenizer. The second
undoes `gen1 export`. Pickled weights are refused. Nothing is written unless all models fit.
"""

from pathlib import Path

from gen1_jax.errors import UserError

HELP = "take public checkpoints into a run folder"


def add_arguments(parser) -> None:
    parser.add_argument(
        "--unet",
        metavar="MODEL",
        help="a UNet2DConditionModel (Stable Diffusion 1.x, 2.x), or a UNet of ours",
    )
    parser.add_argument("--vae", metavar="MODEL", help="an AutoencoderKL")
    parser.add_argument(
        "--clip", metavar="MODEL", help="a CLIPModel; a tokenizer beside it is taken too"
    )
    parser.add_argument(
        "--text-encoder",
        metavar="MODEL",
        help="a CLIPTextModelWithProjection, with --image-encoder in place of --clip",
    )
    parser.add_argument(
        "--image-encoder",
        metavar="MODEL",
        help="the CLIPVisionModelWithProjection that belongs to --text-encoder",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="MODEL",
        help="the tokenizer of --clip or --text-encoder, where it is in another folder",
    )
    parser.add_argument("--depth", metavar="MODEL", help="a DPTForDepthEstimation")
    parser.add_argument(
        "--prior", metavar="MODEL", help="a PriorTransformer (Karlo, Kandinsky 2.1)"
    )
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="the weights to take where there are several: fp16, non_ema …; models without it: the "
        "plain ones",
    )
    parser.add_argument(
        "--pipeline",
        type=Path,
        metavar="DIR",
        help="a folder that `gen1 export` wrote, in place of all other models",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="RUN",
        help="folder of the run; with --pipeline, folder of the pipeline",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace models that are there")
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def run(args) -> None:
    from gen1_jax.weights.public import FLAGS, TOWERS

    given = [flag for flag in FLAGS if getattr(args, flag)]
    towers = [flag for flag in TOWERS if flag in given]
    if towers and (len(towers) == 1 or args.clip):
        raise UserError(
            "--text-encoder and --image-encoder are the two halves of one CLIP: give both, and no "
            "--clip"
        )
    if args.pipeline and args.variant:
        raise UserError("--variant is for public checkpoints; leave it out with --pipeline")
    if args.pipeline and given:
        raise UserError(f"--pipeline is a whole pipeline; leave out --{given[0].replace('_', '-')}")
    if args.pipeline:
        import_pipeline(args)
    elif given:
        import_parts(args, given)
    else:
        raise UserError("nothing to import; give --unet, --vae, --clip, --depth, --prior …")


def import_pipeline(args) -> None:
    """Turns an exported pipeline back into one of ours."""
    from gen1_jax.commands.output import check_new
    from gen1_jax.commands.progress import byte_bar, weight_bytes
    from gen1_jax.files import check_replaceable
    from gen1_jax.pipeline import SETTINGS_FILE
    from gen1_jax.weights import importing

    check_new(args.output, args.overwrite)
    check_replaceable(args.output, SETTINGS_FILE)
    with byte_bar("import", weight_bytes(args.pipeline), not args.no_progress) as bar:
        counts = importing.import_pipeline(args.pipeline, args.output, bar)
    print(f"{sum(counts.values()):,} parameters in {', '.join(counts)}: {args.output}")


def import_parts(args, given: list[str]) -> None:
    """Takes the models of some flags into a run.

    Everything is found, downloaded and checked before the first part is written.
    """
    from gen1_jax.commands.output import check_new
    from gen1_jax.commands.progress import byte_bar
    from gen1_jax.models.clip import with_end_token
    from gen1_jax.pipeline import MODELS
    from gen1_jax.weights import importing
    from gen1_jax.weights.prior_scale import read_clamp
    from gen1_jax.weights.public import TOWERS, find_source, tokenizer_files

    parts = [part for part in MODELS if part in given]
    parts += ["clip"] if TOWERS[0] in given else []
    for part in parts:
        check_new(args.output / MODELS[part].run_folder, args.overwrite)
        importing.check_part_folder(part, args.output)
    sources = {flag: find_source(getattr(args, flag), flag, args.variant) for flag in given}
    if args.variant and not any(source.variant == args.variant for source in sources.values()):
        raise UserError(f"none of the models has a variant {args.variant}; accepted without "
                        "--variant: their plain weights")  # fmt: skip
    beside = sources.get("clip") or sources.get(TOWERS[0])
    tokenizer = sources["tokenizer"].folder if "tokenizer" in given else None
    if tokenizer is None and beside and tokenizer_files(beside.folder):
        tokenizer = beside.folder
    if tokenizer:
        check_new(args.output / "tokenizer", args.overwrite)
        words = importing.check_tokenizer(tokenizer, args.output)
    opened = [
        importing.open_part(part, sources[part])
        if part in given
        else importing.open_towers(*(sources[tower] for tower in TOWERS))
        for part in parts
    ]
    for i, clip in enumerate(opened):
        if clip.part != "clip" or not tokenizer:
            continue
        opened[i] = clip._replace(config=with_end_token(clip.config, words.end_id))
        room = clip.config["text_config"]["vocab_size"]
        if words.vocab_size > room:
            raise UserError(
                f"the tokenizer in {tokenizer} has {words.vocab_size} tokens, and {beside.origin} "
                f"knows {room}; accepted: the tokenizer that was published with it"
            )

    for each in opened:
        with byte_bar(f"import {each.part}", each.nbytes, not args.no_progress) as bar:
            imported = importing.write_part(each, args.output, bar)
        report(each.part, imported, args.variant)
        if each.part == "prior" and read_clamp(each.sources[0].folder) is None:
            print(
                "prior: no UnCLIPScheduler lies beside it; its sampler clamps to 5, as Karlo's "
                "does, unless the pipeline's settings.prior.clamp says more (Kandinsky 2.1: 10)"
            )
    if tokenizer:
        importing.import_tokenizer(tokenizer, args.output)
        print(f"tokenizer: {args.output / 'tokenizer'}")
    elif beside and not (args.output / "tokenizer").exists():
        print(
            f"tokenizer: none in {beside.origin}, and training and editing need CLIP's own; for "
            "OpenAI's CLIP and Stable Diffusion's: gen1 import --tokenizer "
            f"openai/clip-vit-large-patch14 -o {args.output}"
        )


def report(part: str, imported, variant: str | None) -> None:
    """Prints what a part has become.

    Args:
      part: its name.
      imported: what `write_part` returned.
      variant: the variant of the weights that was asked for.
    """
    print(
        f"{part}: {imported.tensors} tensors, {imported.parameters:,} parameters: {imported.folder}"
    )
    for taken in imported.variants:
        if taken != variant and taken:
            print(f"{part}: the weights are the variant {taken}, since there are no others")
        elif taken != variant:
            print(f"{part}: the weights are the plain ones, since there is no variant {variant}")
    if imported.absent:
        print(
            f"{part}: {len(imported.absent)} unused tensors are not in the checkpoint and are zero "
            f"now: {', '.join(imported.absent)}"
        )
    if imported.prediction_type == "epsilon":
        print(
            "unet: it predicts noise; train on with loss.prediction_type=epsilon, or let the first "
            "stage turn it into a v-prediction"
        )
