"""Peak figures of accelerators, a chip each, from their makers' pages."""

from typing import NamedTuple


class Chip(NamedTuple):
    """Peaks of one chip.

    Attributes:
      flops: bfloat16 FLOP/s, dense.
      bandwidth: of its main memory (HBM), bytes/s.
      memory: bytes of it that programs get; of TPUs as their compiler says it (libtpu 0.0.51):
        their makers give 32, 16, 95 and 32 GiB.
      interconnect: bytes/s that it sends to other chips over all its links together. Makers give
        twice that where they count both directions.
      source: where the figures stand.
      matrix_width: a side of a TPU's matrix unit; a product's shorter sides take as long.
    """

    flops: float
    bandwidth: float
    memory: float
    interconnect: float
    source: str
    matrix_width: int | None = None


_TPU = "docs.cloud.google.com/tpu/docs, page of the version"
_GIB = 2**30
CHIPS = {
    "v4": Chip(275e12, 1228e9, 30.75 * _GIB, 300e9, _TPU, 128),
    "v5e": Chip(197e12, 819e9, 15.75 * _GIB, 200e9, _TPU, 128),
    "v5p": Chip(459e12, 2765e9, 95.73 * _GIB, 600e9, _TPU, 128),
    "v6e": Chip(918e12, 1640e9, 31.24 * _GIB, 400e9, _TPU, 256),
    "h100": Chip(989e12, 3350e9, 80e9, 450e9, "nvidia.com, H100 SXM data sheet"),
    "h200": Chip(989e12, 4800e9, 141e9, 450e9, "nvidia.com, H200 SXM data sheet"),
    "a100": Chip(312e12, 2039e9, 80e9, 300e9, "nvidia.com, A100 80GB SXM data sheet"),
}
# What jax calls a device -> the name above.
_KINDS = {
    "tpu v4": "v4",
    "tpu v5 lite": "v5e",
    "tpu v5e": "v5e",
    "tpu v5": "v5p",
    "tpu v5p": "v5p",
    "tpu v6 lite": "v6e",
    "tpu v6e": "v6e",
}


def find_chip(device_kind: str) -> Chip | None:
    """The chip of a jax device's kind; None where it is not known."""
    kind = device_kind.lower()
    if kind in _KINDS:
        return CHIPS[_KINDS[kind]]
    return next((chip for name, chip in CHIPS.items() if name in kind), None)
