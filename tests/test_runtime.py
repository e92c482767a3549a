"""What a process is set up with before it computes."""

import os
import subprocess
import sys


def test_a_program_taken_from_disk_raises_no_alarm(tmp_path):
    """jaxlib 0.10.1 would log two lines for each of them (jax#38445)."""
    code = (
        "from gen1_jax import cli; cli.main([])\n"
        "from gen1_jax.runtime import keep_programs; keep_programs()\n"
        "import jax; jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((8, 8)))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TF_CPP", "JAX_COMP"))}
    environment |= {
        "XDG_CACHE_HOME": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    kept = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0 and not done.stderr, done.stderr
        kept.append(sorted(path.name for path in tmp_path.rglob("*-cache")))
    assert kept[0] and kept[1] == kept[0]  # the second run compiled nothing
