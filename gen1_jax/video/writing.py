"""Writes frames as a video, an animated image or a folder of PNGs, completely or not at all."""

import contextlib
import itertools
import numbers
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image

from gen1_jax.errors import UserError, one_line
from gen1_jax.files import replacing
from gen1_jax.video.animations import write_gif, write_webp
from gen1_jax.video.paths import as_path
from gen1_jax.video.pixels import SCALER
from gen1_jax.video.provenance import Signing, sign_file
from gen1_jax.video.sound import Sound, Track
from gen1_jax.video.streams import Stream
from gen1_jax.video.tags import add_xmp, png_tags

VIDEO_SUFFIXES = (".mp4", ".gif", ".webp")  # accepted outputs; no suffix means a folder of PNGs


def check_output(
    path: str | os.PathLike, overwrite: bool = False, suffixes: Sequence[str] = VIDEO_SUFFIXES
) -> Path:
    """Refuses, before any work is done, an output that `write_video` would refuse.

    Args:
      path: the file or folder to write.
      overwrite: whether an existing output may be replaced.
      suffixes: the accepted suffixes of files.

    Returns:
      The path.

    Raises:
      UserError: the path is none, its suffix is unknown, the output exists and `overwrite` is
        false, or its folder cannot be written to.
    """
    path = as_path(path, "a path to write to")
    if path.suffix.lower() not in ("", *suffixes):
        raise UserError(
            f"{path}: cannot write {path.suffix}; accepted are {', '.join(suffixes)}, "
            "or no suffix for a folder of PNGs"
        )
    is_folder, exists = not path.suffix, path.exists() or path.is_symlink()
    if path.is_dir():
        others = [p.name for p in path.iterdir() if not (p.suffix == ".png" and p.stem.isdigit())]
        if not is_folder or others:  # overwriting must never delete files of another origin
            raise UserError(
                f"{path}: is a folder with other things in it; give a path that does not exist"
            )
        exists = any(path.iterdir())
    elif exists and is_folder:
        raise UserError(
            f"{path}: is a file; a path without a suffix is written as a folder of PNGs"
        )
    if exists and not overwrite:
        raise UserError(
            f"{path}: exists already; give another path, or --overwrite (in Python overwrite=True)"
        )
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(path.parent, os.W_OK | os.X_OK)
    except OSError as error:
        raise UserError(f"{path}: its folder cannot be made: {one_line(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            for folder in missing:  # from the innermost outwards
                folder.rmdir()
    if not writable:
        raise UserError(
            f"{path}: its folder cannot be written to; give a path in a folder you may write to"
        )
    return path


def write_video(
    path: str | os.PathLike,
    frames: np.ndarray | Stream,
    fps: Fraction | float,
    *,
    overwrite: bool = False,
    sound: Sound | None = None,
    tags: Mapping[str, str] | None = None,
    signing: Signing | None = None,
) -> None:
    """Writes frames in the format of the path's suffix, completely or not at all.

    In an mp4, an odd side is padded by repeating its last row or column, because yuv420p has no odd
    sizes. An mp4 and a folder are written frame by frame, so that a `Stream` may be of any length;
    a gif and a webp are held in memory.

    Args:
      path: ends in `.mp4`, `.gif` or `.webp`; a path without a suffix becomes a folder of
        `00000.png`, …, which does not keep the rate.
      frames: `[n h w 3]` uint8 RGB, n ≥ 1, or a stream of `[h w 3]`.
      fps: frames per second.
      overwrite: whether to replace an existing output.
      sound: what is to be heard; an mp4 alone keeps it.
      tags: texts by name, which `read_tags` reads from the file again. Those of a folder are in
        its first picture.
      signing: what content credentials are signed with; None: the file has none.

    Raises:
      UserError: `check_output` refuses the path, the rate is not positive, or the disk is full.
    """
    as_path(path, "write_video(path, frames, fps)")
    stream = _as_stream(path, frames)
    if not isinstance(fps, numbers.Real) or not 0 < fps <= 1000:
        raise UserError(
            f"{path}: {fps} frames per second; accepted is a rate above 0, at most 1000"
        )
    path, fps = check_output(path, overwrite), Fraction(fps).limit_denominator(65535)
    if not path.suffix:
        if signing:
            raise UserError(f"{path}: a folder of pictures takes no content credentials")
        write_pictures(path, stream, overwrite=overwrite, tags=tags)
        return
    with replacing(path, failures=(OSError, av.FFmpegError)) as part:
        if path.suffix.lower() == ".mp4":
            _write_mp4(part, stream, fps, sound, tags)
        else:
            write = {".gif": write_gif, ".webp": write_webp}[path.suffix.lower()]
            write(part, stream.array(), fps, tags)
        if signing:
            sign_file(part, signing, tags or {})


def _as_stream(path: str | os.PathLike, frames: np.ndarray | Stream) -> Stream:
    """Returns frames as a stream, whose frames are checked as they come.

    Raises:
      UserError: they are no frames.
    """
    if isinstance(frames, Stream):
        return frames
    try:
        frames = np.asarray(frames)
    except ValueError as error:
        raise UserError(f"frames are {one_line(error)}; [n h w 3] uint8 is accepted") from error
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.size == 0:
        given = type(frames.item()).__name__ if frames.ndim == 0 else frames.dtype
        raise UserError(
            f"{path}: frames are {given} {list(frames.shape)}; [n h w 3] uint8 is accepted, n >= 1"
        )
    return Stream.of(frames)


def write_pictures(
    path: str | os.PathLike,
    pictures: Iterable[np.ndarray],
    *,
    overwrite: bool = False,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Writes a folder of PNGs, `00000.png` and so on, completely or not at all.

    Args:
      path: the folder.
      pictures: `[h w 3]` uint8 RGB each, or `[h w]` uint8 or uint16 grey.
      overwrite: whether to replace an existing folder of such PNGs.
      tags: texts by name, for the first picture.

    Raises:
      UserError: `check_output` refuses the path, or the disk is full.
    """
    path = check_output(path, overwrite)
    with replacing(path) as part:
        part.mkdir()
        for index, array in enumerate(pictures):
            options = {"pnginfo": png_tags(tags)} if tags and not index else {}
            Image.fromarray(array).save(part / f"{index:05d}.png", **options)
        if path.is_dir():
            shutil.rmtree(path)  # check_output has found only numbered PNGs in it


# What `write_video` asks of x264. Each half second or so can be decoded alone, so that a section
# can be replaced without touching the rest.
MP4_OPTIONS = {"crf": "17", "preset": "medium", "g": "12", "sc_threshold": "0"}


def _write_mp4(
    path: Path,
    frames: Stream,
    fps: Fraction,
    sound: Sound | None,
    tags: Mapping[str, str] | None,
) -> None:
    write_h264(
        f"file:{path}", map(even_sides, frames), fps, options=MP4_OPTIONS, faststart=True,
        sound=sound, tags=tags,
    )  # fmt: skip
    add_xmp(path, tags or {})


def even_sides(frame: np.ndarray) -> np.ndarray:
    """Returns a frame whose odd sides are longer by a copy of their last pixels, for yuv420p."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def write_h264(
    file: str | IO[bytes],
    frames: Iterable[np.ndarray],
    fps: Fraction,
    *,
    options: Mapping[str, str],
    threads: int = 0,
    faststart: bool = False,
    sound: Sound | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Writes an mp4 of H.264 in BT.709, 4:2:0. All H.264 that the project makes comes from here.

    The colours are tagged as BT.709, because players disagree about the colours of untagged video.

    Args:
      file: an address for ffmpeg, or an open binary file.
      frames: `[h w 3]` uint8 RGB each, h and w even, at least one.
      fps: frames per second.
      options: x264's options, such as `crf` and `preset`.
      threads: number of the encoder's threads; 0 lets x264 choose.
      faststart: whether the index comes before the pictures, so that a browser can play the file
        while it loads.
      sound: what is to be heard.
      tags: texts by name, kept in the container.

    Raises:
      av.FFmpegError: ffmpeg cannot write.
    """
    frames = iter(frames)
    first = next(frames)
    with contextlib.ExitStack() as stack:
        container = stack.enter_context(open_mp4(file, faststart, tags))
        stream = container.add_stream("libx264", rate=fps, options=dict(options))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.thread_count = threads
        context.colorspace, context.color_range = 1, ColorRange.MPEG  # AVCOL_SPC_BT709
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        context.time_base = 1 / fps
        track = Track(container, sound, stack) if sound else None
        for index, array in enumerate(itertools.chain([first], frames)):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(
                format="yuv420p",
                interpolation=SCALER,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
            )
            frame.pts, frame.time_base = index, 1 / fps
            container.mux(stream.encode(frame))
            if track:
                track.write_until((index + 1) / fps)
        container.mux(stream.encode(None))
        if track:
            track.close()


def open_mp4(
    file: str | IO[bytes], faststart: bool, tags: Mapping[str, str] | None
) -> OutputContainer:
    """Opens an mp4 for writing; see `write_h264`."""
    flags = ["faststart"] * faststart + ["use_metadata_tags"] * bool(tags)
    options = {"movflags": "+".join(flags)} if flags else {}
    container = av.open(file, "w", format="mp4", options=options)
    container.metadata.update(tags or {})
    return container
