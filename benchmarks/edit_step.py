"""Times one guided denoising step: ours (JAX, one jit) against the exported PyTorch pipeline.

    python benchmarks/edit_step.py [--size tiny sd15] [--repeats N] [--devices cpu gpu] [--small]

A step is `gen1_jax.diffusion.guidance.guided_prediction` for one clip of 8 frames: one call of the
UNet for the three branches (video with content, video without, image without), and their
combination. The other side is `guided_prediction` of the pipeline that `gen1 export` writes. "tiny"
is the UNet of configs/tiny.py at 16x16 latents. "sd15" has Stable Diffusion 1.5's widths at 32x56
latents (448x256 video): 1.2 billion parameters, about 17 GB of memory, and on few cores a minute or
more a step.

Both sides have the same random weights and inputs, and must predict the same before they are timed.
They run in one process in turns; at "tiny" PyTorch takes a turn with one thread and a turn with a
thread a core, and the faster counts. On CPU all is float32. Where jax and PyTorch both see a GPU,
bfloat16 is timed there too, against torch.compile. The ratio to quote is that of the fastest turns
on an otherwise idle machine; `load` says how many programs were running. The last line is one JSON
object: `tiny_ms` is the fastest turn, `tiny_median_ms` the median, and a `tiny_ratio` below 1 says
that ours is faster.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch uses the same GPU
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from common import count_cores, make_parser, peak_memory, print_figures, time_turns

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from gen1_jax.configs.tiny import get_config
from gen1_jax.diffusion.guidance import guided_prediction
from gen1_jax.models.unet import VideoUNet
from gen1_jax.weights.folder import param_template
from gen1_jax.weights.naming import to_torch, torch_key

try:
    import torch

    from gen1_jax.weights.pytorch.pipeline import Gen1Pipeline
    from gen1_jax.weights.pytorch.video_unet import VideoUNet as TorchUNet
except ImportError as error:
    sys.exit(f"no {error.name} to compare with: pip install -e '.[torch]'")

TEMPORAL_SCALE, GUIDANCE_SCALE, LEVEL, TIMESTEP = 1.2, 7.5, 2, 601
# Largest accepted difference over the standard deviation of PyTorch's prediction. Rounding causes
# about 1e-5 in float32 and, magnified by guidance, about 1e-1 in bfloat16. Unrelated predictions
# differ by 5.
TOLERANCES = {"cpu": 1e-3, "gpu": 1.0}


class Size(NamedTuple):
    """A network and the clip that it denoises."""

    module: VideoUNet
    frames: int
    height: int  # of the latents
    width: int
    repeats: int  # timed turns on CPU
    single_thread: bool  # whether PyTorch is also timed with one thread


def make_size(name: str) -> Size:
    if name == "tiny":
        module = VideoUNet.from_config(get_config("blur").model.to_dict())
        return Size(module, 8, 16, 16, repeats=20, single_thread=True)
    if name == "sd15":
        return Size(VideoUNet(in_channels=12), 8, 32, 56, repeats=2, single_thread=False)
    module = VideoUNet(
        in_channels=12,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return Size(module, 3, 8, 8, repeats=3, single_thread=True)


class Inputs(NamedTuple):
    """The inputs for one clip."""

    latents: np.ndarray  # [n h w 4]
    structure: np.ndarray  # [n h w 4]
    content: np.ndarray  # [d]


def make_inputs(size: Size) -> Inputs:
    rng = np.random.default_rng(1)
    place = (size.frames, size.height, size.width, size.module.out_channels)
    shapes = (place, place, (size.module.cross_attention_dim,))
    return Inputs(*(rng.standard_normal(shape, np.float32) for shape in shapes))


def make_weights(module: VideoUNet) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Returns the same random weights as Flax parameters (on CPU) and as a PyTorch state dict.

    No weight is 0, as those of new temporal layers are. The weights are made tensor by tensor, so
    that a third copy of the network is never in memory.
    """
    rng = np.random.default_rng(0)
    cpu = jax.devices("cpu")[0]
    params, state_dict = {}, {}
    for path, leaf in traverse_util.flatten_dict(param_template(module)).items():
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 25
        array = rng.standard_normal(leaf.shape, np.float32)
        array *= np.float32(fan_in**-0.5)
        if path[-1] == "scale":
            array += 1
        params[path] = jax.device_put(array, cpu)
        state_dict[torch_key(path)] = torch.tensor(to_torch(path, array))
    return traverse_util.unflatten_dict(params), state_dict


