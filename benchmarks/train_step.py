"""One training step of a small video UNet on CPU: ours (JAX, one jit) against PyTorch (eager).

    python benchmarks/train_step.py [--rounds 5] [--network tiny everywhere]

A step is forward, backward, clipping, AdamW and the moving average, on 16 clips of 8 frames of 16x16
latents, float32. Both run in one process on the same batch, in turns, because a shared machine's speed
changes from minute to minute; each figure is the median of its turns. PyTorch uses the number of
threads that is fastest for it. The last line is one JSON object with all figures.
"""

import argparse
import json
import os
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gen1_jax.models.unet import VideoUNet
from gen1_jax.training import TrainState, make_optimizer, train_step
from gen1_jax.weights import torch_unet
from gen1_jax.weights.folder import init_params
from gen1_jax.weights.naming import params_to_state_dict

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
    # Attention over all 256 places of a frame, too.
    "everywhere": COMMON
    | {
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    },
    # What configs/tiny.py trains: no attention at the top resolution.
    "tiny": COMMON
    | {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
}


def make_arrays(config: dict) -> tuple[np.ndarray, ...]:
    """A batch: sample, timesteps, context, the v to predict."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    place = (CLIPS, 1, FRAMES, SIZE, SIZE)
    return (
        normal(*place, config["in_channels"]),
        rng.integers(0, 1000, CLIPS).astype(np.int32),
        normal(CLIPS, 1, TOKENS, config["cross_attention_dim"]),
        normal(*place, 4),
    )


class Ours:
    """`gen1_jax.training.train_step`, compiled."""

    def __init__(self, config: dict, arrays: tuple[np.ndarray, ...]):
        module = VideoUNet(**config)
        self.params = init_params(module, jax.random.key(0))
        optimizer = make_optimizer(
            num_steps=1000, learning_rate=LEARNING_RATE, warmup_steps=1, weight_decay=WEIGHT_DECAY
        )

        def loss(params, frozen, batch, key):
            *inputs, v = batch
            return jnp.square(module.apply({"params": params}, *inputs) - v).mean(), {}

        step = partial(
            train_step, loss=loss, optimizer=optimizer, ema_decay=EMA_DECAY, seed=0
        )
        params = jax.tree.map(jnp.copy, self.params)
        ema = jax.tree.map(jnp.copy, params)
        zero = jnp.zeros((), jnp.int32)
        self.state = TrainState(zero, params, ema, optimizer.init(params))
        self.batch = jax.device_put(arrays)
        start = time.perf_counter()
        lowered = jax.jit(step, donate_argnums=0).lower(self.state, self.batch, {})
        self.step = lowered.compile()
        self.compile_seconds = time.perf_counter() - start

    def __call__(self) -> float:
        self.state, metrics = self.step(self.state, self.batch, {})
        return float(metrics["loss"])

    def parts(self, steps: int = 3) -> dict[str, float]:
        """Milliseconds of core time a step by part of the network, from XLA's own profile."""
        names = hlo_sources(self.step.as_text())
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                for _ in range(steps):
                    self()
            (file,) = Path(folder).rglob("*.xplane.pb")
            profile = jax.profiler.ProfileData.from_file(str(file))
        total = defaultdict(float)
        for plane in profile.planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name in names:
                        total[part_of(names[event.name])] += event.duration_ns / 1e6 / steps
        return dict(sorted(total.items(), key=lambda item: -item[1]))


def hlo_sources(text: str) -> dict[str, str]:
    """HLO instruction -> where in the program it comes from, of a compiled module's text."""
    pattern = re.compile(r'%?([\w.-]+) = .*?metadata={.*?op_name="([^"]*)"')
    return dict(match.groups() for match in map(pattern.search, text.splitlines()) if match)


def part_of(source: str) -> str:
    return source


class Torch:
    """The same network and step in PyTorch."""

    def __init__(self, config: dict, arrays: tuple[np.ndarray, ...], params: dict):
        self.model = torch_unet.VideoUNet(**config)
        state_dict = params_to_state_dict(params)
        self.model.load_state_dict({k: torch.from_numpy(v) for k, v in state_dict.items()})
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
        *inputs, v = self.batch
        self.optimizer.zero_grad(set_to_none=True)
        loss = (self.model(*inputs) - v).square().mean()
        loss.backward()
        return loss

    def __call__(self) -> float:
        loss = self.gradient()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.parameters, 1 - EMA_DECAY)
        return float(loss)

    def flops(self) -> int:
        """Arithmetic of the matrix products and convolutions of one step, forward and backward."""
        # Attention spelt out, so that its products are counted.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            self.gradient()
        return counter.get_total_flops()


def milliseconds(step: Callable[[], float]) -> float:
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def best_threads(step: Callable[[], float]) -> int:
    times = {}
    for threads in sorted({1, max(1, os.cpu_count() // 2), os.cpu_count()}):
        torch.set_num_threads(threads)
        step()
        times[threads] = min(milliseconds(step) for _ in range(2))
    best = min(times, key=times.get)
    torch.set_num_threads(best)
    return best
def main() -> None:
    arrays = make_arrays(COMMON)
    for name in ("tiny", "everywhere"):
        ours = Ours(NETWORKS[name], arrays)
        theirs = Torch(NETWORKS[name], arrays, ours.params)
        print(name, "compile", ours.compile_seconds, "flops", theirs.flops()/1e9, sum(p.numel() for p in theirs.parameters))
        print(best_threads(theirs), ours())
        a, b = [], []
        for _ in range(5):
            a.append(milliseconds(ours)); b.append(milliseconds(theirs))
        print(a, b)
        import pickle
        p = ours.parts()
        pickle.dump(p, open(f"/tmp/parts_{name}.pkl","wb"))
        print(sum(p.values()))
        for k, v in list(p.items())[:25]: print(f"{v:8.2f} {k}")
main()
