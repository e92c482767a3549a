"""Opens containers by ffmpeg: self-contained ones alone, so that no file makes it read another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, BinaryIO

import av

from gen1_jax.errors import one_line
from gen1_jax.video.sources import ACCEPTED, Unreadable

# Demuxers that read their own file and nothing else. ffmpeg knows a format by its content, whatever
# the file's name, and some formats are texts that name other files: playlists (HLS, DASH, ffconcat,
# SDP, …), scripts and patterns of names. Those are not here. One name of a demuxer stands for all.
_VIDEO = (
    "mov matroska avi mpegts mpeg mpegvideo m4v h261 h263 h264 hevc vvc evc av1 obu ivf flv "
    "live_flv kux asf ogg mxf gxf dv nut rm wtv nsv nuv vc1 vc1test cavsvideo avs2 avs3 dirac "
    "dnxhd yuv4mpegpipe mjpeg mjpeg_2000 smjpeg amv swf roq smk bink flic pva pmp ty ser cine apv"
)
_PICTURES = (
    "gif apng jpegxl_pipe jpegxl_anim j2k_pipe exr_pipe dpx_pipe ppm_pipe pgm_pipe pam_pipe "
    "psd_pipe sgi_pipe qoi_pipe hdr_pipe"
)
_SOUND = "mp3 wav w64 flac aac ac3 eac3 amr aiff caf au ape tta wv dts"  # refused in its own words
_ALLOWED = {
    "format_whitelist": ",".join(f"{_VIDEO} {_PICTURES} {_SOUND}".split()),
    "protocol_whitelist": "file",
}
_LISTS = {
    "an HLS playlist": rb"#EXTM3U",
    "an ffconcat list": rb"ffconcat\s+version",
    "a DASH manifest": rb"(<\?xml[^>]*>)?\s*<MPD[\s>]",
    "an SDP description": rb"v=0\s",
    "a playlist": rb"\[playlist\]|\[reference\]|<asx|<smil",
}
MAX_PIXELS = 178_956_970  # of a picture; Pillow refuses larger images, too


def open_container(path: Path) -> Any:
    """Opens a file of sound or moving pictures by PyAV.

    Raises:
      Unreadable: the file cannot be opened, or is of no kind that is accepted.
    """
    try:
        # With "file:" ffmpeg does not interpret a colon or a percent sign in the name.
        return av.open(f"file:{path}", metadata_errors="replace", options=dict(_ALLOWED))
    except (av.FFmpegError, OSError, ValueError, OverflowError) as error:
        raise _refusal(path, error) from error


def open_bytes(file: BinaryIO, demuxer: str) -> Any:
    """Opens a film of this program's own kind, in memory or in an open file, by PyAV.

    Raises:
      av.FFmpegError: the film is damaged.
    """
    return av.open(file, format=demuxer, options=dict(_ALLOWED))


def _refusal(path: Path, error: Exception) -> Unreadable:
    """Says why ffmpeg does not open a file."""
    if isinstance(error, PermissionError | FileNotFoundError | IsADirectoryError):
        return Unreadable("cannot be opened", f"{path}: cannot be read: {one_line(error)}")
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as unread:
        return Unreadable("cannot be opened", f"{path}: cannot be read: {one_line(unread)}")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for what, pattern in _LISTS.items():
        if re.match(pattern, text, re.IGNORECASE):
            return Unreadable(
                "playlist",
                f"{path}: {what}, which names other files, is not read; {ACCEPTED}",
            )
    if head[4:8] in (b"ftyp", b"mdat", b"wide", b"free") and isinstance(error, av.InvalidDataError):
        return Unreadable(
            "unfinished file",
            f"{path}: an mp4 without its index (no moov atom): cut off, or never finished",
        )
    why = (
        ""
        if isinstance(error, av.InvalidDataError | av.EOFError | av.ArgumentError)
        else (f": {one_line(error)}")
    )
    return Unreadable("not a video", f"{path}: not a video{why}; {ACCEPTED}")
