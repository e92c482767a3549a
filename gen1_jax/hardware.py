"""Peak figures of one chip of each known accelerator, from the makers' pages."""

from typing import NamedTuple


class Chip(NamedTuple):
    """The peak figures of one chip.

    Attributes:
      flops: dense bfloat16 FLOP/s.
      bandwidth: bytes/s of the main memory (HBM).
      memory: bytes of main memory that programs may use. The figures of TPUs are those that their
        compiler reports (libtpu 0.0.51); their maker gives 32, 16, 95 and 32 GiB. The figures
        of GPUs are the maker's gigabytes, about 95 % of the memory, which leaves room for CUDA.
      interconnect: bytes/s that the chip sends to other chips over all its links together. Makers
        who count both directions give twice that.
      source: the page that the figures come from.
      clock: cycles/s of a TPU's cores, at which its compiler's schedule is read. None where the
        compiler has no such schedule.
      matrix_width: side of a TPU's matrix unit. A matrix product with a shorter side takes as
        long as one with this side. None for other accelerators.
    """

    flops: float
    bandwidth: float
    memory: float
    interconnect: float
    source: str
    clock: float | None = None
    matrix_width: int | None = None


_TPU = "docs.cloud.google.com/tpu/docs, page of the version"
_GIB = 2**30
CHIPS = {
    "v4": Chip(275e12, 1228e9, 30.75 * _GIB, 300e9, _TPU, matrix_width=128),
    "v5e": Chip(197e12, 819e9, 15.75 * _GIB, 200e9, _TPU, 1.503e9, 128),
    "v5p": Chip(459e12, 2765e9, 95.73 * _GIB, 600e9, _TPU, 1.75e9, 128),
    "v6e": Chip(918e12, 1640e9, 31.24 * _GIB, 400e9, _TPU, matrix_width=256),
    "h100": Chip(989e12, 3350e9, 80e9, 450e9, "nvidia.com, H100 SXM data sheet"),
    "h200": Chip(989e12, 4800e9, 141e9, 450e9, "nvidia.com, H200 SXM data sheet"),
    "a100": Chip(312e12, 2039e9, 80e9, 300e9, "nvidia.com, A100 80GB SXM data sheet"),
    "rtx4090": Chip(165.2e12, 1008e9, 24e9, 32e9, "nvidia.com, Ada GPU architecture"),
    "rtx3090": Chip(71e12, 936e9, 24e9, 32e9, "nvidia.com, Ampere GA102 GPU architecture"),
    "l4": Chip(121e12, 300e9, 22.9e9, 32e9, "nvidia.com, L4 data sheet"),
}
# The name that jax gives to a kind of device → the name above.
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
    """Returns the chip for a jax device's `device_kind`; None if it is unknown."""
    kind = device_kind.lower()
    if kind in _KINDS:
        return CHIPS[_KINDS[kind]]
    words = kind.replace("rtx ", "rtx").replace("-", " ").split()
    return next((chip for name, chip in CHIPS.items() if name in words), None)
