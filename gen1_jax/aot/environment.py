"""The environment that compilers need on a machine without their chips. Importing it is light."""

import os
import re

# libtpu looks for the TPU of its machine unless these say what to compile for.
_VARIABLES = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is taken, so several processes may compile at once
    "TF_CPP_MIN_LOG_LEVEL": "2",  # the compiler for CUDA says at length that there is no GPU
}


def prepare_environment(topology: str) -> None:
    """Sets the variables that jax and libtpu read when they are imported; call it before that.

    Args:
      topology: as `gen1 compile --topology` takes it; `cpu:N` asks for N CPU devices.
    """
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    if count := re.fullmatch(r"cpu:([1-9]\d*)", topology):
        flags = os.environ.get("XLA_FLAGS", "")
        if "xla_force_host_platform_device_count" not in flags:
            flag = f"--xla_force_host_platform_device_count={count[1]}"
            os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
