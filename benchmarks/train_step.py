"""Times one training step of a small video UNet on CPU: ours (JAX, one jit) against eager PyTorch.

    python benchmarks/train_step.py [--networks tiny everywhere] [--rounds 5] [--parts]

A step is forward, backward, clipping, AdamW and the moving average, in float32, on 16 clips of 8
frames of 16x16 latents. Both sides run in one process on the same batch, in turns. PyTorch takes a
turn with one thread, with half the cores and with all cores, because the fastest number depends on
what else the machine does: with a thread a core, and one core taken by another program, PyTorch's
step takes ten times as long.

`best_ms` is the fastest turn, `ms` the median, `cpu_ms` the processor time of all threads. The
ratio to quote is that of the best turns on an otherwise idle machine, against PyTorch's best number
of threads; `load` says how many programs were running. `--parts` adds the time that each part of
the network takes in ours, from a profile on one core in a second process. To run all of it on one
core: `taskset -c 0 python ...`. The last line is one JSON object.
"""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "--profile" in sys.argv and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before JAX counts the cores

from common import count_cores, make_parser, print_figures, run_command, time_turns

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gen1_jax.batch import Batch
from gen1_jax.models.unet import VideoUNet
from gen1_jax.runtime import keep_freed_memory
from gen1_jax.training.state import make_optimizer, new_state
from gen1_jax.training.step import train_step
from gen1_jax.weights.folder import init_params
from gen1_jax.weights.naming import params_to_state_dict
from gen1_jax.weights.pytorch import video_unet as torch_unet

CLIPS, FRAMES, SIZE, TOKENS = 16, 8, 16, 1
LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM, EMA_DECAY = 1e-3, 0.01, 1.0, 0.999

