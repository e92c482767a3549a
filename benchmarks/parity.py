"""Parity at full size: the five public models, ours against diffusers and transformers.

    python benchmarks/parity.py [--only unet autoencoder clip dpt prior] [--small]

No published weights are needed: each reference class is built from the published model's config
with random weights, none left at its initial 0 or 1, and saved by `save_pretrained`. Ours comes
from that folder as a user's would, by what `gen1 import` runs. Both then compute in float32 on the
same inputs; the error is the largest difference over the spread (standard deviation) of the
reference's output, and the exit code is 1 where one is above 1e-4. The numbers of tensors and
parameters are checked too. Layers over time are not in the public UNet; benchmarks/edit_step.py
compares those.

Every model runs in a process of its own, so that its memory is given back. The largest, the prior,
needs about 10 GB of memory, and 9 GB of disk in the temporary folder (TMPDIR names another one).
`--small` takes tiny models of the same kinds, to try the benchmark itself. The last line is one
JSON object, an error a name.
"""

import argparse
import gc
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TOLERANCE = 1e-4

# Of each model's process, where it is not set already: on CPU, and the report alone is printed.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "PYTHONWARNINGS": "ignore",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

# ---------------------------------------------------------------- the published configs

UNET = {  # Stable Diffusion 1.5
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
SMALL_UNET = UNET | {
    "block_out_channels": [16, 16, 32, 32],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 12,
    "norm_num_groups": 4,
}
AUTOENCODER = {  # Stable Diffusion 1.5
    "sample_size": 512,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}
SMALL_AUTOENCODER = AUTOENCODER | {
    "block_out_channels": [8, 8, 16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
CLIP = {  # ViT-L/14
    "projection_dim": 768,
    "text_config": {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
    },
}
SMALL_CLIP = {
    "projection_dim": 24,
    "text_config": {
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 12,
        "bos_token_id": 98,
        "eos_token_id": 99,
    },
    "vision_config": {
        "hidden_size": 40,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "image_size": 32,
        "patch_size": 8,
    },
}
DPT = {  # DPT-Large
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "image_size": 384,
    "patch_size": 16,
    "backbone_out_indices": [5, 11, 17, 23],
    "neck_hidden_sizes": [256, 512, 1024, 1024],
    "fusion_hidden_size": 256,
    "readout_type": "project",
}
SMALL_DPT = DPT | {
    "hidden_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 8,
    "backbone_out_indices": [0, 2, 3, 4],
    "neck_hidden_sizes": [12, 24, 48, 40],
    "fusion_hidden_size": 16,
}
PRIOR = {  # Karlo
    "num_attention_heads": 32,
    "attention_head_dim": 64,
    "num_layers": 20,
    "embedding_dim": 768,
    "num_embeddings": 77,
    "additional_embeddings": 4,
}
SMALL_PRIOR = PRIOR | {
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "num_layers": 2,
    "embedding_dim": 24,
    "num_embeddings": 12,
}

# ---------------------------------------------------------------- what is compared


class Case(NamedTuple):
    """One comparison; all arrays are in our layout, channels last."""

    inputs: tuple[np.ndarray, ...]
    theirs: Callable[..., tuple]  # (PyTorch model, *inputs as tensors) -> outputs
    ours: Callable[..., tuple]  # (our module's `apply`, *inputs) -> the same outputs


def channels_first(x):
    return x.permute(0, 3, 1, 2)


def channels_last(x):
    return x.permute(0, 2, 3, 1)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def pixels(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.uniform(-1, 1, shape).astype(np.float32)


def unet_cases(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Case]:
    def theirs(model, sample, timesteps, context):
        return (channels_last(model(channels_first(sample), timesteps, context).sample),)

    def ours(apply, sample, timesteps, context):
        return (apply(sample[:, None], timesteps, context)[:, 0],)

    def case(batch: int, height: int, width: int, tokens: int) -> Case:
        sample = normal(rng, batch, height, width, config["in_channels"])
        timesteps = rng.integers(0, 1000, batch).astype(np.int32)
        context = normal(rng, batch, tokens, config["cross_attention_dim"])
        return Case((sample, timesteps, context), theirs, ours)

    # A text's 77 tokens as in Stable Diffusion, and a CLIP embedding's one as in Gen-1.
    return {"unet_32x32": case(2, 32, 32, tokens=77), "unet_56x32": case(1, 56, 32, tokens=1)}


def autoencoder_cases(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Case]:
    def encode(model, images):
        latents = model.encode(channels_first(images)).latent_dist
        return channels_last(latents.mean), channels_last(latents.logvar)

    def decode(model, latents):
        return (channels_last(model.decode(channels_first(latents)).sample),)

    images, latents = pixels(rng, 1, 128, 128, 3), normal(rng, 1, 16, 16, config["latent_channels"])
    return {
        "autoencoder_encode": Case((images,), encode, lambda apply, x: apply(x, method="encode")),
        "autoencoder_decode": Case(
            (latents,), decode, lambda apply, x: (apply(x, method="decode"),)
        ),
    }


def clip_cases(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Case]:
    def image(model, images):
        return (model.get_image_features(channels_first(images)).pooler_output,)

    def text(model, tokens):
        output = model.get_text_features(tokens)
        return output.last_hidden_state, output.pooler_output

    side, text_config = config["vision_config"]["image_size"], config["text_config"]
    end, length = text_config["eos_token_id"], text_config["max_position_embeddings"]
    tokens = rng.integers(0, text_config["bos_token_id"], (2, length))
    tokens[:, 0] = text_config["bos_token_id"]
    for row, text_end in enumerate((length // 4, length - 1)):
        tokens[row, text_end:] = end
    return {
        "clip_image": Case(
            (normal(rng, 2, side, side, 3),),
            image,
            lambda apply, x: (apply(x, method="encode_image"),),
        ),
        "clip_text": Case(
            (tokens.astype(np.int32),),
            text,
            lambda apply, x: apply(x, method="text_hidden_states"),
        ),
    }


def dpt_cases(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Case]:
    def theirs(model, images):
        return (model(channels_first(images)).predicted_depth,)

    def ours(apply, images):
        return (apply(images, method="predicted_depth"),)

    return {"dpt": Case((pixels(rng, 1, *[config["image_size"]] * 2, 3),), theirs, ours)}


def prior_cases(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Case]:
    def theirs(model, *inputs):
        standardised = model(*inputs).predicted_image_embedding
        return standardised, model.post_process_latents(standardised)

    def ours(apply, *inputs):
        standardised = apply(*inputs)
        return standardised, apply(standardised, method="post_process_latents")

    width, length = config["embedding_dim"], config["num_embeddings"]
    inputs = (
        normal(rng, 2, width),
        rng.integers(0, 1000, 2).astype(np.int32),
        normal(rng, 2, width),
        normal(rng, 2, length, width),
        np.arange(length) < np.array([[length], [length // 4]]),  # a long text and a short one
    )
    return {"prior": Case(inputs, theirs, ours)}


class Model(NamedTuple):
    """A public model, and what is known of its full size."""

    part: str  # as `gen1 import` calls it
    reference: str  # library and class
    config: Mapping[str, Any]
    small: Mapping[str, Any]
    cases: Callable[[Mapping[str, Any], np.random.Generator], dict[str, Case]]
    tensors: int
    parameters: int


MODELS = {
    "unet": Model(
        part="unet",
        reference="diffusers.UNet2DConditionModel",
        config=UNET,
        small=SMALL_UNET,
        cases=unet_cases,
        tensors=686,
        parameters=859_520_964,
    ),
    "autoencoder": Model(
        part="vae",
        reference="diffusers.AutoencoderKL",
        config=AUTOENCODER,
        small=SMALL_AUTOENCODER,
        cases=autoencoder_cases,
        tensors=248,
        parameters=83_653_863,
    ),
    "clip": Model(
        part="clip",
        reference="transformers.CLIPModel",
        config=CLIP,
        small=SMALL_CLIP,
        cases=clip_cases,
        tensors=590,
        parameters=427_616_513,
    ),
    "dpt": Model(
        part="depth",
        reference="transformers.DPTForDepthEstimation",
        config=DPT,
        small=SMALL_DPT,
        cases=dpt_cases,
        tensors=462,
        parameters=343_030_465,
    ),
    "prior": Model(
        part="prior",
        reference="diffusers.PriorTransformer",
        config=PRIOR,
        small=SMALL_PRIOR,
        cases=prior_cases,
        tensors=338,
        parameters=1_022_030_080,
    ),
}

# ---------------------------------------------------------------- one model, in its own process


def build(model: Model, config: Mapping[str, Any]):
    """The reference with random weights; none stays at an initial 0 or 1, which could hide it."""
    import torch

    torch.manual_seed(0)
    library, class_name = model.reference.split(".")
    cls = getattr(importlib.import_module(library), class_name)
    if library == "diffusers":
        reference = cls.from_config(config)
    else:
        reference = cls(cls.config_class(**config))
    for parameter in reference.parameters():
        if parameter.ndim < 2 or len(parameter) == 1:  # norms, biases, learned tokens and positions
            parameter.add_(0.2 * torch.randn_like(parameter))
        else:
            fan_in = parameter[0].numel()
            parameter.normal_(0, fan_in**-0.5)
    if class_name == "DPTForDepthEstimation":
        # A last ReLU follows: were both signs among these, much of the output could be 0.
        last = reference.head.head[4]
        last.weight.abs_()
        last.bias.abs_()
    return reference.eval()


def reference_outputs(
    model: Model, config: Mapping[str, Any], cases: Mapping[str, Case], folder: Path
) -> tuple[dict[str, list[np.ndarray]], tuple[int, int]]:
    """Saves the reference; returns its outputs, and its numbers of tensors and parameters."""
    import torch

    with torch.no_grad():
        reference = build(model, config)
        reference.save_pretrained(folder, max_shard_size="1GB")  # a shard is copied to be written
        outputs = {}
        for name, case in cases.items():
            inputs = (torch.from_numpy(x) for x in case.inputs)
            outputs[name] = [x.numpy().copy() for x in case.theirs(reference, *inputs)]
    sizes = [parameter.numel() for parameter in reference.parameters()]
    return outputs, (len(sizes), sum(sizes))


def our_outputs(folder: Path, cases: Mapping[str, Case]) -> dict[str, list[np.ndarray]]:
    """What our model in `folder` makes of the inputs."""
    import jax

    from gen1_jax.weights.folder import load_model

    # So it is on CPU; elsewhere factors would be rounded to bfloat16 or TF32.
    jax.config.update("jax_default_matmul_precision", "highest")
    module, params = load_model(folder)
    params = jax.device_put(params)
    outputs = {}
    for name, case in cases.items():

        @jax.jit
        def run(params, *inputs, case=case):
            return case.ours(partial(module.apply, {"params": params}), *inputs)

        outputs[name] = [np.asarray(x) for x in run(params, *case.inputs)]
    return outputs


def relative_error(name: str, got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference over the reference's spread; UserError where that would say nothing."""
    from gen1_jax.errors import UserError

    if got.shape != want.shape:
        raise UserError(f"{name}: ours has the shape {got.shape}, the reference {want.shape}")
    if not (np.isfinite(got).all() and np.isfinite(want).all()):
        raise UserError(f"{name}: an output is not finite")
    if np.count_nonzero(want) < want.size / 2 or want.std() == 0:
        raise UserError(f"{name}: the reference's output is mostly 0 or constant")
    return float(np.abs(got - want).max() / want.std())


def compare(name: str, small: bool, folder: Path) -> dict[str, Any]:
    """Everything about one model.

    Raises:
      UserError: the import failed, or the numbers of tensors or parameters are not as expected.
    """
    from gen1_jax.errors import UserError
    from gen1_jax.weights.importing import find_source, import_part

    start = time.perf_counter()
    model = MODELS[name]
    config = model.small if small else model.config
    cases = model.cases(config, np.random.default_rng(0))
    public = folder / "public"
    expected, counts = reference_outputs(model, config, cases, public)
    gc.collect()
    imported = import_part(model.part, find_source(str(public)), folder / "run")
    ours = (imported.tensors, imported.parameters)
    published = counts if small else (model.tensors, model.parameters)
    if not ours == counts == published:
        raise UserError(
            f"(tensors, parameters) are {ours} in ours, {counts} in {model.reference}; "
            f"published {published}"
        )
    got = our_outputs(imported.folder, cases)
    errors = {
        case: max(relative_error(case, *pair) for pair in zip(got[case], outputs, strict=True))
        for case, outputs in expected.items()
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "errors": errors,
        "tensors": ours[0],
        "parameters": ours[1],
        "seconds": time.perf_counter() - start,
        "peak_gb": peak * (1 if sys.platform == "darwin" else 1024) / 1e9,
    }


# ---------------------------------------------------------------- all models


def run_process(name: str, small: bool) -> dict[str, Any] | None:
    """`compare` in a process of its own; None if it failed, which it has said."""
    with tempfile.TemporaryDirectory(prefix="parity.") as folder:
        command = [sys.executable, __file__, "--child", name, "--folder", folder]
        done = subprocess.run(
            command + ["--small"] * small,
            capture_output=True,
            text=True,
            env=ENVIRONMENT | os.environ,
        )
    if done.returncode != 0:
        killed = f"ended by signal {-done.returncode} (9: not enough memory?)"
        message = killed if done.returncode < 0 else done.stderr.strip()
        print(f"{name}: {message}", file=sys.stderr, flush=True)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def run_child(name: str, small: bool, folder: Path) -> int:
    from gen1_jax.errors import UserError

    try:
        print(json.dumps(compare(name, small, folder)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--small", action="store_true", help="tiny models of the same kinds")
    parser.add_argument("--child", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if missing := [name for name in ("torch", "diffusers", "transformers") if not find_spec(name)]:
        print(f"no {missing[0]} to compare with: pip install -e '.[torch]'", file=sys.stderr)
        return 2
    if args.child:
        return run_child(args.child, args.small, args.folder)
    errors, failed = {}, False
    for name in args.only:
        result = run_process(name, args.small)
        if result is None:
            failed = True
            continue
        errors |= result["errors"]
        print(
            f"{name:12}{result['tensors']:5} tensors{result['parameters']:14,} parameters"
            f"{result['seconds']:7.0f} s{result['peak_gb']:6.1f} GB peak"
        )
        for case, error in result["errors"].items():
            verdict = "" if error <= TOLERANCE else f"  above {TOLERANCE:.0e}"
            print(f"  {case:20} error / spread {error:.1e}{verdict}", flush=True)
    print(json.dumps(errors))
    return int(failed or any(error > TOLERANCE for error in errors.values()))


if __name__ == "__main__":
    sys.exit(main())
