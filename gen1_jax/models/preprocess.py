"""The inputs of CLIP and of the depth network, made from 8-bit frames."""

import chex
import jax
import jax.numpy as jnp

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


def preprocess_for_depth(frames: jax.Array, size: int | tuple[int, int]) -> jax.Array:
    """Turns 8-bit frames into DPT's input: resized (bicubic) and scaled to [-1, 1].

    Args:
      frames: [... H W 3] uint8.
      size: Side of a square, or (height, width), each a multiple of `patch_size`. The published
        model was trained at 384.

    Returns:
      [... height width 3] float32.
    """
    height, width = (size, size) if isinstance(size, int) else size
    return resize_frames(frames, height, width) / 127.5 - 1
