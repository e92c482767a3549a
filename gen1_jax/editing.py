"""Editing a clip: frames and a prompt (or a picture) in, frames out. In three lines:

    editor = VideoEditor.load("runs/demo/pipeline")
    edit = editor.edit(read_video("clip.mp4", num_frames=8).frames, prompt="a blue ball on snow")
    write_video("out.mp4", edit.frames, fps=8)

`gen1 edit` does the same, and checks its input.
"""

import dataclasses
import functools
import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gen1_jax.conditioning import IMAGES, Conditioner, EncoderParams
from gen1_jax.diffusion.process import Schedule, make_schedule
from gen1_jax.diffusion.sampler import sample_latents
from gen1_jax.diffusion.structure import LEVEL_CHANNELS, NUM_LEVELS, blur, normalise_clip
from gen1_jax.distributed import (
    FRAMES,
    batch_parts,
    batch_sharding,
    clip_sharding,
    make_mesh,
    replicated,
)
from gen1_jax.errors import UserError
from gen1_jax.pipeline import ENCODERS, MODELS, SETTINGS_FILE, read_settings
from gen1_jax.runtime import trace_once
from gen1_jax.tokenizer import Tokenizer, load_tokenizer
from gen1_jax.weights.folder import load_model


@dataclasses.dataclass(frozen=True)
class Controls:
    """The three controls of an edit, and the number of its steps.

    Attributes:
      structure_level: t_s, 0 to 7, or an array [b]. 0 keeps every detail of the depth, 7 keeps
        nearly nothing.
      temporal_scale: ω_t, or an array [b]. Above 1 is smoother in time; 0 makes each frame alone.
      guidance_scale: ω, or an array [b]. It says how strictly the content is followed; None is the
        model's own.
      num_steps: DDIM steps, 1 to 1000.
    """

    structure_level: Any = 0
    temporal_scale: Any = 1.0
    guidance_scale: Any = None
    num_steps: int = 50

    def check(self) -> None:
        """Raises UserError if a control is out of its range."""
        levels = np.atleast_1d(self.structure_level)
        if (
            not np.issubdtype(levels.dtype, np.integer)
            or levels.min() < 0
            or levels.max() >= NUM_LEVELS
        ):
            raise UserError(
                f"structure level {self.structure_level}; "
                f"whole numbers 0 to {NUM_LEVELS - 1} are accepted"
            )
        for name in ("temporal_scale", "guidance_scale"):
            value = getattr(self, name)
            if value is not None and not np.all(np.isfinite(value)):
                raise UserError(f"{name.replace('_', ' ')} {value}; a finite number is accepted")
        if not isinstance(self.num_steps, int) or not 1 <= self.num_steps <= 1000:
            raise UserError(f"steps {self.num_steps}; whole numbers 1 to 1000 are accepted")


@dataclasses.dataclass(frozen=True)
class Edit:
    """The result of an edit.

    Attributes:
      frames: [n h w 3] uint8.
      structure: [n h w] in [−1, 1], the blurred depth that the model saw.
    """

    frames: np.ndarray
    structure: np.ndarray