COMMON = {
    "in_channels": 12,
    "block_out_channels": (32, 64, 96),
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
NETWORKS = {
    # Attention at every resolution, also over all 256 places of a frame.
    "everywhere": COMMON
    | {
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    },
    # The network that configs/tiny.py trains: no attention at the top resolution.
    "tiny": COMMON
    | {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
}


def make_arrays(config: dict) -> tuple[np.ndarray, ...]:
    """Returns a batch: sample, timesteps, context, and the v to predict."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    place = (CLIPS, FRAMES, SIZE, SIZE)
    return (
        normal(*place, config["in_channels"]),
        rng.integers(0, 1000, CLIPS).astype(np.int32),
        normal(CLIPS, TOKENS, config["cross_attention_dim"]),
        normal(*place, 4),
    )


class Ours:
    """`gen1_jax.training.step.train_step`, compiled."""

    def __init__(self, config: dict, arrays: tuple[np.ndarray, ...]):
        module = VideoUNet(**config)
        self.params = init_params(module, jax.random.key(0))
        optimizer = make_optimizer(
            num_steps=1000, learning_rate=LEARNING_RATE, warmup_steps=1, weight_decay=WEIGHT_DECAY
        )

        def loss(params, arrays, batch, key):  # the arrays take the place of encoder_params
            *inputs, v = arrays
            return jnp.square(module.apply({"params": params}, *inputs) - v).mean(), {}

        average = {"ema_decay": EMA_DECAY, "ema_share": 1.0}
        step = partial(train_step, loss=loss, optimizer=optimizer, **average)
        self.state = jax.jit(partial(new_state, optimizer))(self.params)
        self.arguments = Batch(), jax.device_put(arrays), LEARNING_RATE, jax.random.key(0)
        start = time.perf_counter()
        lowered = jax.jit(step, donate_argnums=0).lower(self.state, *self.arguments)
        self.step = lowered.compile()
        self.compile_seconds = time.perf_counter() - start
        self.temporary_mib = self.step.memory_analysis().temp_size_in_bytes / 2**20

    def __call__(self) -> float:
        self.state, metrics = self.step(self.state, *self.arguments)
        return float(metrics["loss"])

    def parts(self, steps: int = 5) -> dict[str, float]:
        """Returns milliseconds by part of the network, from each operation's fastest profile."""
        sources = hlo_sources(self.step.as_text())
        best: dict[str, float] = {}
        for _ in range(steps):
            times = defaultdict(float)
            for name, duration in profile(self):
                # A loop's body is counted, and would count twice with the loop.
                if name in sources and not name.startswith("while"):
                    times[name] += duration
            best = {name: min(time, best.get(name, time)) for name, time in times.items()}
        total = defaultdict(float)
        for name, duration in best.items():
            total[part_of(sources[name])] += duration
        return dict(sorted(total.items(), key=lambda item: -item[1]))


def profile(step: Callable[[], float]) -> list[tuple[str, float]]:
    """Returns the name and the milliseconds of every event of one step."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            step()
        (file,) = Path(folder).rglob("*.xplane.pb")
        planes = jax.profiler.ProfileData.from_file(str(file)).planes
        lines = [line for plane in planes for line in plane.lines]
        return [(event.name, event.duration_ns / 1e6) for line in lines for event in line.events]


def hlo_sources(text: str) -> dict[str, str]:
    """Returns HLO instruction → its source in the program, "" if unknown, from a compiled text."""
    sources = {}
    for line in text.splitlines():
        if name := re.match(r"\s*(?:ROOT )?%?([\w.-]+) = ", line):
            source = re.search(r'op_name="([^"]*)"', line)
            sources[name[1]] = source[1] if source else ""
    return sources


# An operation belongs to the part of the first pattern that its source contains.
PARTS = {
    r"norm\d?/": "norms and activations between",
    r"/temporal_conv": "temporal convolutions",
    r"/ff/": "feed-forward",
    r"/temporal_attentions": "temporal attention",
    r"/attentions": "spatial attention",
    r"/conv": "convolutions",
    r"VideoUNet": "rest of the network",
    r"": "optimizer and unnamed",
}


def part_of(source: str) -> str:
    return next(part for pattern, part in PARTS.items() if re.search(pattern, source))


class Torch:
    """The same network and step in PyTorch."""

    def __init__(self, config: dict, arrays: tuple[np.ndarray, ...], params: dict):
        self.model = torch_unet.VideoUNet(**config)
        state_dict = params_to_state_dict(params)
        self.model.load_state_dict({k: torch.tensor(v) for k, v in state_dict.items()})
        self.parameters = list(self.model.parameters())
        decayed = [p for p in self.parameters if p.ndim > 1]
        others = [p for p in self.parameters if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)
        self.ema = [p.detach().clone() for p in self.parameters]
        self.batch = tuple(map(torch.from_numpy, arrays))

    def gradient(self) -> torch.Tensor:
        sample, timesteps, context, v = self.batch
        self.optimizer.zero_grad(set_to_none=True)
        # The PyTorch module always takes an axis of guidance branches.
        predicted = self.model(sample[:, None], timesteps, context[:, None])[:, 0]
        loss = (predicted - v).square().mean()
        loss.backward()
        return loss

    def __call__(self) -> float:
        loss = self.gradient()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.parameters, 1 - EMA_DECAY)
        return loss.item()

    def flops(self) -> int:
        """Returns the FLOPs of one step's products and convolutions, forward and backward."""
        # The plain implementation of attention, whose products are counted.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            self.gradient()
        return counter.get_total_flops()


def thread_counts() -> list[int]:
    cores = count_cores()
    return sorted({1, max(1, cores // 2), cores})


def compare(name: str, rounds: int) -> dict:
    arrays = make_arrays(NETWORKS[name])
    ours = Ours(NETWORKS[name], arrays)
    theirs = Torch(NETWORKS[name], arrays, ours.params)
    flops = theirs.flops()
    load = [os.getloadavg()[0]]

    def torch_step(threads: int) -> float:
        torch.set_num_threads(threads)
        return theirs()

    steps = {"ours": ours}
    steps |= {f"torch_{count}": partial(torch_step, count) for count in thread_counts()}
    times = {side: turns[1:] for side, turns in time_turns(steps, rounds + 1).items()}  # warm
    load.append(os.getloadavg()[0])
    result = {
        "parameters": sum(p.numel() for p in theirs.parameters),
        "gflop": round(flops / 1e9, 1),
        "load": [round(x, 1) for x in load],
        "compile_s": round(ours.compile_seconds, 1),
        "temporary_mib": round(ours.temporary_mib),
    }
    for side in steps:
        elapsed, cpu = zip(*times[side], strict=True)
        result[side] = {
            "best_ms": round(min(elapsed), 1),
            "ms": round(statistics.median(elapsed), 1),
            "cpu_ms": round(min(cpu), 1),
            "gflop_per_s": round(flops / min(elapsed) / 1e6, 1),
        }
    for key in ("best_ms", "ms", "cpu_ms"):
        torch_best = min(result[side][key] for side in steps if side != "ours")
        result[f"ratio_{key}"] = round(result["ours"][key] / torch_best, 3)
    return result


def print_parts(name: str) -> None:
    """Profiles on one core, where an operation's time is all in one thread."""
    ours = Ours(NETWORKS[name], make_arrays(NETWORKS[name]))
    ours()
    print(json.dumps({part: round(ms, 1) for part, ms in ours.parts().items()}))


def parts_on_one_core(name: str) -> dict[str, float]:
    output = run_command([sys.executable, __file__, "--profile", name])
    return json.loads(output.splitlines()[-1])


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=5, help="number of timed turns")
    parser.add_argument("--parts", action="store_true", help="where our time goes")
    parser.add_argument("--profile", choices=NETWORKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    keep_freed_memory()
    if args.profile:
        print_parts(args.profile)
        return
    results = {}
    for name in args.networks:
        results[name] = result = compare(name, args.rounds)
        print(f"\n{name}: {result['parameters']:,} parameters, {result['gflop']} GFLOP a step")
        print(f"{'':10}{'best ms':>10}{'median ms':>10}{'cpu ms':>10}{'GFLOP/s':>10}")
        for side in ("ours", *(f"torch_{count}" for count in thread_counts())):
            print(f"{side:10}" + "".join(f"{value:10.0f}" for value in result[side].values()))
        ratios = (result[f"ratio_{key}"] for key in ("best_ms", "ms", "cpu_ms"))
        print(f"{'ratio':10}" + "".join(f"{ratio:10.2f}" for ratio in ratios))
        print(
            f"ours compiled in {result['compile_s']} s; {result['temporary_mib']} MiB of temporary"
        )
        print(f"arrays; load average {result['load'][0]} before, {result['load'][1]} after")
        if args.parts:
            result["parts_ms"] = parts_on_one_core(name)
            for part, ms in result["parts_ms"].items():
                print(f"  {part:32}{ms:8.0f} ms on one core")
    print_figures(results)


if __name__ == "__main__":
    main()
