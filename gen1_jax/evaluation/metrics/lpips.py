"""LPIPS (Zhang et al. 2018), version 0.1, from weights in a local folder.

The folder holds safetensors files with the public names: the network's `features.N.weight` and
`.bias`, as torchvision's AlexNet and VGG16 have them, and the weights of the layers, which are
`lin0.model.1.weight` to `lin4.model.1.weight` in the lpips package. Their shapes tell the network.
Compared with lpips 0.1.4, its layers' weights and random networks: the same within 6e-7.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from gen1_jax.errors import UserError
from gen1_jax.evaluation.metrics.perceptual import compare

# Of the lpips package: what its networks take are images in [−1, 1], moved and scaled so.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_NAME = re.compile(r"(?:features|net\.slice\d)\.(\d+)\.(weight|bias)")
_LIN = "lin{}.model.1.weight"


class _Conv(NamedTuple):
    """A convolution by its number in torchvision's `features`, followed by a ReLU."""

    number: int
    stride: int = 1
    padding: int = 1


class _Pool(NamedTuple):
    """The largest of each square of pixels; every second square is taken."""

    side: int


class _Network(NamedTuple):
    """A classifier's layers, and those of its convolutions whose features are compared."""

    layers: tuple[_Conv | _Pool, ...]
    taps: tuple[int, ...]
    widths: tuple[int, ...]


NETWORKS = {
    "alex": _Network(
        (
            *(_Conv(0, 4, 2), _Pool(3), _Conv(3, 1, 2), _Pool(3)),
            *(_Conv(6), _Conv(8), _Conv(10)),
        ),
        taps=(0, 3, 6, 8, 10),
        widths=(64, 192, 384, 256, 256),
    ),
    "vgg": _Network(
        (
            *(_Conv(0), _Conv(2), _Pool(2), _Conv(5), _Conv(7), _Pool(2)),
            *(_Conv(10), _Conv(12), _Conv(14), _Pool(2), _Conv(17), _Conv(19), _Conv(21)),
            *(_Pool(2), _Conv(24), _Conv(26), _Conv(28)),
        ),
        taps=(2, 7, 14, 21, 28),
        widths=(64, 128, 256, 512, 512),
    ),
}


class Lpips:
    """The network, which gives the distance of two clips at each place of five layers.

    Attributes:
      name: alex or vgg.
    """

    def __init__(self, folder: Path):
        """Reads the weights.

        Raises:
          UserError: there are none, or they are not those of LPIPS.
        """
        tensors = _read(folder)
        lins = [tensors.get(_LIN.format(i)) for i in range(5)]
        widths = tuple(0 if lin is None else lin.shape[1] for lin in lins)
        named = {net.widths: name for name, net in NETWORKS.items()}
        if widths not in named:
            raise UserError(
                f"{folder}: {_LIN.format(0)} to {_LIN.format(4)} of AlexNet or VGG16 are accepted, "
                "as the lpips package has them"
            )
        self.name = named[widths]
        self._network = NETWORKS[self.name]
        found = {m.groups(): value for key, value in tensors.items() if (m := _NAME.fullmatch(key))}
        params = {
            "lins": [lin.reshape(-1) for lin in lins],
            "convs": {c.number: self._conv(found, c, folder) for c in self._convs()},
        }
        self._params = jax.tree.map(jnp.asarray, params)
        self._compare = jax.jit(self._distances)

    def __call__(self, frames: jax.Array, others: jax.Array) -> list[jax.Array]:
        """Clips `[b n H W 3]` uint8 → distances `[b n h w]` of each layer, which add up."""
        return self._compare(self._params, frames, others)

    def _convs(self) -> list[_Conv]:
        return [layer for layer in self._network.layers if isinstance(layer, _Conv)]

    def _conv(self, found: Mapping, conv: _Conv, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        try:
            weight, bias = (found[str(conv.number), part] for part in ("weight", "bias"))
        except KeyError:
            raise UserError(
                f"{folder}: features.{conv.number}.weight and .bias of torchvision's {self.name} "
                "are missing"
            ) from None
        return np.moveaxis(weight, (0, 1), (3, 2)), bias  # [out in h w] → [h w in out]

    def _distances(self, params: Mapping, frames: jax.Array, others: jax.Array) -> list[jax.Array]:
        def features(images: jax.Array) -> list[jax.Array]:
            x, taps = (images - jnp.array(_SHIFT)) / jnp.array(_SCALE), []
            for layer in self._network.layers:
                if isinstance(layer, _Pool):
                    x = _max_pool(x, layer.side)
                    continue
                kernel, bias = params["convs"][layer.number]
                x = jax.nn.relu(_convolved(x, kernel, layer.stride, layer.padding) + bias)
                if layer.number in self._network.taps:
                    taps.append(x)
            return taps

        return compare(features, frames, others, params["lins"])


def _read(folder: Path) -> dict[str, np.ndarray]:
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise UserError(
            f"--lpips {folder}: a folder with safetensors files is accepted; docs/evaluating.md "
            "says how to make them"
        )
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file}: is no safetensors file: {error}") from error
    return {name: np.asarray(value, np.float32) for name, value in tensors.items()}


def _convolved(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _max_pool(x: jax.Array, side: int) -> jax.Array:
    window = (1, side, side, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "VALID")