class VideoEditor:
    """A trained pipeline, ready to edit.

    One program is compiled for each shape of clips and each number of steps.
    """

    def __init__(
        self,
        unet: Any,
        conditioner: Conditioner,
        params: EncoderParams,
        tokenizer: Tokenizer,
        settings: dict[str, Any],
        mesh: Mesh | None = None,
    ):
        """Places the parameters on the devices.

        Args:
          unet: the module of the UNet.
          conditioner: the modules of the encoders.
          params: the parameters of the encoders and of `unet`, by name.
          tokenizer: the tokenizer of prompts.
          settings: the content of gen1.json.
          mesh: see `load`.
        """
        self.unet, self.conditioner = unet, conditioner
        self.tokenizer, self.settings = tokenizer, settings
        self.mesh = make_mesh(devices=jax.devices()[:1]) if mesh is None else mesh
        self._everywhere = replicated(self.mesh)
        self._clips, self._batch = clip_sharding(self.mesh), batch_sharding(self.mesh)
        self.params = jax.device_put(params, self._everywhere)
        self.schedule: Schedule = make_schedule(**settings["schedule"])
        each = [self._batch] * 3  # controls
        self._sample = jax.jit(
            trace_once(self._sample_fn),
            static_argnums=7,
            in_shardings=(self._everywhere, self._clips, self._batch, self._everywhere, *each),
            out_shardings=(self._clips, self._clips),
        )
        self._depth = jax.jit(
            conditioner.estimate_depth,
            in_shardings=(self._everywhere, self._clips),
            out_shardings=self._clips,
        )
        # Prompts and pictures are few and of any number, so each device embeds all of them.
        everywhere = {"in_shardings": self._everywhere, "out_shardings": self._everywhere}
        self._image_content = jax.jit(conditioner.image_content, **everywhere)
        self._text_content = jax.jit(
            partial(
                conditioner.text_content,
                num_steps=settings["prior"]["num_steps"],
                guidance_scale=settings["prior"]["guidance_scale"],
                clamp=settings["prior"].get("clamp", 5.0),
            ),
            **everywhere,
        )

    @classmethod
    def load(cls, folder: str | Path, dtype: Any = None, mesh: Mesh | None = None) -> "VideoEditor":
        """Loads a pipeline folder.

        Args:
          folder: holds unet/ vae/ clip/ depth/ prior/ tokenizer/ and gen1.json.
          dtype: the type to compute in; None is float32.
          mesh: the devices that batches of clips, and the frames of each clip, are sharded over;
            None is the first device.

        Raises:
          UserError: a part is missing, unreadable, or of another kind of model.
        """
        folder = Path(folder)
        settings = read_settings(folder)
        conditioner, params = Conditioner.load({name: folder / name for name in ENCODERS}, dtype)
        unet, unet_params = load_model(folder / "unet", dtype=dtype)
        kind = MODELS["unet"].kind
        if type(unet).__name__ != kind:
            raise UserError(f"{folder / 'unet'} holds {type(unet).__name__}; unet must be {kind}")
        tokenizer = load_tokenizer(folder / "tokenizer")
        _check_parts(folder, unet, conditioner, tokenizer)
        params = {**params, "unet": unet_params}
        try:
            return cls(unet, conditioner, params, tokenizer, settings, mesh)
        except (KeyError, TypeError) as error:
            raise UserError(f"{folder / SETTINGS_FILE} has a wrong setting: {error}") from error

    @functools.cached_property
    def fingerprint(self) -> str:
        """Eight letters that tell models apart, from a sample of each parameter of the UNet."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.params["unet"]):
            digest.update(np.asarray(leaf.ravel()[:64]).tobytes())
        return digest.hexdigest()[:8]

    # ---- content

    def text_content(self, prompts: list[str], seed: int = 0) -> jax.Array:
        """Prompts → content [b d], sampled by the prior.

        The noise depends on the seed and on the place of a prompt in the list.

        Raises:
          UserError: a prompt is empty.
        """
        if any(not prompt.strip() for prompt in prompts):
            raise UserError(
                "the prompt is empty; say what the video should look like, or give an image"
            )
        null = self.tokenizer.encode([""])
        return self._text_content(
            self.params, self.tokenizer.encode(prompts), null, jax.random.key(seed)
        )

    def image_content(self, images: np.ndarray) -> jax.Array:
        """Pictures [b H W 3] uint8 → content [b d]."""
        chex.assert_shape(images, IMAGES)
        return self._image_content(self.params, images)

    # ---- editing

    def edit(
        self,
        frames: np.ndarray,
        *,
        prompt: str | None = None,
        image: np.ndarray | None = None,
        depth: np.ndarray | None = None,
        seed: int = 0,
        **controls: Any,
    ) -> Edit:
        """Edits one clip.

        Args:
          frames: [n H W 3] uint8.
          prompt: the wanted content in words; either this or `image` is given.
          image: [H W 3] uint8, a picture whose look is wanted.
          depth: [n H W] inverse depth, or any map that stands in for it. It takes the place of the
            estimated depth.
          seed: the seed of the noise.
          **controls: fields of `Controls`.

        Raises:
          UserError: neither or both of prompt and image are given, or a control is out of range.
        """
        if (prompt is None) == (image is None):
            raise UserError("give either a prompt or an image to take the content from")
        if image is not None and (
            image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8
        ):
            raise UserError(f"an image of {image.dtype} {image.shape}; [H W 3] uint8 is accepted")
        if prompt is not None:
            content = self.text_content([prompt], seed)
        else:
            content = self.image_content(image[None])
        return self.edit_batch(
            frames[None],
            content,
            depth=None if depth is None else depth[None],
            seed=seed,
            **controls,
        )[0]

    def edit_batch(
        self,
        frames: np.ndarray,
        content: jax.Array,
        *,
        depth: np.ndarray | None = None,
        seed: int = 0,
        **controls: Any,
    ) -> list[Edit]:
        """Edits a batch of clips.

        The noise depends on the seed and on the place of a clip in the batch. So the first clip's
        edit is that of `edit` with the same seed and content.

        Args:
          frames: [b n H W 3] uint8.
          content: [b d], of `text_content` or `image_content`.
          depth: [b n H W]; see `edit`.
          seed: the seed of the noise.
          **controls: fields of `Controls`.

        Raises:
          UserError: the clips, the depth or a control are not accepted, or the clips do not divide
            over the devices.
        """
        controls = Controls(**controls)
        controls.check()
        if frames.ndim != 5 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
            raise UserError(
                f"clips of {frames.dtype} {frames.shape}; [b n H W 3] uint8 is accepted"
            )
        if depth is not None and depth.shape != frames.shape[:-1]:
            raise UserError(
                f"depth of {depth.shape}; that of the frames, {frames.shape[:-1]}, is accepted"
            )
        b, n, height, width, _ = frames.shape
        chex.assert_shape(content, (b, self.unet.cross_attention_dim))
        factor = self.conditioner.vae.spatial_factor
        if height % factor or width % factor:
            raise UserError(f"frames of {height} x {width}: sides must be multiples of {factor}")
        if n > self.unet.max_frames:
            raise UserError(
                f"{n} frames: this model takes at most {self.unet.max_frames} at a time"
            )
        parts, frame_parts = batch_parts(self.mesh), self.mesh.shape[FRAMES]
        if b % parts or n % frame_parts:
            raise UserError(
                f"{b} clips of {n} frames do not divide over {parts} x {frame_parts} devices"
            )
        if depth is None:
            depth = self._depth(self.params, jax.device_put(frames, self._clips))
        guidance = controls.guidance_scale
        guidance = self.settings["guidance_scale"] if guidance is None else guidance
        per_clip = [
            jnp.broadcast_to(jnp.asarray(value, dtype), (b,))
            for value, dtype in (
                (controls.structure_level, jnp.int32),
                (controls.temporal_scale, jnp.float32),
                (guidance, jnp.float32),
            )
        ]
        arguments = (
            jax.device_put(depth, self._clips),
            jax.device_put(content, self._batch),
            jax.device_put(jax.random.key(seed), self._everywhere),
            *jax.device_put(per_clip, self._batch),
        )
        with jax.set_mesh(self.mesh):  # for kernels, which each device runs on its own part
            edited, seen = self._sample(self.params, *arguments, controls.num_steps)
        return [Edit(*pair) for pair in zip(np.asarray(edited), np.asarray(seen), strict=True)]

    def _sample_fn(
        self, params, depth, content, key, level, temporal_scale, guidance_scale, num_steps: int
    ):
        """Depth [b n H W], content [b d], controls [b] → frames, structure seen [b n H W]."""
        structure = self.conditioner.encode_structure(params, depth, level)
        latents = sample_latents(
            self.unet,
            params["unet"],
            self.schedule,
            jax.random.normal(key, structure.shape),
            content,
            structure,
            level,
            temporal_scale=temporal_scale,
            guidance_scale=guidance_scale,
            num_steps=num_steps,
            spacing=self.settings["spacing"],
        )
        return self.conditioner.decode(params, latents), blur(normalise_clip(depth), level)


def _check_parts(folder: Path, unet: Any, conditioner: Conditioner, tokenizer: Tokenizer) -> None:
    """Raises UserError if parts do not belong to one pipeline, though each is whole."""
    latents, width = conditioner.vae.latent_channels, conditioner.clip.projection_dim
    length = conditioner.clip.text_config.max_position_embeddings
    channels = 2 * latents + LEVEL_CHANNELS
    for part, what, got, wanted in (
        ("unet", "in_channels (latents, structure, level)", unet.in_channels, channels),
        ("unet", "out_channels", unet.out_channels, latents),
        ("unet", "cross_attention_dim", unet.cross_attention_dim, width),
        ("prior", "embedding_dim", conditioner.prior.embedding_dim, width),
        ("tokenizer", "context length", tokenizer.context_length, length),
    ):
        if got != wanted:
            raise UserError(
                f"{folder / part}: {what} is {got}; the other parts of the pipeline take {wanted}"
            )
