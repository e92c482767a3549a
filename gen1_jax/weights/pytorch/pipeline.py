"""Gen-1's editing pipeline in PyTorch: it keeps a video's depth and takes content from a prompt.

    import torch
    from diffusers import DiffusionPipeline
    from diffusers.utils import export_to_video, load_video

    pipe = DiffusionPipeline.from_pretrained(DIR, custom_pipeline=DIR, trust_remote_code=True)
    edit = pipe(load_video("clip.mp4")[:8], prompt="a blue ball over snow", structure_level=1)
    export_to_video(edit.frames[0], "out.mp4", fps=8)

This file and the `gen1_*.py` beside it need torch, diffusers and transformers only. Letters in
shapes: b batch, n frames, h w space, c channels, l tokens, d embedding width.
"""

import dataclasses
import inspect
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from torch import Tensor

from .gen1_checks import (
    as_list,
    by_its_name,
    check_inputs,
    check_numbers,
    check_structure,
    check_timesteps,
)  # fmt: skip
from .gen1_encoders import EncodersMixin
from .gen1_frames import best_size, place_inside, to_pictures, to_tensor, to_videos
from .gen1_masks import make_kept
from .gen1_structure import NUM_LEVELS as _NUM_LEVELS  # noqa: F401
from .gen1_windows import GuidanceMixin, place_windows

# This file and those that it imports. It imports all of them itself, because diffusers looks no
# deeper for the files of a local folder.
SOURCES = (
    "pipeline", "gen1_checks", "gen1_encoders", "gen1_frames", "gen1_masks", "gen1_structure",
    "gen1_windows",
)  # fmt: skip


@dataclasses.dataclass
class Gen1PipelineOutput(BaseOutput):
    """The result of an edit.

    Attributes:
      frames: the edited videos, by `output_type`: "np" [b n H W 3] floats in [0, 1], "uint8" the
        same in 8 bits, "pt" a tensor [b n 3 H W], "pil" a list of lists, "latent" [b c n h w].
      structure: [b n H W] in [-1, 1], the blurred depth or map that the model saw; [b n H W 3] for
        one in colours.
    """

    frames: Any
    structure: np.ndarray


