"""The edit of a whole video: depth, structure, sampling in windows, and decoding on demand.

Latents of all frames are held in memory, a few kilobytes a frame. Everything that is larger goes
through in pieces.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from gen1_jax.conditioning import Conditioner, EncoderParams
from gen1_jax.controls import Controls
from gen1_jax.diffusion.blending import Kept
from gen1_jax.diffusion.solvers import count_steps
from gen1_jax.diffusion.structure import NO_STRUCTURE
from gen1_jax.diffusion.windows import Windows, touching
from gen1_jax.editing.content import of_windows
from gen1_jax.editing.edit import Edit, Streams
from gen1_jax.editing.events import Stages
from gen1_jax.editing.pieces import Pieces
from gen1_jax.editing.redo import Redo
from gen1_jax.editing.sampling import Conditions, WindowSampler
from gen1_jax.editing.structure import Wish, encode_structure, make_structure
from gen1_jax.video.footage import Footage
from gen1_jax.video.masks import Mask
from gen1_jax.video.streams import Stream

_SHOWN = 4  # frames of a preview


@dataclasses.dataclass(frozen=True)
class Request:
    """What is wanted of a video.

    Attributes:
      footage: the frames.
      windows: which frames are predicted together.
      content: content of each variation, of all frames [v d] or of each [v n d].
      controls: the controls, the guidance scale given.
      null: content in ∅'s place of each variation, [v d]; None: no content.
      structure: where the structure comes from.
      mask: what is edited; None: everything.
      redo: sections of an earlier edit that are made anew; None: all frames are made.
      seeds: the seed of the noise of each variation, [v].
      strength: the share of the steps that is run from the noised source; 1: all, from pure noise.
      batch_size: windows that are predicted at a time; None: one for each device.
    """

    footage: Footage
    windows: Windows
    content: np.ndarray
    controls: Controls
    structure: Wish
    null: np.ndarray | None = None
    mask: Mask | None = None
    redo: Redo | None = None
    seeds: Sequence[int] = (0,)
    strength: float = 1.0
    batch_size: int | None = None


class WholeEditor:
    """Edits videos of any length with the models of a pipeline."""

    def __init__(self, conditioner: Conditioner, sampler: WindowSampler, mesh: Mesh):
        self._sampler, self._pieces = sampler, Pieces(conditioner, mesh)
        self._factor = conditioner.vae.spatial_factor
        self._channels = conditioner.vae.latent_channels

    def edit(
        self,
        params: EncoderParams,
        request: Request,
        quantiles: tuple[float, float],
        stages: Stages,
        on_preview: Callable[[int, Callable[[], np.ndarray]], None] | None = None,
    ) -> list[Edit]:
        """Returns an edit for each seed.

        Args:
          params: the parameters of the encoders and of the UNet.
          request: what is wanted.
          quantiles: of an estimated depth, which become −1 and 1.
          stages: hears how far the edit is.
          on_preview: called after each step with its number, from 1, and a function that decodes
            some frames as they are by then, [m H W 3] uint8.
        """
        footage, controls, windows = request.footage, request.controls, request.windows
        length, used = windows.frames.shape[1], np.arange(len(footage))
        if request.redo is not None:
            windows, used = touching(windows, request.redo.anew)
        level = int(controls.structure_level)
        if request.structure.none:
            level, seen = NO_STRUCTURE, self._nothing(footage)
            sides = (side // self._factor for side in footage.size)
            latents = np.zeros((len(used), *sides, self._channels), np.float32)
        else:
            structure = make_structure(
                self._pieces, params, footage.frames, request.structure, quantiles, length, stages
            )
            part = structure._replace(maps=structure.maps.pick(used))
            latents = encode_structure(self._pieces, params, part, level, length, stages)
            seen = Stream(
                len(footage),
                lambda: _frames(self._pieces.seen(structure.maps, level, structure.bounds, length)),
            )
        variations = len(request.seeds)
        shape = (len(footage), *latents.shape[1:])
        noise = np.concatenate([draw_noise(seed, shape)[used] for seed in request.seeds])
        source, kept, again = None, None, (variations, 1, 1, 1)
        if request.mask is not None or request.strength < 1:
            source = self._encoded(params, footage.frames.pick(used), length, stages)
        if request.mask is not None or request.redo is not None:
            own, mask = self._kept(params, request, source, used, length, stages)
            kept = Kept(np.tile(own, again), noise, np.tile(mask, again))
        content, null = (
            None
            if contents is None
            else np.concatenate([of_windows(each, used[windows.frames]) for each in contents])
            for contents in (request.content, request.null)
        )
        conditions = Conditions(
            latents,
            content,
            null,
            level,
            float(controls.temporal_scale),
            float(controls.guidance_scale),
        )
        shown = np.linspace(0, len(used) - 1, min(_SHOWN, len(used))).round().astype(int)
        steps = count_steps(controls.steps, request.strength)
        with stages("sampling", steps) as advance:

            def after_step(number: int, z0: jax.Array) -> None:
                advance(1)
                if on_preview:
                    on_preview(number, partial(self._decode_some, params, z0, shown))

            z = self._sampler.sample(
                params["unet"],
                noise,
                repeat_windows(windows, variations, len(used)),
                conditions._replace(structure=np.tile(latents, again)),
                int(controls.steps),
                bool(controls.per_frame),
                request.batch_size,
                kept,
                np.tile(source, again) if request.strength < 1 else None,
                request.strength,
                after_step,
                controls.solver,
            )
        inside = footage.inside or (slice(None), slice(None))
        cut = partial(Stream.map, change=lambda frame: frame[inside])

        def finish(own: np.ndarray) -> Edit:
            if request.redo is None:
                made = self._decoded(params, own, length)
            else:
                made = self._decoded(params, own[request.redo.anew[used]], length)
                made = request.redo.fill(made, footage.size, footage.fit)
            streams = Streams(cut(made), cut(seen), cut(footage.frames))
            return Edit(streams, footage.fps, footage, request.mask, request.redo)

        return [finish(own) for own in z.reshape(variations, -1, *z.shape[1:])]

    def _kept(
        self,
        params: EncoderParams,
        request: Request,
        source: np.ndarray | None,
        used: np.ndarray,
        length: int,
        stages: Stages,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns what is kept: latents [m h w c], and where it is not, [m h w 1].

        Args:
          params: the parameters of the encoders.
          request: has a mask, or sections of an earlier edit, or both.
          source: latents of the frames that are edited, [m h w c], where there is a mask.
          used: the indices of these frames, [m].
          length: frames that are encoded together.
          stages: hears how far it is.
        """
        mask = None if request.mask is None else request.mask.cells(self._factor)[used]
        if request.redo is None:
            return source, mask
        frames = request.redo.fitted(request.footage.size, request.footage.fit)
        earlier = self._encoded(params, frames.pick(used), length, stages)
        anew = request.redo.anew[used].astype(np.float32)[:, None, None, None]
        if mask is None:
            return earlier, np.broadcast_to(anew, (*earlier.shape[:-1], 1))
        return np.where(anew == 1, source, earlier), anew * mask

    def _decode_some(self, params: EncoderParams, z: jax.Array, which: np.ndarray) -> np.ndarray:
        """Returns frames [m H W 3] uint8 of some of the latents [n h w c]."""
        some = Stream.of(np.asarray(z[which]))
        return np.concatenate(list(self._pieces.decode(params, some, _SHOWN)))

    def _nothing(self, footage: Footage) -> Stream:
        """Returns the maps [H W] that stand for no structure."""
        return footage.frames.map(lambda frame: np.zeros(frame.shape[:2], np.float32))

    def _encoded(
        self, params: EncoderParams, frames: Stream, length: int, stages: Stages
    ) -> np.ndarray:
        """Returns the latents [n h w c] of frames [H W 3] uint8."""
        found = []
        with stages("encoding", frames.count) as advance:
            for latents in self._pieces.encode(params, frames, length):
                found.append(latents)
                advance(len(latents))
        return np.concatenate(found)

    def _decoded(self, params: EncoderParams, latents: np.ndarray, length: int) -> Stream:
        """Returns the frames [H W 3] uint8 of latents [n h w c]."""
        stream = Stream.of(latents)
        return Stream(stream.count, lambda: _frames(self._pieces.decode(params, stream, length)))


def draw_noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the noise of a video's frames, [n h w 4]; that of a frame does not depend on n."""
    return np.asarray(jax.random.normal(jax.random.key(np.uint32(seed)), shape))


def repeat_windows(windows: Windows, times: int, count: int) -> Windows:
    """Returns the windows of as many videos of `count` frames, which stand one behind another."""
    shifts = count * np.arange(times, dtype=np.int32)[:, None, None]
    frames = (windows.frames + shifts).reshape(-1, windows.frames.shape[1])
    return Windows(frames, np.concatenate([windows.weights] * times))


def _frames(pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    return itertools.chain.from_iterable(pieces)
