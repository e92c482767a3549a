"""The UNet of a stage of training, which rivals edit with."""

import functools
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen1_jax.config import SAVED_CONFIG
from gen1_jax.diffusion.process import Schedule, make_schedule
from gen1_jax.diffusion.sampler import sample_latents
from gen1_jax.distributed import batch_sharding, clip_sharding, replicated
from gen1_jax.editing import VideoEditor
from gen1_jax.errors import UserError
from gen1_jax.evaluation.clips import Clips
from gen1_jax.files import read_json
from gen1_jax.models.unet import VideoUNet
from gen1_jax.runtime import naming_what_to_lower
from gen1_jax.weights.digest import digest_params
from gen1_jax.weights.folder import load_model


class Stage:
    """A UNet with its own training's schedule, and the pipeline's encoders.

    Attributes:
      editor: the pipeline whose autoencoder, content and devices it shares.
      digest: sixteen letters that tell its parameters and schedule apart from others.
    """

    def __init__(self, editor: VideoEditor, folder: Path, *, structured: bool):
        """Loads the UNet.

        Args:
          editor: the pipeline, whose autoencoder, content and devices it shares.
          folder: the stage's `model` folder. The config.json beside the folder says the schedule.
          structured: whether the UNet has to have structure channels, or has to have none.

        Raises:
          UserError: the folder holds no such UNet, or one that does not fit the pipeline.
        """
        self.editor = editor
        module, params = load_model(folder, dtype=editor.unet.dtype)
        if not isinstance(module, VideoUNet):
            raise UserError(f"{folder} holds {type(module).__name__}; a UNet is accepted")
        wanted = module.out_channels + 8 * structured
        if module.in_channels != wanted:
            what = "with" if structured else "without"
            whole = (
                f"; of Stable Diffusion 2's depth model give the whole pipeline, {folder.parent}"
                if module.in_channels == module.out_channels + 1
                else ""
            )
            raise UserError(
                f"{folder}: the UNet takes {module.in_channels} channels; one {what} structure is "
                f"accepted, which takes {wanted}{whole}"
            )
        if module.cross_attention_dim != editor.unet.cross_attention_dim:
            raise UserError(
                f"{folder}: the UNet takes content of width {module.cross_attention_dim}; the "
                f"pipeline's has {editor.unet.cross_attention_dim}"
            )
        self.module, self._structured = module, structured
        settings, self.schedule = _schedule_of(folder, editor)
        # As previews of training have it; see `sampling_timesteps`.
        self._spacing = "trailing" if settings.get("zero_terminal_snr") else "leading"
        self.digest = f"{digest_params(params)[:12]}{hash_of(settings)}"
        encoders = {name: editor.params[name] for name in ("vae",)}
        params = jax.device_put(params, replicated(editor.mesh))
        self._params = {**encoders, "unet": params}
        whole, clips, batch = (f(editor.mesh) for f in (replicated, clip_sharding, batch_sharding))
        self._sample = jax.jit(
            self._sample_fn,
            static_argnums=(8, 9, 10),
            in_shardings=(whole, clips, clips, batch, batch, batch, batch, whole),
            out_shardings=clips,
        )

    def sample(
        self,
        clips: Clips,
        *,
        guidance_scale: float,
        num_steps: int,
        source: jax.Array | None = None,
        strength: float = 1.0,
        structure_level: int = 0,
        per_frame: bool = True,
        fixed_noise: bool = False,
        seeds: np.ndarray | None = None,
    ) -> np.ndarray:
        """Samples clips; returns frames `[b n H W 3]` uint8.

        Args:
          clips: what is edited.
          guidance_scale: ω.
          num_steps: DDIM steps of the whole trajectory.
          source: latents `[b n h w 4]` to start from, noised to `strength`; None: pure noise.
          strength: see `integrate`.
          structure_level: t_s, where the UNet has structure.
          per_frame: whether each frame is predicted alone.
          fixed_noise: whether all frames of a clip have the same noise.
          seeds: of the noise `[b]`; None: those of the clips.
        """
        b, n = clips.frames.shape[:2]
        mesh = self.editor.mesh
        seeds = np.asarray(clips.seeds if seeds is None else seeds, np.uint32)
        if source is not None:
            n = source.shape[1]
        if self._structured:
            depth = clips.structure_map
        else:  # only its shape is looked at
            depth = np.zeros((b, n, *clips.frames.shape[2:4]), np.float32)
        arguments = (
            jax.device_put(depth, clip_sharding(mesh)),
            None if source is None else jax.device_put(source, clip_sharding(mesh)),
            jax.device_put(np.asarray(clips.content), batch_sharding(mesh)),
            jax.device_put(jax.vmap(jax.random.key)(seeds), batch_sharding(mesh)),
            jax.device_put(np.full(b, structure_level, np.int32), batch_sharding(mesh)),
            jax.device_put(np.full(b, guidance_scale, np.float32), batch_sharding(mesh)),
            np.bool_(fixed_noise),
        )
        task = f"editing {b} clips of {n} frames"
        with naming_what_to_lower(task, "the clips edited together (--batch-size)"):
            with jax.set_mesh(mesh):
                frames = self._sample(
                    self._params,
                    *arguments,
                    num_steps,
                    strength if source is not None else 1.0,
                    per_frame,
                )
            return np.asarray(frames)

    def _sample_fn(
        self, params, depth, source, content, keys, level, guidance_scale, fixed_noise,
        num_steps: int, strength: float, per_frame: bool,
    ):  # fmt: skip
        conditioner = self.editor.conditioner
        factor = conditioner.vae.spatial_factor
        _, n, height, width = depth.shape
        shape = (n, height // factor, width // factor, conditioner.vae.latent_channels)
        noise = jax.vmap(partial(jax.random.normal, shape=shape))(keys)
        noise = jnp.where(fixed_noise, noise[:, :1], noise)
        latents = sample_latents(
            self.module,
            params["unet"],
            self.schedule,
            noise,
            content,
            conditioner.encode_structure(params, depth, level) if self._structured else None,
            level if self._structured else None,
            guidance_scale=guidance_scale,
            per_frame=per_frame,
            num_steps=num_steps,
            spacing=self._spacing,
            source=source,
            strength=strength,
        )
        return conditioner.decode(params, latents)


def source_latents(clips: Clips) -> jax.Array:
    """Returns the latents of the clips themselves, `[b n h w 4]`; computed once for all methods."""
    if "latents" not in clips.kept:
        clips.kept["latents"] = encode(clips.editor, clips.frames)
    return clips.kept["latents"]


def encode(editor: VideoEditor, frames: np.ndarray) -> jax.Array:
    """Frames `[b n H W 3]` uint8 → latents `[b n h w 4]`, on the devices of the clips."""
    frames = jax.device_put(frames, clip_sharding(editor.mesh))
    return _encoder(editor)(editor.params, frames)


@functools.lru_cache(maxsize=4)
def _encoder(editor: VideoEditor) -> Callable[..., jax.Array]:
    whole, clips = replicated(editor.mesh), clip_sharding(editor.mesh)
    return jax.jit(
        editor.conditioner.encode_frames, in_shardings=(whole, clips), out_shardings=clips
    )


def _schedule_of(folder: Path, editor: VideoEditor) -> tuple[dict[str, Any], Schedule]:
    """Returns the schedule that a stage was trained with; the pipeline's if no file says it.

    A file that does not name a setting means the default of training, not the pipeline's setting.
    """
    saved = read_json(folder.parent / SAVED_CONFIG)
    if saved is None:
        settings = dict(editor.settings["schedule"])
    else:
        loss = saved.get("loss", {})
        names = ("zero_terminal_snr", "prediction_type")
        settings = {name: loss[name] for name in names if name in loss}
    return settings, make_schedule(**settings)


def hash_of(settings: dict[str, Any]) -> str:
    """Returns four letters that tell settings apart."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:4]
