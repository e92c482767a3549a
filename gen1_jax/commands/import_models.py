"""Take public checkpoints into a run folder, where training and the encoders start from them.

    gen1 import --unet stable-diffusion-v1-5/stable-diffusion-v1-5/unet \\
      --vae stable-diffusion-v1-5/stable-diffusion-v1-5/vae \\
      --clip openai/clip-vit-large-patch14 --depth Intel/dpt-large \\
      --prior kakaobrain/karlo-v1-alpha/prior -o runs/paper

    gen1 import --pipeline exported -o runs/mine/pipeline

A model is a folder with config.json and safetensors, or a hub id ORG/NAME[/SUBFOLDER][@REVISION].
The first form writes RUN/{unet,autoencoder,clip,depth,prior}/model and RUN/tokenizer. The second
undoes `gen1 export`. Pickled weights are refused.
"""

from pathlib import Path

from gen1_jax.errors import UserError

HELP = "take public checkpoints into a run folder"


def add_arguments(parser) -> None:
    parser.add_argument(
        "--unet", help="a UNet2DConditionModel (Stable Diffusion 1.x, 2.x), or a UNet of ours"
    )
    parser.add_argument("--vae", help="an AutoencoderKL")
    parser.add_argument("--clip", help="a CLIPModel, with or without its tokenizer")
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
    parser.add_argument("--tokenizer", help="folder of the tokenizer, if --clip has none")
    parser.add_argument("--depth", help="a DPTForDepthEstimation")
    parser.add_argument("--prior", help="a PriorTransformer (Karlo, Kandinsky 2.1)")
    parser.add_argument("--pipeline", type=Path, help="a folder that `gen1 export` wrote")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="folder of the run; with --pipeline, folder of the pipeline",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace models that are there")


def run(args) -> None:
    from gen1_jax.commands.output import check_new
    from gen1_jax.commands.progress import byte_bar
    from gen1_jax.pipeline import MODELS
    from gen1_jax.weights import importing

    given = {part: getattr(args, part) for part in MODELS if getattr(args, part)}
    towers = (args.text_encoder, args.image_encoder)
    if any(towers) and (not all(towers) or args.clip):
        raise UserError("give --text-encoder and --image-encoder together, and no --clip beside")
    if args.pipeline:
        if given or any(towers) or args.tokenizer:
            raise UserError("--pipeline is a whole pipeline: give no other model beside it")
        check_new(args.output, args.overwrite)
        with byte_bar("import", args.pipeline) as bar:
            counts = importing.import_pipeline(args.pipeline, args.output, bar)
        print(f"{sum(counts.values()):,} parameters in {', '.join(counts)}: {args.output}")
        return
    if not given and not any(towers) and not args.tokenizer:
        raise UserError("nothing to import; give --unet, --vae, --clip, --depth, --prior …")

    parts = list(given) + (["clip"] if any(towers) else [])
    for part in parts:
        check_new(args.output / MODELS[part].run_folder, args.overwrite)
    # Find or download everything before anything is written.
    sources = {part: [importing.find_source(text)] for part, text in given.items()}
    if any(towers):
        sources["clip"] = [importing.find_source(tower) for tower in towers]
    tokenizer = find_tokenizer(args, sources)
    if tokenizer:
        check_new(args.output / "tokenizer", args.overwrite)

    for part in parts:
        with byte_bar(f"import {part}", *(source.folder for source in sources[part])) as bar:
            if part in given:
                imported = importing.import_part(part, *sources[part], args.output, bar)
            else:
                imported = importing.import_towers(*sources[part], args.output, bar)
        print(
            f"{part}: {imported.tensors} tensors, {imported.parameters:,} parameters: "
            f"{imported.folder}"
        )
        if imported.absent:
            print(
                f"{part}: {len(imported.absent)} unused tensors are not in the checkpoint and "
                f"are zero now: {', '.join(imported.absent)}"
            )
        if imported.prediction_type == "epsilon":
            print(
                "unet: it predicts noise; train on with loss.prediction_type=epsilon, or let the "
                "first stage turn it into a v-prediction"
            )
    if tokenizer:
        importing.import_tokenizer(tokenizer, args.output)
        print(f"tokenizer: {args.output / 'tokenizer'}")


def find_tokenizer(args, sources) -> Path | None:
    """Returns the folder of --tokenizer or, without it, of the tokenizer beside --clip, if any."""
    from gen1_jax.weights import importing

    if args.tokenizer:
        folder = importing.find_source(args.tokenizer).folder
        if not importing.tokenizer_files(folder):
            raise UserError(
                f"no tokenizer in {folder}; accepted: tokenizer.json, or vocab.json and merges.txt"
            )
        return folder
    folder = sources["clip"][0].folder if args.clip else None
    return folder if folder and importing.tokenizer_files(folder) else None
