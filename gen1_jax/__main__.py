"""`python -m gen1_jax` is `gen1`, for a Python whose scripts are not on PATH."""

import sys

from gen1_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
