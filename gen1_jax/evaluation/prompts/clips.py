"""Rows of prompts made clips: frames, masks and pictures are read, each file once."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from gen1_jax.errors import UserError
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.prompts.reading import Prompts
from gen1_jax.evaluation.prompts.rows import Row
from gen1_jax.video.fitting import Size, fit_image, kept_area
from gen1_jax.video.given_maps import choose_frames
from gen1_jax.video.io import Video, read_video
from gen1_jax.video.maps import as_grey, open_map
from gen1_jax.video.selection import show_size
from gen1_jax.video.trained import TrainedClips

_SHARE = 4  # a mask's pixel counts if it is at least as bright as 1/4 of the brightest
_DARK = 32  # of 255: what is left of black in lossy pictures
_LOSSLESS = (".png", ".npy", ".bmp", ".tif", ".tiff")
_MANY = 20  # rows, from which on reading shows a bar


@dataclasses.dataclass(frozen=True)
class Taking:
    """What is taken of each video; None is as in training.

    Attributes:
      size: height and width in pixels; None: the size of training nearest to the video's shape.
      frames: number of frames.
      stride: frames of the video from one frame to the next.
      start: first frame, from 0 on.
      most: number of frames that the model takes at most.
    """

    size: Size | None = None
    frames: int | None = None
    stride: int | None = None
    start: int = 0
    most: int | None = None


def load_items(
    prompts: Prompts,
    trained: TrainedClips,
    taking: Taking = Taking(),
    *,
    keep_going: bool = False,
    progress: bool = False,
) -> list[Item]:
    """Reads the clips that rows ask for.

    Rows of one video share its frames in memory. A row that cannot be read is an error, or is moved
    to `prompts.left_out`.

    Args:
      prompts: what a prompt file holds; rows that are left out are removed.
      trained: the clips that the model was trained on.
      taking: what is taken of each video.
      keep_going: whether a row that cannot be read is left out, and not an error.
      progress: whether to show a bar where there are many rows.

    Raises:
      UserError: naming the row whose files cannot be read.
    """
    reader = _Reader(trained, taking)
    rows, items = [], []
    bar = tqdm(
        prompts.rows,
        desc="read clips",
        unit="clip",
        disable=not progress or len(prompts.rows) < _MANY,
        dynamic_ncols=True,
    )
    for row in bar:
        try:
            items.append(reader.item(row))
            rows.append(row)
        except UserError as error:
            line = f"{row.place}: {error}"
            if not keep_going:
                raise UserError(line) from error
            prompts.left_out.append(line)
    if not items:
        raise UserError(f"{prompts.left_out[0]}; none of the prompts can be edited")
    prompts.rows[:] = rows
    return items


class _Reader:
    """Reads the files of rows, and remembers what it has read."""

    def __init__(self, trained: TrainedClips, taking: Taking):
        self._trained, self._taking = trained, taking
        self._video = functools.cache(self._read_video)
        self._mask = functools.cache(self._read_mask)
        self._image = functools.cache(lambda path: read_video(path, num_frames=1).frames[0])

    def item(self, row: Row) -> Item:
        """Returns the clip of a row."""
        start = self._taking.start if row.start is None else row.start
        frames = row.frames or self._taking.frames
        video = self._video(row.video.path, start, frames)
        return Item(
            clip=row.name,
            video=row.video.name,
            frames=video.frames,
            prompt=row.prompt,
            image=self._image(row.image.path) if row.image else None,
            source_prompt=row.source_prompt,
            mask=self._mask(row.mask.path, row.video.path, start, frames) if row.mask else None,
            kind=row.kind,
            camera=row.camera,
            fps=video.fps,
            start=start,
            stride=video.taken.stride,
            taken=video.taken.describe(
                frame_flags="--start, --frames, --stride",
                size_flags="--size",
                size_is_models=self._taking.size is None,
            ),
        )

    def _read_video(self, path: Path, start: int, frames: int | None) -> Video:
        most = self._taking.most
        if frames and most and frames > most:
            raise UserError(f"{frames} frames; this model takes at most {most} at a time")
        return self._trained.read(
            path,
            num_frames=frames,
            stride=self._taking.stride,
            start=start,
            size=self._taking.size,
        )

    def _read_mask(self, path: Path, video: Path, start: int, frames: int | None) -> np.ndarray:
        taken = self._video(video, start, frames).taken
        return mask_of(path, taken.count, taken.start, taken.stride, taken.source_size, taken.size)


def mask_of(
    path: Path, count: int, start: int, stride: int, source_size: Size, size: Size
) -> np.ndarray:
    """Returns the mask of a clip, `[n H W]` bool, brought to its frames as they were.

    Args:
      path: a video, a folder of pictures, one picture for all frames, or an .npy file. Bright or
        coloured is inside: white, a colour of a palette, or 1 of 0 and 1.
      count: number of the clip's frames.
      start: number of the first of them in the source.
      stride: frames of the source from one to the next.
      source_size: height and width of the source.
      size: height and width of the clip.

    Raises:
      UserError: it has another shape than the source, or too few frames.
    """
    needed = start + stride * (count - 1) + 1
    if path.suffix.lower() == ".npy":
        frames = itertools.islice(open_map(path), needed)
        values = np.stack([as_grey(frame, str(path)) for frame in frames])
    else:  # in the colours of a palette brightness tells little
        values = read_video(path, num_frames=needed, shorter=True).frames.max(axis=-1)
    values = values[choose_frames(len(values), count, start, stride, str(path))]
    if kept_area(values.shape[1:], source_size) < 0.98:
        raise UserError(
            f"{path}: is a mask of {show_size(values.shape[1:])} for a video of "
            f"{show_size(source_size)}; a mask of the video's shape is accepted"
        )
    least = max(float(values.max()) / _SHARE, 1e-6)
    if not _is_lossless(path) and values.max() < _DARK:
        least = np.inf
    inside = (values >= least).astype(np.float32)
    bilinear = Image.Resampling.BILINEAR
    return np.stack([fit_image(each, size, bilinear) for each in inside]) > 0.5


def _is_lossless(path: Path) -> bool:
    if not path.is_dir():
        return path.suffix.lower() in _LOSSLESS
    return any(file.suffix.lower() in _LOSSLESS for file in path.iterdir())


def describe_taken(items: Sequence[Item]) -> str:
    """Returns what was left out of the videos, in one line; empty: nothing."""
    said = [f"{item.clip}: {item.taken}" for item in items if item.taken]
    if not said:
        return ""
    more = len(said) - 1
    return said[0] + (f" (and {more} more clip{'s' if more > 1 else ''} likewise)" if more else "")
