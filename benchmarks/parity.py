"""Compares the five public models at full size with diffusers' and transformers' models.

    python benchmarks/parity.py [--only unet autoencoder clip dpt prior] [--small]

No published weights are needed. Each reference model is built from the published config with random
weights, none of which keeps an initial value of 0 or 1, and saved by `save_pretrained`. Ours is
imported from that folder in the way of `gen1 import`. Both then compute in float32 on the same
inputs. The error is the largest difference over the standard deviation of the reference's output;
the exit code is 1 if an error is above 1e-4. The numbers of tensors and parameters are checked too.
The public UNet has no temporal layers; benchmarks/edit_step.py compares those.

Every model runs in a process of its own, so that its memory is given back. The largest, the prior,
needs about 10 GB of memory, and 9 GB of disk in the temporary folder (TMPDIR names another one).
With `--small` the models are tiny, which tries the benchmark itself. The last line is one JSON
object: name → error.
"""

import argparse
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common import make_parser, peak_memory, print_figures

import numpy as np
from parity_models import MODELS, Case, Model

TOLERANCE = 1e-4

# Defaults of each model's environment: on CPU, and printing nothing but the report.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "PYTHONWARNINGS": "ignore",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

# ---- one model, in its own process


def build(model: Model, config: Mapping[str, Any]):
    """Returns the reference with random weights.

    No weight keeps an initial 0 or 1, with which a difference could stay hidden.
    """
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
        # A ReLU follows these weights. With weights of both signs much of its output could be 0.
        last = reference.head.head[4]
        last.weight.abs_()
        last.bias.abs_()
    return reference.eval()


def reference_outputs(
    model: Model, config: Mapping[str, Any], cases: Mapping[str, Case], folder: Path
) -> tuple[dict[str, list[np.ndarray]], tuple[int, int]]:
    """Saves the reference model and runs it.

    Returns:
      Its outputs by case, and its numbers of tensors and parameters.
    """
    import torch

    with torch.no_grad():
        reference = build(model, config)
        reference.save_pretrained(folder, max_shard_size="1GB")  # a shard is copied to memory
        outputs = {}
        for name, case in cases.items():
            inputs = (torch.from_numpy(x) for x in case.inputs)
            outputs[name] = [x.numpy().copy() for x in case.theirs(reference, *inputs)]
    sizes = [parameter.numel() for parameter in reference.parameters()]
    return outputs, (len(sizes), sum(sizes))


def our_outputs(folder: Path, cases: Mapping[str, Case]) -> dict[str, list[np.ndarray]]:
    """Returns the outputs of our model in `folder` by case."""
    import jax

    from gen1_jax.weights.folder import load_model

    # Accelerators would otherwise round the factors of a product to bfloat16 or TF32.
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
    """Returns the largest difference over the standard deviation of the reference's output.

    Raises:
      UserError: the shapes differ, a value is not finite, or the reference's output is mostly 0 or
        constant, so that the error would say nothing.
    """
    from gen1_jax.errors import UserError

    if got.shape != want.shape:
        raise UserError(f"{name}: ours has the shape {got.shape}, the reference {want.shape}")
    if not (np.isfinite(got).all() and np.isfinite(want).all()):
        raise UserError(f"{name}: an output is not finite")
    if np.count_nonzero(want) < want.size / 2 or want.std() == 0:
        raise UserError(f"{name}: the reference's output is mostly 0 or constant")
    return float(np.abs(got - want).max() / want.std())


def compare(name: str, small: bool, folder: Path) -> dict[str, Any]:
    """Builds, imports and compares one model; returns the figures.

    Raises:
      UserError: the import failed, or the numbers of tensors or parameters are not as expected.
    """
    from gen1_jax.errors import UserError
    from gen1_jax.weights.importing import import_part
    from gen1_jax.weights.public import find_source

    start = time.perf_counter()
    model = MODELS[name]
    config = model.config(small)
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
    return {
        "errors": errors,
        "tensors": ours[0],
        "parameters": ours[1],
        "seconds": time.perf_counter() - start,
        "peak_gb": peak_memory(),
    }


# ---- all models


def run_process(name: str, small: bool) -> dict[str, Any] | None:
    """Runs `compare` in a process of its own; returns None, and prints why, if it failed."""
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
    parser = make_parser(__doc__)
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
    print_figures(errors)
    return int(failed or any(error > TOLERANCE for error in errors.values()))


if __name__ == "__main__":
    sys.exit(main())
