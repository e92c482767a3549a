"""Distances of pictures in the features of a network, place by place.

The form is that of LPIPS (Zhang et al. 2018, "The unreasonable effectiveness of deep features"):
the squared distance of features that are normalised over their channels, at each place of several
layers. `similarity.distance_outside` makes one number of it.

`encoder_distances` takes the features of the pipeline's own autoencoder, so it needs no further
weights. It is not LPIPS, whose features are those of a classifier, weighted by what people said.
"""

from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen1_jax.models.autoencoder import Stage

Features = Callable[[jax.Array], Sequence[jax.Array]]


def compare(
    features: Features,
    frames: jax.Array,
    others: jax.Array,
    weights: Sequence[jax.Array] | None = None,
) -> list[jax.Array]:
    """Returns the distance of two clips' frames at each place of each layer.

    One frame of each clip is compared at a time, because features are large.

    Args:
      features: images `[b H W 3]` in [−1, 1] → features `[b h w c]` of each layer.
      frames: `[b n H W 3]` uint8.
      others: `[b n H W 3]` uint8.
      weights: `[c]` of each layer's channels; None weighs all by 1.

    Returns:
      `[b n h w]` for each layer; without weights from 0 to 4, because features have length 1.
    """

    def distances(pair: tuple[jax.Array, jax.Array]) -> list[jax.Array]:
        layers = (features(x.astype(jnp.float32) / 127.5 - 1) for x in pair)
        squares = [(_normalised(a) - _normalised(b)) ** 2 for a, b in zip(*layers, strict=True)]
        scales = [1.0] * len(squares) if weights is None else weights
        return [(square * w).sum(-1) for square, w in zip(squares, scales, strict=True)]

    by_frame = (jnp.moveaxis(x, 1, 0) for x in (frames, others))
    return [jnp.moveaxis(x, 0, 1) for x in jax.lax.map(distances, tuple(by_frame))]


def encoder_features(vae: nn.Module, params: Mapping, images: jax.Array) -> list[jax.Array]:
    """Returns what each stage of the autoencoder's encoder gives for images `[b H W 3]`.

    Its attention comes after them, so a feature knows of what is near (and, by the group norms, of
    the statistics of the picture).
    """
    _, state = vae.apply(
        {"params": params},
        images,
        method="encode",
        capture_intermediates=lambda module, _: isinstance(module, Stage),
        mutable=["intermediates"],
    )
    stages = state["intermediates"]["encoder"]
    return [stages[f"down_blocks_{i}"]["__call__"][0] for i in range(len(stages))]


def encoder_distances(
    vae: nn.Module, params: Mapping, frames: jax.Array, others: jax.Array
) -> list[jax.Array]:
    """Returns `compare` in the autoencoder's features, each layer divided by the layers' number.

    Args:
      vae: the autoencoder.
      params: its parameters.
      frames: `[b n H W 3]` uint8.
      others: `[b n H W 3]` uint8.
    """
    maps = compare(lambda images: encoder_features(vae, params, images), frames, others)
    return [layer / len(maps) for layer in maps]


def _normalised(x: jax.Array) -> jax.Array:
    """Divides features `[... c]` by their length, as LPIPS does."""
    x = x.astype(jnp.float32)
    return x / (jnp.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10)