class Ours:
    """Our `guided_prediction`, compiled."""

    def __init__(self, module: VideoUNet, params: dict, inputs: Inputs, device: jax.Device):
        @jax.jit
        def predict(params, z, t, content, structure, level, *scales):
            network = partial(module.apply, {"params": params})
            return guided_prediction(network, z, t, content, structure, level, *scales)

        arguments = (
            params,
            inputs.latents[None],
            np.array([TIMESTEP], np.int32),
            inputs.content[None, None],
            inputs.structure[None],
            np.array([LEVEL], np.int32),
            np.array([TEMPORAL_SCALE], np.float32),
            np.array([GUIDANCE_SCALE], np.float32),
        )
        arguments = jax.device_put(arguments, device)
        start = time.perf_counter()
        compiled = predict.lower(*arguments).compile()
        self.compile_seconds = time.perf_counter() - start
        self.step = partial(compiled, *arguments)

    def __call__(self) -> np.ndarray:
        """Returns the prediction `[n h w 4]` on the host, so that all work is done."""
        return np.asarray(self.step())[0]


class Torch:
    """The exported pipeline's `guided_prediction`, which needs only the pipeline's UNet."""

    def __init__(self, unet: torch.nn.Module, inputs: Inputs, device: str):
        def put(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(device)

        def as_video(array: np.ndarray) -> torch.Tensor:  # [n h w 4] → [b=1 4 n h w]
            return put(array).permute(3, 0, 1, 2)[None]

        self.step = partial(
            Gen1Pipeline.guided_prediction,
            SimpleNamespace(unet=unet),
            as_video(inputs.latents),
            torch.tensor(TIMESTEP, device=device),
            put(inputs.content[None]),
            as_video(inputs.structure),
            LEVEL,
            TEMPORAL_SCALE,
            GUIDANCE_SCALE,
        )

    def __call__(self, threads: int | None = None) -> np.ndarray:
        """Returns the prediction `[n h w 4]` on the host."""
        if threads is not None:
            torch.set_num_threads(threads)
        return self.step()[0].permute(1, 2, 3, 0).cpu().numpy()


def make_torch_unet(module: VideoUNet, state_dict: dict[str, torch.Tensor]) -> TorchUNet:
    """Returns a UNet that holds the given tensors, without memory of its own."""
    with torch.device("meta"):
        unet = TorchUNet.from_config(module.to_config())
    unet.load_state_dict(state_dict, assign=True)
    return unet.eval()


def check(steps: dict[str, Callable[[], np.ndarray]], tolerance: float) -> float:
    """Runs each step once, which also warms up, and compares the predictions.

    Returns:
      The largest difference over the standard deviation of PyTorch's prediction.

    Raises:
      SystemExit: the two sides do not predict the same.
    """
    predictions = {side: step() for side, step in steps.items()}
    ours = predictions.pop("ours")
    error = max(float(np.abs(ours - want).max() / want.std()) for want in predictions.values())
    print(f"  largest error / spread: {error:.1e}", flush=True)
    if not error <= tolerance:  # also true of NaN
        sys.exit(f"ours and PyTorch's prediction differ by {error:.1e}; accepted: {tolerance:.0e}")
    return error


def compare(
    ours: Ours, torch_steps: dict[str, Callable[[], np.ndarray]], repeats: int, tolerance: float
) -> dict[str, Any]:
    """Checks that both sides predict the same, times them, prints and returns the figures."""
    steps = {"ours": ours, **torch_steps}
    error = check(steps, tolerance)
    load = [os.getloadavg()[0]]
    times = time_turns(steps, repeats)
    load.append(os.getloadavg()[0])
    best, median = (
        {side: summary(elapsed for elapsed, _ in turns) for side, turns in times.items()}
        for summary in (min, statistics.median)
    )
    print(f"  {'':18}{'best ms':>12}{'median ms':>12}")
    for side in steps:
        print(f"  {side:18}{best[side]:12.1f}{median[side]:12.1f}")
    figures = {"error": error}
    for name, of in (("", best), ("median_", median)):
        fastest = min(of[side] for side in torch_steps)
        figures[f"{name}ms"] = round(of["ours"], 2)
        figures[f"{name}torch_ms"] = round(fastest, 2)
        figures[f"{name}ratio"] = round(of["ours"] / fastest, 3)
    print(f"  {'ours / PyTorch':18}{figures['ratio']:12.2f}{figures['median_ratio']:12.2f}")
    print(
        f"  ours compiled in {ours.compile_seconds:.0f} s; "
        f"load average {load[0]:.1f} before, {load[1]:.1f} after",
        flush=True,
    )
    return figures | {
        "compile_s": round(ours.compile_seconds, 1),
        "load": [round(x, 1) for x in load],
    }


def compare_on_cpu(
    size: Size, params: dict, unet: TorchUNet, inputs: Inputs, repeats: int
) -> dict[str, Any]:
    """Compares in float32; PyTorch uses all cores, and also one core where that may be faster."""
    cores = count_cores()
    ours = Ours(size.module, params, inputs, jax.devices("cpu")[0])
    theirs = Torch(unet, inputs, "cpu")
    counts = sorted({1, cores} if size.single_thread else {cores})
    steps = {f"torch, threads: {count}": partial(theirs, count) for count in counts}
    return compare(ours, steps, repeats, TOLERANCES["cpu"])


def compare_on_gpu(
    size: Size, params: dict, unet: TorchUNet, inputs: Inputs, repeats: int, gpu: jax.Device
) -> dict[str, Any]:
    """Compares in bfloat16, weights included; moves PyTorch's network to the GPU, compiled."""
    module = size.module.clone(dtype=jnp.bfloat16)
    params = jax.tree.map(lambda x: jax.device_put(np.asarray(x).astype(jnp.bfloat16), gpu), params)
    ours = Ours(module, params, inputs, gpu)
    compiled = torch.compile(unet.to("cuda", torch.bfloat16))
    steps = {"torch.compile": Torch(compiled, inputs, "cuda")}
    return compare(ours, steps, repeats, TOLERANCES["gpu"])


def find_gpu() -> jax.Device | None:
    """Returns the GPU if jax and PyTorch both see one, else None."""
    try:
        return jax.devices("gpu")[0] if torch.cuda.is_available() else None
    except RuntimeError:  # jax has no such platform
        return None


def compare_size(
    name: str, repeats: int | None, gpu: jax.Device | None, on_cpu: bool
) -> dict[str, Any]:
    """Compares one size on every device; the name of each figure begins with the size's."""
    size = make_size(name)
    params, state_dict = make_weights(size.module)
    count = sum(tensor.numel() for tensor in state_dict.values())
    place = f"{size.frames} frames of {size.height}x{size.width} latents"
    unet, inputs = make_torch_unet(size.module, state_dict), make_inputs(size)
    del state_dict  # from here on only the network holds its tensors
    results = {}
    shared = (size, params, unet, inputs)
    if on_cpu:
        print(f"{name}: {count:,} parameters, {place}, float32 on CPU", flush=True)
        figures = compare_on_cpu(*shared, repeats or size.repeats)
        results |= {f"{name}_{key}": value for key, value in figures.items()}
    if gpu is not None:
        print(f"{name}: {count:,} parameters, {place}, bfloat16 on {gpu.device_kind}", flush=True)
        figures = compare_on_gpu(*shared, repeats or 20, gpu)
        results |= {f"{name}_gpu_{key}": value for key, value in figures.items()}
    results[f"{name}_peak_gb"] = round(peak_memory(), 1)
    print(f"  at most {results[f'{name}_peak_gb']} GB of memory until here\n", flush=True)
    return results


def main() -> None:
    parser = make_parser(__doc__)
    sizes = ("tiny", "sd15")
    parser.add_argument("--size", nargs="+", choices=sizes, default=sizes)
    parser.add_argument("--repeats", type=int, help="number of timed turns")
    parser.add_argument("--devices", nargs="+", choices=("cpu", "gpu"), default=("cpu", "gpu"))
    parser.add_argument("--small", action="store_true", help="a still smaller network instead")
    args = parser.parse_args()
    if args.repeats is not None and args.repeats < 1:
        parser.error(f"--repeats {args.repeats}; accepted: 1 or more")
    gpu = find_gpu() if "gpu" in args.devices else None
    if gpu is None and "cpu" not in args.devices:
        sys.exit("jax and PyTorch do not both see a GPU; accepted here: --devices cpu")
    results = {}
    for name in ("small",) if args.small else args.size:
        results |= compare_size(name, args.repeats, gpu, "cpu" in args.devices)
    print_figures(results)


if __name__ == "__main__":
    main()
