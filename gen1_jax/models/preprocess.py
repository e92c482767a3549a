"""The inputs of CLIP and of the depth network, made from 8-bit frames."""

import chex
import jax
import jax.numpy as jnp

from gen1_jax.interpolation import cubic_matrix

# Mean and standard deviation of CLIP's training images: red, green and blue in [0, 1].
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


def resize_frames(frames: jax.Array, height: int, width: int) -> jax.Array:
    """Returns frames of another size, by bicubic interpolation as Pillow computes it.

    Pillow interpolates one axis after the other, and rounds to 8 bits after each.

    Args:
      frames: [... H W c] uint8.
      height: New height, in pixels.
      width: New width, in pixels.

    Returns:
      [... height width c] float32, whole numbers in [0, 255].
    """
    chex.assert_type(frames, jnp.uint8)
    *batch, old_height, old_width, channels = frames.shape
    x = jnp.asarray(frames).astype(jnp.float32)
    if (old_height, old_width) == (height, width):
        return x
    for shape in ((old_height, width), (height, width)):
        x = jax.image.resize(x, (*batch, *shape, channels), "cubic", antialias=True)
        x = jnp.clip(jnp.round(x), 0, 255)
    return x


def preprocess_for_clip(frames: jax.Array, size: int) -> jax.Array:
    """Turns 8-bit frames into CLIP's input.

    The shorter side is resized to `size` (bicubic), the centre is cropped, and pixels are
    normalised by the mean and standard deviation of CLIP's training images.

    Args:
      frames: [... H W 3] uint8.
      size: Side of the square that the model takes, `vision_config.image_size`.

    Returns:
      [... size size 3] float32.
    """
    height, width = frames.shape[-3:-1]
    shorter = min(height, width)
    height, width = (size * side // shorter for side in (height, width))
    x = resize_frames(frames, height, width)
    if (height, width) != (size, size):
        top, left = (height - size) // 2, (width - size) // 2
        x = x[..., top : top + size, left : left + size, :]
    return (x / 255 - jnp.array(IMAGE_MEAN)) / jnp.array(IMAGE_STD)


def depth_input_size(
    height: int, width: int, side: int, patch: int, resizing: str
) -> tuple[int, int]:
    """Returns the (height, width) at which the depth network sees frames, in pixels.

    The aspect ratio is kept up to rounding.

    Args:
      height: height of the frames.
      width: width of the frames.
      side: side of the network's training images, `image_size`.
      patch: side of a patch.
      resizing: "minimal": the side whose size changes least becomes `side`, and both are multiples
        of two patches, which the network's coarsest map needs. This is the transform of MiDaS for
        DPT-Large (`dpt_transform` of its hubconf.py: 384, "minimal", a multiple of 32).
        "shorter_side": the shorter side becomes `side`, and both are multiples of a patch.
    """
    if resizing == "minimal":
        grain = 2 * patch
        factor = min(side / height, side / width, key=lambda x: abs(1 - x))
    else:
        grain, factor = patch, side / min(height, width)
    return tuple(max(1, round(x * factor / grain)) * grain for x in (height, width))


def preprocess_for_depth(
    frames: jax.Array, size: tuple[int, int], resizing: str = "minimal"
) -> jax.Array:
    """Turns 8-bit frames into DPT's input: resized (bicubic) and scaled to [−1, 1].

    Args:
      frames: [b H W 3] uint8.
      size: (height, width), each a multiple of `patch_size`; see `depth_input_size`.
      resizing: "minimal" interpolates as MiDaS does, "shorter_side" as Pillow does.

    Returns:
      [b height width 3] float32.
    """
    if resizing == "minimal":
        return resize_cubic(frames.astype(jnp.float32), *size) / 127.5 - 1
    return resize_frames(frames, *size) / 127.5 - 1


def resize_depth(depth: jax.Array, size: tuple[int, int], resizing: str) -> jax.Array:
    """Brings estimated depth [b h w] back to the size (H, W) of the frames → [b H W]."""
    if depth.shape[1:] == size:
        return depth
    if resizing == "minimal":
        return resize_cubic(depth[..., None], *size)[..., 0]
    return jax.image.resize(depth, (depth.shape[0], *size), "linear")


def resize_cubic(x: jax.Array, height: int, width: int) -> jax.Array:
    """Resizes x [b h w c] → [b height width c] by bicubic interpolation as OpenCV computes it."""
    if x.shape[1:3] == (height, width):
        return x
    rows, columns = (
        jnp.asarray(cubic_matrix(old, new), x.dtype)
        for old, new in zip(x.shape[1:3], (height, width), strict=True)
    )
    return jnp.einsum("bhwc,yh,xw->byxc", x, rows, columns, precision="highest")
