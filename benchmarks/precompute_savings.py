"""Counts the FLOPs that `gen1 precompute` saves a step at the paper's sizes, and its bytes.

    python benchmarks/precompute_savings.py [--compile v5p:2x2x1] [--footage DATA]

The training step of the last stage is counted twice: from raw frames, with the encoders in the step
(the KL-f8 autoencoder, DPT-Large and CLIP ViT-L/14), and from encoded data. One count takes the
products and convolutions of the program, forward and backward; the other is XLA's own, which has
all other arithmetic too. --compile adds the TPU compiler's figures of both programs
(`pip install -e '.[compile]'`; about ten minutes a program). --footage adds the mean bytes of a
clip as `gen1 ingest` stored it.

The last line is one JSON object; FLOPs are those of one clip, or one image, in a step.
"""

import math
import os

from common import make_parser, print_figures

from gen1_jax.aot.environment import prepare_environment
from gen1_jax.config import load_config

RAW = ("frames", "structure_level", "content_frame")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--compile", metavar="TOPOLOGY", help="e.g. v5p:2x2x1; see gen1 compile")
    parser.add_argument("--footage", metavar="DATA", help="a folder that gen1 ingest wrote")
    args = parser.parse_args()
    prepare_environment(args.compile or "")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    figures = {"video": count(False), "image": count(True)}
    if args.compile:
        figures["compiled"] = {form: compiled(form, args.compile) for form in ("raw", "encoded")}
    figures["bytes_a_clip"] = clip_bytes(args.footage)
    for kind in ("video", "image"):
        print(f"{kind}: {figures[kind]}")
    print_figures(figures)


def make_config(form: str):
    """Returns the config of the paper's last stage, with batches of one clip or image."""
    from gen1_jax.configs import paper

    config = paper.get_config("blur")
    config.data.batch_size = config.data.image_batch_size = 1
    if form == "raw":
        config.data.fields = RAW
        config.data.buckets = (paper.VIDEO_SIZE,)
        config.data.image_buckets = paper.IMAGE_SIZES
        config.frozen = paper.get_config("encoded").frozen
    return config


def count(images: bool) -> dict[str, float]:
    """Returns the FLOPs of loss and gradient in both forms, and the encoders' shares."""
    import jax
    import jax.numpy as jnp

    from gen1_jax.aot import programs
    from gen1_jax.distributed import make_mesh
    from gen1_jax.flops import count_flops
    from gen1_jax.resolve import describe_models
    from gen1_jax.structure_settings import read_recipe
    from gen1_jax.training.objectives import make_objective
    from gen1_jax.training.state import make_module
    from gen1_jax.weights.folder import param_template

    found = {}
    mesh = make_mesh(devices=jax.devices()[:1])
    for form in ("raw", "encoded"):
        config = make_config(form)
        module = make_module(config.model.to_dict(), name=config.name, dtype=config.dtype)
        models = describe_models(config.frozen, lambda part: load_config(f"paper:{part}"))
        conditioner, encoder_params = programs.describe_encoders(
            models, jnp.bfloat16, mesh, read_recipe(config.to_dict(), config.name)
        )
        loss = make_objective("diffusion", module, conditioner, config.loss.to_dict()).loss
        step = jax.value_and_grad(loss, has_aux=True)
        params = param_template(module)
        batch = programs.batch_shapes(config, images)
        arguments = (params, encoder_params, batch, jax.random.key(0))
        found[form] = count_flops(step, *arguments)
        found[f"{form}_xla"] = jax.jit(step).lower(*arguments).cost_analysis()["flops"]
        if form == "raw":
            for name, part in parts(conditioner).items():
                found[name] = count_flops(part, encoder_params, batch)
    found["saved"] = found["raw"] - found["encoded"]
    found["saved_share"] = found["saved"] / found["raw"]
    found["saved_share_xla"] = 1 - found["encoded_xla"] / found["raw_xla"]
    return found


def parts(conditioner) -> dict:
    """Returns the encoders' shares of the raw step as functions of (encoder_params, batch)."""

    def structure(encoder_params, batch):
        depth = conditioner.estimate_depth(encoder_params, batch.frames)
        return conditioner.encode_structure(encoder_params, depth, batch.structure_level)

    return {
        "autoencoder": lambda encoder_params, batch: conditioner.encode_frames(
            encoder_params, batch.frames
        ),
        "depth_and_its_autoencoder": structure,
        "clip": lambda encoder_params, batch: conditioner.image_content(
            encoder_params, batch.frames[:, 0]
        ),
    }


def compiled(form: str, topology: str) -> dict[str, float]:
    """Compiles the whole training step with one clip a chip; returns the compiler's figures."""
    from gen1_jax.aot.target import make_target, measure
    from gen1_jax.aot.training import train_work
    from gen1_jax.resolve import describe_models

    target = make_target(topology, {"data": -1, "fsdp": 1})
    config = make_config(form)
    config.data.batch_size = target.mesh.size
    models = describe_models(config.frozen, lambda part: load_config(f"paper:{part}"))
    report = measure(train_work(config, models, target, images=False), target)
    names = ("flops", "compiler_flops", "bytes", "hbm_used_bytes", "compile_seconds")
    return {name: getattr(report, name) for name in names}


def clip_bytes(footage: str | None) -> dict[str, float]:
    """Returns the bytes of one clip of the paper's size in every form."""
    from gen1_jax.configs import paper
    from gen1_jax.data_pipelines.encoded.records import make_layout

    n, (height, width) = paper.NUM_FRAMES, paper.VIDEO_SIZE
    latents = (n, height // paper.FACTOR, width // paper.FACTOR, 4)
    width_of_content = paper.get_config("clip").model.projection_dim
    length = paper.get_config("tokenizer").context_length

    def layout(k: int, precision: str):
        shapes = {"latents": latents, "latents_logvar": latents, "structure": (k, *latents)}
        shapes |= {"levels": (k,), "content": (n, width_of_content), "tokens": (length,)}
        return make_layout(shapes, precision)

    found = {"raw_frames": math.prod((n, height, width, 3))}
    if footage:
        from gen1_jax.data_pipelines.footage.reader import open_footage

        clips = open_footage(footage).clips("train")
        sizes = [len(clips[i]["video"]) for i in range(0, len(clips), max(1, len(clips) // 1000))]
        found["ingested"] = sum(sizes) / len(sizes)
    for k in (1, 2, 8):
        found[f"encoded_float16_{k}_levels"] = layout(k, "float16").size
    found["encoded_float32_8_levels"] = layout(8, "float32").size
    eight = layout(8, "float16")
    # Beside the first entry, the latents' variance and one level.
    found["read_a_step_float16"] = eight.first.itemsize + 2 * eight.plane.itemsize
    return found


if __name__ == "__main__":
    main()
