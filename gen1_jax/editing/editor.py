"""`VideoEditor`: a trained pipeline, ready to edit."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gen1_jax.conditioning import Conditioner, EncoderParams
from gen1_jax.controls import (
    Controls,
    as_dtype,
    as_pixels,
    check_prompts,
    fill_up,
    for_each_clip,
    rename_older,
    seeds_of,
)
from gen1_jax.diffusion.process import Schedule, make_schedule
from gen1_jax.diffusion.sampler import sample_latents
from gen1_jax.diffusion.structure import drop_structure
from gen1_jax.distributed import (
    FRAMES,
    batch_parts,
    batch_sharding,
    clip_sharding,
    make_mesh,
    replicated,
)
from gen1_jax.editing.edit import Edit
from gen1_jax.editing.events import Stages
from gen1_jax.editing.request import make_request
from gen1_jax.editing.sampling import WindowSampler
from gen1_jax.editing.structure import check_dropped, make_maps
from gen1_jax.editing.wanted import Wanted
from gen1_jax.editing.whole import WholeEditor
from gen1_jax.errors import UserError
from gen1_jax.files import local_copy
from gen1_jax.pipeline import ENCODERS, MODELS, SETTINGS_FILE, check_parts, read_settings
from gen1_jax.runtime import naming_what_to_lower
from gen1_jax.settings import show
from gen1_jax.structure_settings import read_recipe
from gen1_jax.tokenizer import Tokenizer, load_tokenizer
from gen1_jax.video.footage import Footage, open_footage
from gen1_jax.video.io import Video
from gen1_jax.video.maps import as_maps
from gen1_jax.video.paths import as_path
from gen1_jax.video.trained import TrainedClips
from gen1_jax.weights.digest import digest_params
from gen1_jax.weights.folder import load_model
from gen1_jax.weights.lora import merge_loras


class VideoEditor:
    """A trained pipeline, ready to edit.

    `edit` edits one video of any length. `edit_batch` edits many clips of one length in one
    program, which is compiled for each shape of clips and each number of steps.
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
        self.mesh = make_mesh(devices=jax.local_devices()[:1]) if mesh is None else mesh
        self._everywhere = replicated(self.mesh)
        self._clips, self._batch = clip_sharding(self.mesh), batch_sharding(self.mesh)
        self.params = jax.device_put(params, self._everywhere)
        self.schedule: Schedule = make_schedule(**settings["schedule"])
        each = [self._batch] * 3  # controls
        self._sample = jax.jit(
            self._sample_fn,
            static_argnums=(7, 8, 9, 10),
            in_shardings=(self._everywhere, self._clips, self._batch, self._batch, *each),
            out_shardings=(self._clips, self._clips),
        )
        sampler = WindowSampler(unet, self.schedule, settings["spacing"], self.mesh)
        self._whole = WholeEditor(conditioner, sampler, self.mesh)
        self._depth = jax.jit(
            conditioner.estimate_depth,
            in_shardings=(self._everywhere, self._clips),
            out_shardings=self._clips,
        )
        # Prompts and pictures are few and of any number, so each device embeds all of them.
        everywhere = {"in_shardings": self._everywhere, "out_shardings": self._everywhere}
        self._image_content = jax.jit(conditioner.image_content, **everywhere)
        text_content = partial(
            conditioner.text_content,
            num_steps=settings["prior"]["num_steps"],
            guidance_scale=settings["prior"]["guidance_scale"],
            clamp=settings["prior"].get("clamp"),
        )
        one_by_one = jax.vmap(text_content, in_axes=(None, 0, None, 0))  # each with its own noise
        self._text_content = jax.jit(one_by_one, **everywhere)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        dtype: Any = None,
        mesh: Mesh | None = None,
        loras: Sequence[tuple[str | Path, float]] = (),
    ) -> "VideoEditor":
        """Loads a pipeline folder.

        Args:
          folder: holds unet/ vae/ clip/ depth/ prior/ tokenizer/ and gen1.json; on a disk, or on
            gs:// or s3://, of which a copy is kept in the user's cache.
          dtype: the type to compute in, such as "bfloat16"; None is float32.
          mesh: the devices that batches of clips, and the frames of each clip, are sharded over;
            None is the first device.
          loras: (file or folder, scale) of LoRAs that are merged into the UNet.

        Raises:
          UserError: a part is missing, unreadable, or of another kind of model.
        """
        folder = as_path(folder, "the `pipeline` folder of a run")
        folder = local_copy(folder, SETTINGS_FILE)
        dtype = None if dtype is None else as_dtype(dtype)
        if mesh is not None and not isinstance(mesh, Mesh):
            raise UserError(f"mesh is {show(mesh)}; a mesh of `make_mesh` is accepted, or None")
        settings = read_settings(folder)
        recipe = read_recipe(settings, str(folder / SETTINGS_FILE))
        conditioner, params = Conditioner.load(
            {name: folder / name for name in ENCODERS}, dtype, recipe
        )
        unet, unet_params = load_model(folder / "unet", dtype=dtype)
        kind = MODELS["unet"].kind
        if type(unet).__name__ != kind:
            raise UserError(f"{folder / 'unet'} holds {type(unet).__name__}; unet must be {kind}")
        tokenizer = load_tokenizer(folder / "tokenizer")
        check_parts(folder, unet, conditioner, tokenizer)
        conditioner = conditioner.with_end_token(tokenizer.end_id)
        params = {**params, "unet": merge_loras(unet_params, loras) if loras else unet_params}
        try:
            TrainedClips.of(settings, unet.max_frames)  # refuses what is wrong
            return cls(unet, conditioner, params, tokenizer, settings, mesh)
        except (KeyError, TypeError) as error:
            raise UserError(f"{folder / SETTINGS_FILE} has a wrong setting: {error}") from error

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sixteen letters that tell pipelines apart: of all parts and of gen1.json."""
        parts = (digest_params(self.params), self.tokenizer.describe(), self.settings)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    # ---- content

    def text_content(self, prompts: list[str], seed: int | Sequence[int] = 0) -> jax.Array:
        """Prompts → content [b d], sampled by the prior.

        The noise of a prompt depends on its seed alone: one number for all, or one for each.

        Raises:
          UserError: `prompts` is no list of texts, or one of them is empty.
        """
        check_prompts(prompts)
        keys = jax.vmap(jax.random.key)(seeds_of(seed, len(prompts)))
        null = self.tokenizer.encode([""])
        tokens = self.tokenizer.encode(prompts)[:, None]
        return self._text_content(self.params, tokens, null, keys)[:, 0]

    def image_content(self, images: np.ndarray) -> jax.Array:
        """Pictures [b H W 3] uint8 → content [b d].

        Raises:
          UserError: `images` is no such array.
        """
        return self._image_content(self.params, as_pixels("images", images, "b H W 3"))

    @property
    def clip_size(self) -> int:
        """Side of the square that CLIP sees of a picture."""
        return self.conditioner.clip.vision_config.image_size

    # ---- editing

    @property
    def trained(self) -> TrainedClips:
        """The clips that the model was trained on."""
        return TrainedClips.of(self.settings, self.unet.max_frames)

    def read(self, path: str | Path, **options: Any) -> Video:
        """Reads a video as the model was trained; `TrainedClips.read` has the options.

        A video that is padded (`fit="pad"`) is edited with the padding, and returned without it.
        """
        return self.trained.read(path, **options)

    def open(self, path: str | Path, **options: Any) -> Footage:
        """Opens a whole video; `open_footage` has the options. The size is one of training."""
        return open_footage(path, **{"size": self.trained.sizes} | options)

    def edit(self, frames: Any, **options: Any) -> Edit:
        """Edits one video of any length.

        Windows of it are predicted together, and fused where they overlap, at every step. Memory
        grows with its length by the latents alone.

        Args:
          frames: the path of a video, which is edited whole, in the size of training nearest to
            its shape; `Footage` of `open`; or a `Video`, a list of Pillow images or an array
            [n H W 3] uint8, taken as they are.
          **options: fields of `Wanted`, such as `prompt` and `structure_level`; and those of
            `vary`, but `variations`.

        Raises:
          UserError: an argument is not accepted, or memory runs out.
        """
        return self.vary(frames, 1, **options)[0]

    def vary(
        self,
        frames: Any,
        variations: int = 4,
        *,
        stages: Stages | None = None,
        on_preview: Callable[[int, Callable[[], np.ndarray]], None] | None = None,
        **wanted: Any,
    ) -> list[Edit]:
        """Makes several edits of one video together, each as `edit` makes it with its seed.

        Args:
          frames: see `edit`.
          variations: number of edits; their seeds follow the wanted one.
          stages: hears how far the edit is.
          on_preview: called after each step with its number, from 1, and a function that decodes
            some frames as they are by then, [m H W 3] uint8.
          **wanted: fields of `Wanted`.

        Raises:
          UserError: an argument is not accepted, or memory runs out.
        """
        stages = stages or Stages()
        request = make_request(self, frames, Wanted.of(wanted), variations, stages)
        height, width = request.footage.size
        task = f"editing {len(request.footage)} frames of {height}x{width}"
        lower = "the size (--size), or the windows edited together (--batch-size)"
        with naming_what_to_lower(task, lower):
            quantiles = self.conditioner.recipe.depth.range
            return self._whole.edit(self.params, request, quantiles, stages, on_preview)

    def edit_batch(
        self,
        frames: np.ndarray,
        content: jax.Array,
        *,
        structure: np.ndarray | None = None,
        no_structure: bool = False,
        seed: int | Sequence[int] = 0,
        **controls: Any,
    ) -> list[Edit]:
        """Edits a batch of clips, each as `edit` does it with the same seed and content.

        Args:
          frames: [b n H W 3] uint8.
          content: [b d], of `text_content` or `image_content`.
          structure: [b n H W], or in colours [b n H W 3]; see `edit`, as for the next.
          no_structure: whether the edits have none.
          seed: the seed of the noise: one number for all clips, or one for each.
          **controls: fields of `Controls`; the three controls may be arrays [b].

        Raises:
          UserError: the clips, the structure map or a control are not accepted, the frames do not
            divide over the devices, or memory runs out.
        """
        fields = {field.name for field in dataclasses.fields(Controls)}
        controls = rename_older(controls, {"structure", "no_structure", "seed", *fields})
        structure = controls.pop("structure", structure)
        controls = Controls(**controls)
        controls.check()
        frames = as_pixels("clips", frames, "b n H W 3")
        b, n, height, width, _ = frames.shape
        seeds = seeds_of(seed, b)
        self._check_clip(frames.shape[1:])
        shape = (b, self.unet.cross_attention_dim)
        if np.shape(content) != shape:
            raise UserError(
                f"content of {list(np.shape(content))}; {list(shape)} is accepted, one for each "
                "clip, of text_content or image_content"
            )
        if n % self.mesh.shape[FRAMES]:
            raise UserError(
                f"clips of {n} frames do not divide over {self.mesh.shape[FRAMES]} devices"
            )
        guidance = controls.guidance_scale
        guidance = self.settings["guidance_scale"] if guidance is None else guidance
        per_clip = [
            for_each_clip(name, value, b).astype(dtype)
            for name, value, dtype in (
                ("structure_level", controls.structure_level, np.int32),
                ("temporal_scale", controls.temporal_scale, np.float32),
                ("guidance_scale", guidance, np.float32),
            )
        ]
        more = -b % batch_parts(self.mesh)  # copies of the last clip fill up the devices
        if no_structure:
            check_dropped(self.settings)
            structure = np.zeros(frames.shape[:-1], np.float32)
        elif structure is not None:
            structure = as_maps(structure, frames.shape[:-1], self.conditioner.recipe.colours)
        if structure is not None:
            structure = fill_up(structure, more)
        frames, content, seeds, *per_clip = (
            fill_up(x, more) for x in (frames, content, seeds, *per_clip)
        )
        keys = jax.vmap(jax.random.key)(seeds)
        task = f"editing {n} frames of {height}x{width}"
        lower = "the number or the size of the frames (--frames, --size)"
        if b > 1:
            task = f"editing {b} clips of {n} frames of {height}x{width}"
            lower += " or of the clips edited together (--batch-size)"
        with naming_what_to_lower(task, lower):
            if structure is None:
                structure = make_maps(self, frames)
            arguments = (
                jax.device_put(structure, self._clips),
                jax.device_put(content, self._batch),
                jax.device_put(keys, self._batch),
                *jax.device_put(per_clip, self._batch),
            )
            with jax.set_mesh(self.mesh):  # for kernels, which each device runs on its own part
                edited, seen = self._sample(
                    self.params,
                    *arguments,
                    int(controls.steps),
                    bool(controls.per_frame),
                    controls.solver,
                    bool(no_structure),
                )
            edits = zip(np.asarray(edited), np.asarray(seen), frames, strict=True)
            return [Edit.of(*parts) for parts in edits][:b]

    def estimate_depth(self, frames: np.ndarray) -> jax.Array:
        """Clips [b n H W 3] uint8 → inverse depth [b n H W], on the devices of the clips."""
        return self._depth(self.params, jax.device_put(frames, self._clips))

    def _check_clip(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if the model takes no clips of the shape (n, H, W, 3)."""
        n, height, width, _ = shape
        factor = self.conditioner.vae.spatial_factor
        if height % factor or width % factor:
            raise UserError(f"frames of {height} x {width}: sides must be multiples of {factor}")
        if n > self.unet.max_frames:
            raise UserError(
                f"{n} frames: this model takes at most {self.unet.max_frames} at a time"
            )

    def _sample_fn(
        self, params, depth, content, keys, level, temporal_scale, guidance_scale,
        num_steps: int, per_frame: bool, solver: str, no_structure: bool = False,
    ):  # fmt: skip
        """Maps [b n H W], content [b d], controls [b] → frames, structure seen [b n H W]."""
        structure, seen_at = self.conditioner.encode_structure(params, depth, level), level
        if no_structure:
            structure, level = drop_structure(structure, level, jnp.ones_like(level, bool))
        latents = sample_latents(
            self.unet,
            params["unet"],
            self.schedule,
            jax.vmap(partial(jax.random.normal, shape=structure.shape[1:]))(keys),
            content,
            structure,
            level,
            temporal_scale=temporal_scale,
            guidance_scale=guidance_scale,
            per_frame=per_frame,
            num_steps=num_steps,
            solver=solver,
            spacing=self.settings["spacing"],
        )
        seen = self.conditioner.degrade(depth, seen_at)
        return self.conditioner.decode(params, latents), seen
