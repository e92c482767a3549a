"""What an ingested folder holds, in numbers: counts, sizes, durations, captions, sources."""

from __future__ import annotations

import io
import json
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from gen1_jax.data_pipelines.footage.reader import CLIPS, IMAGES, Footage, Records
from gen1_jax.errors import UserError

LOOKED_AT = 1000  # records of each part, by default


def summarize(
    footage: Footage,
    *,
    limit: int | None = LOOKED_AT,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """A section for the clips and for each bucket of images of every split.

    Args:
        footage: the folder.
        limit: records looked into, of each section, drawn at random; None for all. Counts are
            exact anyway.
        seed: of the draw.
        progress: told of each record that was looked into.

    Returns:
        Sections of: kind, split, bucket (images: [height, width], else None), count, and of the
        records looked into: looked_at, damaged, bytes (mean), sizes ({"256x448": n}), captions
        (share), caption_words (median, of captions), sources (distinct); of clips also frames
        ({"8": n}), seconds (from the first frame's begin to the last one's end: min, median, max)
        and hours (of all, estimated).
    """
    sections = []
    for split in footage.splits():
        parts: list[tuple[str, Any, Records]] = []
        if footage.has_clips(split):
            parts.append((CLIPS, None, footage.clips(split)))
        parts += [(IMAGES, size, records) for size, records in footage.images(split).items()]
        for kind, size, records in parts:
            place = {"kind": kind, "split": split, "bucket": size and list(size)}
            looked = [_look(kind, records, i, progress) for i in pick(len(records), limit, seed)]
            sections.append({**place, "count": len(records), **_describe(looked, len(records))})
    return sections


def pick(count: int, limit: int | None, seed: int) -> list[int]:
    """Distinct numbers below `count`, at random and in order; at most `limit` of them."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, limit, replace=False).tolist())


def read_reports(folder: Path) -> dict[str, dict]:
    """What `gen1 ingest` reported of each kind, where its reports are there."""
    reports = {}
    for kind in (CLIPS, IMAGES):
        try:
            reports[kind] = json.loads((folder / kind / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return reports


def _look(
    kind: str, records: Records, index: int, progress: Callable[[int], None]
) -> dict[str, Any] | None:
    """What is to be known of a record without decoding its pictures; None if it is damaged."""
    progress(1)
    try:
        record = records[index]
        if kind == CLIPS:
            with av.open(io.BytesIO(record["video"]), format="mp4") as container:
                codec = container.streams.video[0].codec_context
                if codec is None:  # this build of ffmpeg has no decoder for it
                    return None
                size = codec.height, codec.width
            times = np.frombuffer(record["times"], "<f8")
            own = {"bytes": len(record["video"]), "frames": len(times), "seconds": _span(times)}
        else:
            with Image.open(io.BytesIO(record["image"])) as image:
                size = image.height, image.width
            own = {"bytes": len(record["image"])}
    except (UserError, av.FFmpegError, OSError, ValueError, IndexError):
        return None
    caption, source = record["caption"].decode(), record["source"].decode()
    return {**own, "size": f"{size[0]}x{size[1]}", "words": len(caption.split()), "source": source}


def _span(times: np.ndarray) -> float:
    """Seconds; the last frame is shown for as long as the others, on average."""
    n = len(times)
    return float(times[-1] - times[0]) * n / (n - 1) if n > 1 else 0.0


def _describe(looked: list[dict | None], count: int) -> dict[str, Any]:
    whole = [one for one in looked if one is not None]
    section: dict[str, Any] = {"looked_at": len(looked), "damaged": len(looked) - len(whole)}
    if not whole:
        return section
    words = [one["words"] for one in whole if one["words"]]
    section |= {
        "bytes": round(statistics.mean(one["bytes"] for one in whole)),
        "sizes": dict(Counter(one["size"] for one in whole).most_common()),
        "captions": round(len(words) / len(whole), 4),
        "caption_words": statistics.median(words) if words else None,
        "sources": len({one["source"] for one in whole}),
    }
    if "frames" in whole[0]:
        seconds = [one["seconds"] for one in whole]
        section["frames"] = dict(Counter(str(one["frames"]) for one in whole).most_common())
        section["seconds"] = {
            name: round(function(seconds), 3)
            for name, function in (("min", min), ("median", statistics.median), ("max", max))
        }
        section["hours"] = round(statistics.mean(seconds) * count / 3600, 3)
    return section
