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

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gen1_jax.conditioning import Conditioner, EncoderParams
from gen1_jax.diffusion.process import Schedule, make_schedule
from gen1_jax.diffusion.sampler import sample_latents
from gen1_jax.diffusion.structure import LEVEL_CHANNELS, NUM_LEVELS, blur, normalise_clip
from gen1_jax.distributed import FRAMES, batch_parts, clip_sharding, make_mesh, replicated
from gen1_jax.errors import UserError
from gen1_jax.pipeline import ENCODERS, MODELS, SETTINGS_FILE, read_settings
from gen1_jax.runtime import trace_once
from gen1_jax.tokenizer import Tokenizer, load_tokenizer
from gen1_jax.weights.folder import load_model


@dataclasses.dataclass(frozen=True)
class Controls:
    """The three controls of an edit, and how it is sampled. Scales and level may be arrays [b]."""

    structure_level: Any = 0  # t_s: 0 keeps every detail of the depth, 7 nearly nothing
    temporal_scale: Any = 1.0  # ω_t: above 1 smoother in time, 0 each frame alone
    guidance_scale: Any = None  # ω: how strictly the content is followed; None: the model's own
    num_steps: int = 50  # DDIM steps

    def check(self) -> None:
        """Raises UserError where a control is out of its range."""
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
    """The result.

    `frames` [n h w 3] uint8; `structure` [n h w] in [−1, 1], the blurred depth that the model saw.
    """

    frames: np.ndarray
    structure: np.ndarray


class VideoEditor:
    """A trained pipeline, ready to edit. Compiled once for each clip shape and number of steps."""

    def __init__(
        self,
        unet: Any,
        conditioner: Conditioner,
        params: EncoderParams,
        tokenizer: Tokenizer,
        settings: dict[str, Any],
        mesh: Mesh | None = None,
    ):
        self.unet, self.conditioner = unet, conditioner
        self.tokenizer, self.settings = tokenizer, settings
        self.mesh = make_mesh(devices=jax.devices()[:1]) if mesh is None else mesh
        self.params = jax.device_put(params, replicated(self.mesh))
        self.schedule: Schedule = make_schedule(**settings["schedule"])
        self._sample = jax.jit(trace_once(self._sample_fn), static_argnames=("num_steps",))
        self._depth = jax.jit(conditioner.estimate_depth)
        self._image_content = jax.jit(conditioner.image_content)
        self._text_content = jax.jit(
            partial(
                conditioner.text_content,
                num_steps=settings["prior"]["num_steps"],
                guidance_scale=settings["prior"]["guidance_scale"],
                clamp=settings["prior"].get("clamp", 5.0),
            )
        )

    @classmethod
    def load(cls, folder: str | Path, dtype: Any = None, mesh: Mesh | None = None) -> "VideoEditor":
        """From a pipeline folder.

        Args:
          folder: with unet/ vae/ clip/ depth/ prior/ tokenizer/ and gen1.json.
          dtype: compute type; float32 if None.
          mesh: the devices that batches of clips, and the frames of each, are split over; the
            first device if None.

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
        """Eight letters that tell models apart, of a sample of each of the UNet's parameters."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.params["unet"]):
            digest.update(np.asarray(leaf.ravel()[:64]).tobytes())
        return digest.hexdigest()[:8]

    # ---------------------------------------------------------------- content

    def text_content(self, prompts: list[str], seed: int = 0) -> jax.Array:
        """Prompts → content [b d], sampled by the prior; noise depends on the seed and the place.

        Raises:
          UserError: an empty prompt.
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
        return self._image_content(self.params, images)

    # ---------------------------------------------------------------- editing

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
          prompt: the content wanted, in words; or
          image: a picture [H W 3] uint8 whose look to take.
          depth: [n H W] inverse depth, or any map that stands in for it, to keep instead of the
            estimated one.
          seed: of the noise.
          **controls: fields of `Controls`.

        Raises:
          UserError: neither or both of prompt and image, or a control out of range.
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
        """Edits clips [b n H W 3] towards content [b d]; see `edit`.

        Noise depends on the seed and the place in the batch: the first clip's edit is that of
        `edit` with the same seed and content.
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
        factor = self.conditioner.vae.spatial_factor
        if height % factor or width % factor:
            raise UserError(f"frames of {height} x {width}: sides must be multiples of {factor}")
        if n > self.unet.max_frames:
            raise UserError(
                f"{n} frames: this model takes at most {self.unet.max_frames} at a time"
            )
        parts, split = batch_parts(self.mesh), self.mesh.shape[FRAMES]
        if b % parts or n % split:
            raise UserError(f"{b} clips of {n} frames do not divide over {parts} x {split} devices")
        if depth is None:
            depth = self._depth(self.params, jax.device_put(frames, clip_sharding(self.mesh)))
        depth = jax.device_put(depth, clip_sharding(self.mesh))
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
        key = jax.random.key(seed)
        with jax.set_mesh(self.mesh):  # for kernels, which each device runs on its own part
            edited, seen = self._sample(
                self.params, depth, content, key, *per_clip, num_steps=controls.num_steps
            )
        return [Edit(*pair) for pair in zip(np.asarray(edited), np.asarray(seen), strict=True)]

    def _sample_fn(
        self, params, depth, content, key, level, temporal_scale, guidance_scale, *, num_steps: int
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
    """Raises UserError where the parts are each whole, but not of one pipeline."""
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