class Gen1Pipeline(EncodersMixin, GuidanceMixin, StableDiffusionLoraLoaderMixin, DiffusionPipeline):
    """Edits videos. `size` and `num_frames` are those of the clips in training."""

    # Read here, because diffusers copies the files of every local pipeline into one folder.
    _sources = {name: Path(__file__).with_name(f"{name}.py").read_text("utf-8") for name in SOURCES}

    model_cpu_offload_seq = "depth_estimator->text_encoder->prior->image_encoder->unet->vae"
    _optional_components = [
        "depth_estimator",
        "image_encoder",
        "text_encoder",
        "tokenizer",
        "prior",
    ]
    _callback_tensor_inputs = ["latents", "image_embeds"]

    def __init__(
        self,
        unet,
        vae,
        image_encoder,
        text_encoder,
        tokenizer,
        depth_estimator,
        prior,
        scheduler,
        size: list | None = None,
        num_frames: int = 8,
        guidance_scale: float = 7.5,
        prior_num_steps: int = 25,
        prior_guidance_scale: float = 4.0,
        prior_clamp: float = 5.0,
        trained_schedule: dict | None = None,
        sizes: list | None = None,
        stride: int | None = None,
        frame_rate: float | None = None,
        depth: dict | None = None,
        structure: dict | None = None,
        structure_drop_rate: float | None = None,
    ):
        super().__init__()
        self.register_modules(
            unet=unet,
            vae=vae,
            image_encoder=image_encoder,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            depth_estimator=depth_estimator,
            prior=prior,
            scheduler=scheduler,
        )
        self.register_to_config(
            size=size,
            num_frames=num_frames,
            guidance_scale=guidance_scale,
            prior_num_steps=prior_num_steps,
            prior_guidance_scale=prior_guidance_scale,
            prior_clamp=prior_clamp,
            trained_schedule=trained_schedule,
            sizes=sizes,
            stride=stride,
            frame_rate=frame_rate,
            depth=depth,
            structure=structure,
            structure_drop_rate=structure_drop_rate,
        )
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor)

    @torch.no_grad()
    def __call__(
        self,
        video: Any = None,
        prompt: str | list[str] | None = None,
        image: Any = None,
        *,
        structure_level: int = 0,
        temporal_scale: float = 1.0,
        guidance_scale: float | None = None,
        per_frame: bool = False,
        negative_prompt: str | list[str] | None = None,
        structure: Any = None,
        no_structure: bool = False,
        height: int | None = None,
        width: int | None = None,
        video_fit: str = "crop",
        num_inference_steps: int = 50,
        num_videos_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prior_noise: Tensor | None = None,
        image_embeds: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: list[str] | tuple[str, ...] = ("latents",),
        decode_chunk_size: int | None = 16,
        window: int | None = None,
        overlap: int | None = None,
        window_stride: int = 1,
        mask: Any = None,
        invert_mask: bool = False,
        feather: float | None = None,
        frames: Any = None,
        depth: Any = None,
    ) -> Gen1PipelineOutput | tuple:
        """Edits a video, or a batch of videos of one length.

        Args:
          video: a list of Pillow images, floats in [0, 1] or 8 bits [n H W 3], or a tensor
            [n 3 H W]; a batch is a list of these, or one array with an axis more.
          prompt: the wanted content in words. One prompt serves all videos, and one video all
            prompts; otherwise there are as many of each.
          image: a picture whose look is wanted, instead of `prompt`; or a list of them.
          structure_level: t_s; 0 keeps every detail of the depth, 7 keeps nearly nothing.
          temporal_scale: ω_t; above 1 is smoother over time. At 0 the prediction without content
            sees each frame alone, and the step from it towards the content still sees all frames.
          guidance_scale: ω, how strictly the content is followed; None is the model's own default.
          per_frame: whether each frame is edited alone, without any temporal layer; ω_t then has
            no effect.
          negative_prompt: its content stands in ∅'s place, from which guidance leads away.
          structure: [n H W] or [b n H W] inverse depth, or any map that stands in for it, instead
            of the estimate. A model that was trained on colours takes [n H W 3] in 0 … 255.
          no_structure: whether none is kept; some must have been dropped in training.
          height, width: the size to edit at; by default the size of training that is nearest in
            shape.
          video_fit: "crop" scales videos to cover that size, and cuts their borders off; "pad" adds
            their mirror image around them, and cuts it off from the result.
          num_inference_steps: steps of the scheduler.
          num_videos_per_prompt: edits of each pair of video and prompt.
          eta: η of DDIM; other schedulers ignore it.
          generator: the source of the noise, or a list with one for each edit.
          latents: [b c n h w] initial noise, instead of the generator's.
          prior_noise: [b, 1 + prior steps, d] noise of the prior, instead of the generator's.
          image_embeds: [b d] content that `text_content` or `image_content` made, instead of
            `prompt` and `image`.
          output_type: "np", "pt", "pil", "uint8" or "latent"; see `Gen1PipelineOutput`.
          return_dict: False returns a tuple (frames, structure).
          callback_on_step_end: called as (pipeline, step, timestep, tensors); what it returns
            takes the place of the tensors.
          callback_on_step_end_tensor_inputs: of "latents" and "image_embeds".
          decode_chunk_size: frames that the autoencoder and the depth network take at a time; None
            is all.
          window: frames that the UNet sees together; None: as many as in training. Longer videos
            are windows that overlap, and are fused at every step.
          overlap: frames that neighbouring windows share at least; None: a quarter of the window.
          window_stride: frames from one frame of a window to the next, such as the training's
            `stride`, where a video has every frame. Those between are in windows of their own.
          mask: which part is edited, [n H W], [b n H W] or pictures; or one picture for all
            frames. White is edited; the rest stays the source's, whose pixels are put back.
          invert_mask: whether black is edited, and not white.
          feather: pixels over which the edit fades out around the mask; None: the side of a latent.
          frames, depth: earlier names of `video` and `structure`.

        Raises:
          ValueError: an argument is not accepted; the message says what is.
        """
        videos = to_videos(by_its_name("video", video, "frames", frames))
        maps = by_its_name("structure", structure, "depth", depth)
        if callback_on_step_end is not None:
            callback_on_step_end_tensor_inputs = getattr(
                callback_on_step_end, "tensor_inputs", callback_on_step_end_tensor_inputs
            )
        check_inputs(
            self, prompt, image, image_embeds, negative_prompt, maps, generator, video_fit,
            output_type, callback_on_step_end, callback_on_step_end_tensor_inputs, no_structure,
        )  # fmt: skip
        check_numbers(
            self, structure_level, temporal_scale, guidance_scale, per_frame, height, width,
            num_inference_steps, num_videos_per_prompt, eta, decode_chunk_size, window, overlap,
            window_stride,
        )  # fmt: skip
        self._guidance_scale = guidance_scale
        if guidance_scale is None:
            self._guidance_scale = self.config.guidance_scale
        self._interrupt = False
        device = self._execution_device
        source = videos[0].shape[1:3]
        trained = best_size(source, self.config.sizes or [self.config.size or source])
        size = height or trained[0], width or trained[1]
        if any(side % self.vae_scale_factor for side in size):
            raise ValueError(
                f"videos of {size[0]} x {size[1]}: sides must be multiples of "
                f"{self.vae_scale_factor}; give height and width"
            )

        self.scheduler.set_timesteps(num_inference_steps, device=device)
        check_timesteps(self.scheduler)
        self._num_timesteps = len(self.scheduler.timesteps)

        # ---- how many edits of what
        pictures = None if image is None else to_pictures(image)
        prompts = None if prompt is None else as_list(prompt)
        contents = next(x for x in (prompts, pictures, image_embeds) if x is not None)
        negative = as_list("" if negative_prompt is None else negative_prompt)
        counts = len(videos), len(contents), len(negative)
        count = max(counts)
        if set(counts) - {1, count}:
            raise ValueError(
                f"{counts[0]} videos, {counts[1]} prompts, images or image_embeds, and {counts[2]} "
                "negative prompts; as many of each, or one for all"
            )
        shapes = {each.shape[: 3 if video_fit == "pad" else 1] for each in videos}
        if len(shapes) > 1:
            raise ValueError(f"videos of {sorted(shapes)} frames; a batch has videos of one shape")
        total = count * num_videos_per_prompt
        if isinstance(generator, (list, tuple)):
            generator = list(generator)
            if len(generator) != total:
                raise ValueError(f"{len(generator)} generators for {total} edits; one for each")

        def for_each_edit(x: Any) -> Any:
            index = [i // num_videos_per_prompt % len(x) for i in range(total)]
            return x[index] if isinstance(x, Tensor) else [x[i] for i in index]

        # ---- structure
        check_structure(self.config, maps, no_structure, structure_level)
        chunk, shape = decode_chunk_size or len(videos[0]), (len(videos), len(videos[0]), *size)
        if no_structure:
            structure_level, seen, structure = self.prepare_no_structure(shape, device)
        else:
            maps = self.prepare_maps(videos, maps, size, video_fit, chunk, device)
            seen, structure = self.encode_structure(maps, structure_level, chunk)
        seen, structure = for_each_edit(seen), for_each_edit(structure)

        kept = None
        if mask is not None:
            kept = make_kept(
                self, mask, invert_mask, feather, videos, size, video_fit, decode_chunk_size
            )
            kept = type(kept)(*map(for_each_edit, vars(kept).values()))

        # ---- content and noise
        if image_embeds is not None:
            content = for_each_edit(image_embeds.to(device, torch.float32))
        elif pictures is not None:
            content = [self.image_content(to_tensor(each[None], device)) for each in pictures]
            content = for_each_edit(torch.cat(content))
        else:
            content = self.text_content(for_each_edit(prompts), generator, prior_noise)
        null = self.negative_content(for_each_edit(negative), generator, prior_noise)
        latents = self.prepare_latents(latents, structure, generator)
        accepted = inspect.signature(self.scheduler.step).parameters
        options = {"eta": eta, "generator": generator}
        options = {name: value for name, value in options.items() if name in accepted}

        # ---- denoising
        window = window or min(
            self.config.num_frames, getattr(self.unet.config, "max_frames", self.config.num_frames)
        )
        overlap = window // 4 if overlap is None else overlap
        if per_frame:  # windows are but batches then
            overlap, window_stride = 0, 1
        noise = latents / self.scheduler.init_noise_sigma
        if kept is not None:
            latents = kept.blend(self.scheduler, latents, noise, 0)
        windows = place_windows(latents.shape[2], window, overlap, window_stride)
        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            if self._interrupt:
                continue
            v = self.windowed_prediction(
                windows,
                self.scheduler.scale_model_input(latents, t),
                t, content, structure, structure_level, temporal_scale, self._guidance_scale,
                per_frame, null,
            )  # fmt: skip
            latents = self.scheduler.step(v, t, latents, **options).prev_sample
            if kept is not None:
                latents = kept.blend(self.scheduler, latents, noise, i + 1)
            if callback_on_step_end is not None:
                tensors = {"latents": latents, "image_embeds": content}
                tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                returned = callback_on_step_end(self, i, t, tensors) or {}
                latents = returned.get("latents", latents)
                content = returned.get("image_embeds", content)

        # ---- frames
        edited = latents
        if output_type != "latent":
            edited = self.decode_latents(latents, decode_chunk_size)
            edited = edited if kept is None else kept.composite(edited)
            if video_fit == "pad":
                rows, columns = place_inside(source, size)
                edited, seen = edited[..., rows, columns], seen[..., rows, columns]
        if output_type == "uint8":
            edited = ((edited + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            edited = edited.permute(0, 2, 3, 4, 1).cpu().numpy()
        elif output_type != "latent":
            edited = self.video_processor.postprocess_video(edited, output_type)
        self.maybe_free_model_hooks()
        seen = seen.movedim(2, -1) if seen.ndim == 5 else seen
        output = Gen1PipelineOutput(frames=edited, structure=seen.cpu().numpy())
        return output if return_dict else (output.frames, output.structure)

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    def save_config(self, save_directory: str | os.PathLike, **options: Any) -> None:
        """Writes the source files and model_index.json, so that the folder loads again.

        `save_pretrained` calls this after the models, and before it uploads the folder.
        """
        folder = Path(save_directory)
        (folder / "unet").mkdir(parents=True, exist_ok=True)
        for name, source in self._sources.items():
            (folder / f"{name}.py").write_text(source, "utf-8")
        if (unet := self._own_unet()) is not None:
            shutil.copyfile(inspect.getfile(unet), folder / "unet" / "video_unet.py")
        super().save_config(save_directory, **options)

    def to_json_string(self) -> str:
        """Returns model_index.json, which names the classes by those files."""
        index = json.loads(super().to_json_string())
        index["_class_name"] = [SOURCES[0], type(self).__name__]
        if (unet := self._own_unet()) is not None:
            index["unet"] = ["video_unet", unet.__name__]
        return json.dumps(index, indent=2) + "\n"

    def _own_unet(self) -> type | None:
        """Returns the UNet's class, without the wrapper of `torch.compile`; None if diffusers'."""
        unet = type(getattr(self.unet, "_orig_mod", self.unet))
        return None if unet.__module__.partition(".")[0] == "diffusers" else unet
