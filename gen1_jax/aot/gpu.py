"""NVIDIA GPUs that are not there, as XLA's compiler for CUDA wants them described."""

import importlib.util
from typing import Any, NamedTuple

import jax

from gen1_jax.errors import UserError
from gen1_jax.hardware import CHIPS


class _Gpu(NamedTuple):
    """What the compiler's cost model and its limits need, from the CUDA programming guide.

    Attributes:
      name: the name that CUDA gives the GPU.
      capability: compute capability, (major, minor).
      cores: streaming multiprocessors.
      lanes: float32 units of a multiprocessor.
      threads: threads that a multiprocessor holds.
      shared: bytes of shared memory of a multiprocessor.
      shared_by_block: bytes of it that one block may take.
      cache: bytes of the second-level cache.
      clock: GHz.
      memory: bytes of the whole memory.
    """

    name: str
    capability: tuple[int, int]
    cores: int
    lanes: int
    threads: int
    shared: int
    shared_by_block: int
    cache: int
    clock: float
    memory: int


_KIB, _MIB, _GIB = 2**10, 2**20, 2**30
_HOPPER = ((9, 0), 132, 128, 2048, 228 * _KIB, 227 * _KIB, 50 * _MIB, 1.98)
GPUS = {
    "h100": _Gpu("NVIDIA H100 80GB HBM3", *_HOPPER, 80 * _GIB),
    "h200": _Gpu("NVIDIA H200", *_HOPPER, 141 * _GIB),
    "a100": _Gpu(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 2048, 164 * _KIB, 163 * _KIB, 40 * _MIB, 1.41,
        80 * _GIB,
    ),
    "rtx4090": _Gpu(
        "NVIDIA GeForce RTX 4090", (8, 9), 128, 128, 1536, 100 * _KIB, 99 * _KIB, 72 * _MIB, 2.52,
        24 * _GIB,
    ),
    "rtx3090": _Gpu(
        "NVIDIA GeForce RTX 3090", (8, 6), 82, 128, 1536, 100 * _KIB, 99 * _KIB, 6 * _MIB, 1.70,
        24 * _GIB,
    ),
    "l4": _Gpu(
        "NVIDIA L4", (8, 9), 58, 128, 1536, 100 * _KIB, 99 * _KIB, 48 * _MIB, 2.04, 24 * _GIB
    ),
}  # fmt: skip
# Without a GPU no kernel can be timed. Products go to cuBLAS, as most do after timing; Triton's
# untimed products would split sums and store the parts. The machine code never runs and is not
# optimised, which saves time and changes neither memory nor arithmetic.
OPTIONS = {
    "xla_gpu_autotune_level": 0,
    "xla_gpu_enable_triton_gemm": False,
    "xla_backend_optimization_level": 0,
    "xla_gpu_disable_gpuasm_optimizations": True,
    "xla_llvm_disable_expensive_passes": True,
}
MEMORY_NOTE = "jax takes 75 % of a GPU's memory unless XLA_CLIENT_MEM_FRACTION=0.95 is set"
NOTES = (
    "compiled without a GPU: kernels are not timed, and cuDNN's work space is not counted",
    MEMORY_NOTE,
)


def is_installed() -> bool:
    """Returns whether XLA's compiler for CUDA is installed."""
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    return any(importlib.util.find_spec(plugin) for plugin in plugins)


def describe_devices(name: str, count: int) -> list[Any]:
    """Returns GPUs to compile for, on machines of eight or on one of fewer.

    Args:
      name: a name in `GPUS`.
      count: number of GPUs.

    Raises:
      UserError: the compiler is not installed, or refuses the description.
    """
    if not is_installed():
        raise UserError(
            "the compiler for NVIDIA GPUs is not installed; `pip install -e '.[cuda12]'`, or only "
            f"`pip install --no-deps jax-cuda12-plugin=={jax.__version__} "
            f"jax-cuda12-pjrt=={jax.__version__}`, which needs no GPU"
        )
    from jax.experimental import topologies

    jax.devices()  # finds the plugin
    try:
        description = topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            target_config=_describe(name),
            topology=_hosts(count),
        )
    except Exception as error:  # the plugin raises several types
        raise UserError(f"--topology {name}:{count}: {str(error).splitlines()[0]}") from error
    return description.devices


def _hosts(count: int) -> str:
    """Returns slices x hosts x GPUs of a host; hosts have eight GPUs, or fewer where one is all."""
    return f"1x{count // 8}x8" if count % 8 == 0 else f"1x1x{count}"


def _describe(name: str) -> str:
    """Returns XLA's GpuTargetConfigProto of a GPU, as text."""
    gpu = GPUS[name]
    fields = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 48 * _KIB,
        "shared_memory_per_core": gpu.shared,
        "threads_per_core_limit": gpu.threads,
        "core_count": gpu.cores,
        "fpus_per_core": gpu.lanes,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "memory_bandwidth": int(CHIPS[name].bandwidth),
        "l2_cache_size": gpu.cache,
        "clock_rate_ghz": gpu.clock,
        "device_memory_size": gpu.memory,
        "shared_memory_per_block_optin": gpu.shared_by_block,
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
    }
    major, minor = gpu.capability
    lines = [f"  {key}: {value}" for key, value in fields.items()]
    capability = f"  cuda_compute_capability {{ major: {major} minor: {minor} }}"
    return "\n".join(
        [
            "gpu_device_info {",
            capability,
            *lines,
            "}",
            'platform_name: "CUDA"',
            "dnn_version_info { major: 9 minor: 10 }",
            f'device_description_str: "{gpu.name}"',
        ]
    )
