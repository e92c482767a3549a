"""The batch: the one schema that data, training and evaluation share."""

import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax.numpy as jnp
import numpy as np

from gen1_jax.errors import UserError

Array = Any  # numpy on the host, jax on the devices


@flax.struct.dataclass
class Batch:
    """A batch of clips, raw or encoded; an image is a clip of one frame. Absent fields are None.

    The raw form has `frames`, and where they are known `tokens` and `depth`. For the UNet it also
    has `structure_level` and `content_frame`, which say what the encoders make of the frames. The
    encoded form has `latents`, `structure`, `structure_level` and `content`, and `latents_logvar`
    where latents are drawn instead of taken at their mean.

    Attributes:
      frames: [b n H W 3] uint8.
      depth: [b n H W] float32 inverse depth; near is large.
      tokens: [b l] int32, the caption.
      content_frame: [b] int32, the index of the frame whose embedding is the content.
      latents: [b n h w c], the mean of the scaled autoencoder latents.
      latents_logvar: [b n h w c], the log variance of the same latents.
      structure: [b n h w c], scaled latents of the blurred depth.
      structure_level: [b] int32, the blur level t_s.
      content: [b d], CLIP image embedding.
    """

    frames: Array = None
    depth: Array = None
    tokens: Array = None
    content_frame: Array = None
    latents: Array = None
    latents_logvar: Array = None
    structure: Array = None
    structure_level: Array = None
    content: Array = None

    @property
    def size(self) -> int:
        """The number of examples."""
        return next(value.shape[0] for value in self.fields().values())

    @property
    def num_frames(self) -> int:
        """The number of frames of each clip; 1 for images, and where the batch holds no frames."""
        clips = self.frames if self.latents is None else self.latents
        return 1 if clips is None else clips.shape[1]

    @property
    def encoded(self) -> bool:
        """Whether the batch holds latents."""
        return self.latents is not None

    def widened(self) -> "Batch":
        """Returns the batch with float32 for float16, the type that encoded data are stored in."""

        def widen(x: Array) -> Array:
            return x.astype(np.float32) if x.dtype == np.float16 else x

        return Batch(**{name: widen(value) for name, value in self.fields().items()})

    def fields(self) -> dict[str, Array]:
        """Returns the fields that are present, by name."""
        named = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return {name: value for name, value in named if value is not None}

    @classmethod
    def from_dict(cls, arrays: dict[str, Array]) -> "Batch":
        """Returns the batch of a pipeline's dictionary, checked.

        Raises:
          UserError: an unknown field, a wrong rank or type, or sizes that disagree.
        """
        unknown = sorted(set(arrays) - set(SCHEMA))
        if unknown:
            raise UserError(f"unknown batch field {unknown[0]!r}; known: {', '.join(SCHEMA)}")
        batch = cls(**arrays)
        batch.check()
        return batch

    def check(self) -> None:
        """Checks the fields against the schema and against each other.

        Raises:
          UserError: a wrong rank or type, or sizes that disagree.
        """
        fields = self.fields()
        if not fields:
            raise UserError("an empty batch: at least one field is needed")
        for name, value in fields.items():
            axes, kind = SCHEMA[name]
            shape = f"batch field {name} has shape {value.shape}"
            if value.ndim != len(axes.split()):
                raise UserError(f"{shape}; accepted: [{axes}]")
            if name == "frames" and value.shape[-1] != 3:
                raise UserError(f"{shape}; three colour channels are expected")
            if not jnp.issubdtype(value.dtype, kind):
                raise UserError(
                    f"batch field {name} holds {value.dtype}; accepted: {kind.__name__} numbers"
                )
            if value.shape[0] != self.size:
                raise UserError(
                    f"batch field {name} holds {value.shape[0]} examples, others {self.size}"
                )
        # Depth has the size of the frames, structure the size of the latents.
        for alike in (("frames", "depth"), ("latents", "latents_logvar", "structure")):
            sizes = {name: fields[name].shape[2:4] for name in alike if name in fields}
            if len(set(sizes.values())) > 1:
                raise UserError(f"batch fields disagree on the size of a frame: {sizes}")
        clips = ("frames", "depth", "latents", "latents_logvar", "structure")
        frames = {name: fields[name].shape[1] for name in clips if name in fields}
        if len(set(frames.values())) > 1:
            raise UserError(f"batch fields disagree on the number of frames: {frames}")


class BatchKind(NamedTuple):
    """The batches of one size in a stream.

    Attributes:
      size: examples, over all processes.
      num_frames: frames of an example; 1 for images.
      frame: height and width of a frame, or of its latents in an encoded batch.
      share: share of the stream's batches.
    """

    size: int
    num_frames: int
    frame: tuple[int, int]
    share: float


# Each field's axes and the kind of number it holds. Encoded records and ahead-of-time shapes take
# names, axes and types from here.
SCHEMA = {
    "frames": ("b n H W 3", np.uint8),
    "depth": ("b n H W", np.floating),
    "tokens": ("b l", np.integer),
    "content_frame": ("b", np.integer),
    "latents": ("b n h w c", np.floating),
    "latents_logvar": ("b n h w c", np.floating),
    "structure": ("b n h w c", np.floating),
    "structure_level": ("b", np.integer),
    "content": ("b d", np.floating),
}
