"""What a backward pass keeps of the forward pass, and what it computes again to save memory."""

from typing import Any

import flax.linen as nn
import jax


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in ("dot_general", "conv_general_dilated")


# Each policy says how much the backward pass keeps of a residual block or a transformer:
# everything, the results of products and convolutions outside attention, or only its inputs.
REMAT = {
    "none": None,
    "products": _is_product,
    "layer": jax.checkpoint_policies.nothing_saveable,
}


def rematerialised(cls: type[nn.Module], remat: str, static: tuple[int, ...] = ()) -> Any:
    """Returns the module's class with its inner values computed again in the backward pass.

    Args:
      cls: The module's class.
      remat: A name in REMAT.
      static: Positions of the arguments of `__call__` that are no arrays.
    """
    if remat == "none":
        return cls
    return nn.remat(cls, policy=REMAT[remat], static_argnums=static)
