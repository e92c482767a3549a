"""gen1-jax: structure- and content-guided video synthesis (Gen-1) in JAX and Flax."""

__version__ = "0.1.0"
