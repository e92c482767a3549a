"""Samples the latents of a whole video, step by step.

The host goes from step to step, so that it can show how far the edit is, and stop it. One program
serves all steps, and all videos whose number of windows lies between the same powers of two.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gen1_jax.diffusion.blending import END, Kept, blend
from gen1_jax.diffusion.guidance import guided_prediction
from gen1_jax.diffusion.process import Schedule
from gen1_jax.diffusion.solvers import begin, make_table, step
from gen1_jax.diffusion.windows import Windows, fuse, in_batches
from gen1_jax.distributed import batch_parts, batch_sharding, clip_sharding, replicated


class Conditions(NamedTuple):
    """What the windows of a video are predicted from.

    Attributes:
      structure: structure latents of all frames, [f h w 4].
      content: content of each window, [k d].
      null: content of each window in ∅'s place, [k d]; None: no content.
      level: t_s.
      temporal_scale: ω_t.
      guidance_scale: ω.
    """

    structure: np.ndarray
    content: np.ndarray
    null: np.ndarray | None
    level: int
    temporal_scale: float
    guidance_scale: float


class WindowSampler:
    """The UNet, for videos of any length."""

    def __init__(self, unet: nn.Module, schedule: Schedule, spacing: str, mesh: Mesh):
        self._unet, self._schedule, self._spacing, self._mesh = unet, schedule, spacing, mesh
        self._clips, self._batch = clip_sharding(mesh), batch_sharding(mesh)
        everywhere = {"out_shardings": replicated(mesh)}
        self._predict = jax.jit(self._predict_fn, static_argnames="per_frame", **everywhere)
        # Apart, so that the network is compiled once for all solvers.
        self._advance = jax.jit(partial(step, schedule), donate_argnames="state", **everywhere)
        self._blend = jax.jit(partial(blend, schedule), donate_argnums=0, **everywhere)

    def sample(
        self,
        params: Any,
        noise: np.ndarray,
        windows: Windows,
        conditions: Conditions,
        num_steps: int,
        per_frame: bool = False,
        batch_size: int | None = None,
        kept: Kept | None = None,
        source: np.ndarray | None = None,
        strength: float = 1.0,
        after_step: Callable[[int, jax.Array], None] = lambda number, z0: None,
        solver: str = "ddim",
    ) -> np.ndarray:
        """Samples, guided.

        Args:
          params: the parameters of the UNet.
          noise: [f h w 4] standard normal, of all frames.
          windows: which frames are predicted together.
          conditions: what they are predicted from.
          num_steps: steps of the whole trajectory.
          per_frame: whether each frame is sampled alone.
          batch_size: windows that are predicted at a time; None: one for each device.
          kept: what stays of a source; its noise is `noise`.
          source: latents [f h w 4] to begin with instead of pure noise (SDEdit); they are noised to
            the first step that is run.
          strength: the share of the steps that is run when there is a source; at least one is.
          after_step: called with the number of the step that is done, from 1, and the estimate of
            z_0 that it made, [f h w 4].
          solver: of `solvers.SOLVERS`.

        Returns:
          Latents [f h w 4] float32.
        """
        size = batch_size or 1
        size += -size % batch_parts(self._mesh)
        count = -(-len(windows.frames) // size)
        batches = 2 ** math.ceil(math.log2(count))
        frames = len(noise) if count == 1 else size * batches * windows.frames.shape[1]
        everywhere = partial(jax.device_put, device=replicated(self._mesh))
        strength = strength if source is not None else 1.0
        rows = make_table(self._schedule, solver, num_steps, self._spacing, strength)
        source = None if source is None else jnp.asarray(source)
        state, structure = jax.tree.map(
            lambda x: everywhere(_lengthened(x, max(frames, len(x)))),
            (begin(self._schedule, rows, noise, source), conditions.structure),
        )
        # Where the network sees z next; where a step lands differs if steps do not divide T.
        standing = np.append(rows.t, END).astype(np.int32)
        content, null = (
            None if x is None else everywhere(in_batches(np.asarray(x), size, batches))
            for x in (conditions.content, conditions.null)
        )
        conditions = conditions._replace(structure=structure, content=content, null=null)
        placed = Windows(*(everywhere(in_batches(part, size, batches)) for part in windows))
        if kept is not None:
            longer = (_lengthened(x, len(state.z)) for x in (kept.source, kept.noise, kept.mask))
            kept = Kept(*map(everywhere, longer))
        with jax.set_mesh(self._mesh):  # for kernels, which each device runs on its own part
            if kept is not None:
                state = state._replace(z=self._blend(state.z, kept, standing[0]))
            for number in range(1, len(rows.t) + 1):
                row = jax.tree.map(lambda x, i=number - 1: x[i], rows)
                prediction = self._predict(
                    params, state.z, row.t, placed, np.int32(count), conditions, per_frame=per_frame
                )
                state, z0 = self._advance(row, state, prediction)
                if kept is not None:
                    state = state._replace(z=self._blend(state.z, kept, standing[number]))
                z0.block_until_ready()  # so that the host is never ahead of what it tells
                after_step(number, z0)
        return np.asarray(state.z)[: len(noise)]

    def _predict_fn(self, params, z, t, windows, count, conditions, per_frame: bool) -> jax.Array:
        """Returns the guided prediction [f h w 4] at z_t [f h w 4]."""

        def network(*arguments, **keywords):
            return self._unet.apply({"params": params}, *arguments, **keywords)

        def predict(i: jax.Array, own: jax.Array) -> jax.Array:
            spread = partial(jax.lax.with_sharding_constraint, shardings=self._clips)
            structure = conditions.structure[windows.frames[i]]
            b = own.shape[:1]
            return guided_prediction(
                network,
                spread(own),
                jnp.broadcast_to(t, b),
                conditions.content[i][:, None],  # one token of context
                spread(structure),
                jnp.broadcast_to(jnp.int32(conditions.level), b),
                conditions.temporal_scale,
                conditions.guidance_scale,
                per_frame,
                None if conditions.null is None else conditions.null[i][:, None],
            )

        return fuse(predict, z, windows, count)


def _lengthened(values: np.ndarray, count: int) -> np.ndarray:
    """Returns [f ...] with zeros up to `count` frames."""
    values = np.asarray(values, np.float32)
    return np.concatenate([values, np.zeros((count - len(values), *values.shape[1:]), np.float32)])
