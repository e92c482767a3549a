"""Looks at a folder of data for `gen1 inspect`: numbers in sections, a table, and random items."""

from __future__ import annotations

import io
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from gen1_jax.data_pipelines.encoded.reader import EncodedSource
from gen1_jax.data_pipelines.encoded.writer import JOB, META
from gen1_jax.data_pipelines.footage.keys import TRAIN, VALIDATION
from gen1_jax.data_pipelines.footage.reader import (
    CLIPS,
    IMAGES,
    VERSION,
    Footage,
    open_footage,
)
from gen1_jax.data_pipelines.footage.records import decode_clip, decode_image
from gen1_jax.data_pipelines.footage.report import REPORT, notes
from gen1_jax.data_pipelines.footage.showing import Item
from gen1_jax.data_pipelines.tfds_records import TfdsRecords
from gen1_jax.errors import UserError
from gen1_jax.files import read_json
from gen1_jax.video.containers import open_bytes

LOOKED_AT = 1000  # records of each section that are looked into by default
_ACCEPTED = "accepted: a folder that `gen1 ingest` or `gen1 precompute` has finished"
_ENCODED_FPS = 6.0  # rate at which encoded clips are shown, because they hold no times


def open_data(folder: Path) -> IngestedFolder | EncodedFolder:
    """Opens a folder of ingested or encoded data.

    Raises:
      UserError: the folder is neither.
    """
    if any((folder / kind / VERSION).is_dir() for kind in (CLIPS, IMAGES)):
        return IngestedFolder(open_footage(folder))

    def find(name: str) -> list[Path]:
        """Returns the folders of that file; a search of the whole tree might take hours."""
        places = (name, f"*/{name}", f"*/*/{name}")
        return sorted(path.parent for place in places for path in folder.glob(place))

    if found := find(META):
        return EncodedFolder(folder, found)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {_ACCEPTED}")
    is_ingest = any(folder.glob(".ingest_*"))
    if is_ingest or find(JOB):
        command = "ingest" if is_ingest else "precompute"
        raise UserError(
            f"{folder} is not finished; give the same `gen1 {command}` command once more, which "
            "goes on where it was"
        )
    if (folder / VERSION).is_dir():  # the clips or the images of a data set
        raise UserError(f"{folder} is a part of {folder.parent}; give {folder.parent}")
    raise UserError(
        f"{folder}: neither ingested nor encoded data; {_ACCEPTED}. Videos and images themselves "
        "are made into one by: gen1 ingest clips SRC --out DATA"
    )


def pick(count: int, limit: int | None, seed: int) -> list[int]:
    """Returns at most `limit` distinct random numbers below `count`, in order."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, limit, replace=False).tolist())


# ---- what `gen1 ingest` stored


class IngestedFolder:
    """Clips and images as `gen1 ingest` stored them.

    Attributes:
      splits: names of the splits.
    """

    def __init__(self, footage: Footage):
        self._footage, self.splits = footage, footage.splits()

    def summarize(self, limit: int | None = LOOKED_AT, seed: int = 0) -> dict[str, Any]:
        """Returns the numbers of the folder: `data`, `sections` and the `reports` of ingests.

        Args:
          limit: number of records to look into in each section, drawn at random; None for all.
          seed: seed of the draw.
        """
        with tqdm(desc="looking", unit="record", disable=None, leave=False) as bar:
            sections = _summarize(self._footage, limit, seed, bar.update)
        reports = _read_reports(self._footage.folder)
        return {"data": str(self._footage.folder), "sections": sections, "reports": reports}

    def table(self, summary: dict[str, Any]) -> str:
        """Returns a summary as a table for people."""
        rows = [["", "count", "kB each", "frames", "height x width", "seconds", "captions",
                 "sources", "damaged"]]  # fmt: skip
        for s in summary["sections"]:
            bucket = f" {s['bucket'][0]}x{s['bucket'][1]}" if s["bucket"] else ""
            row = [f"{s['kind']} {s['split']}{bucket}", f"{s['count']:,}"]
            if "bytes" in s:
                span = s.get("seconds")
                words = f", {s['caption_words']:g} words" if s["captions"] else ""
                row += [
                    f"{s['bytes'] / 1000:.1f}",
                    _common(s["frames"]) if span else "",
                    _common(s["sizes"]),
                    f"{_range(span)}, {s['hours']:g} h in all" if span else "",
                    f"{100 * s['captions']:.0f} %{words}",
                    f"{s['sources']:,}",
                ]
            rows.append([*row, *[""] * (8 - len(row)), str(s["damaged"])])
        lines = [_aligned(rows)]
        looked = sum(s["looked_at"] for s in summary["sections"])
        count = sum(s["count"] for s in summary["sections"])
        if looked < count:
            lines.append(
                f"All but the counts are taken from {looked:,} records drawn at random; --all "
                "reads every "
                "record."
            )
        for kind, report in summary["reports"].items():
            dropped = ", ".join(f"{n:,} {why}" for why, n in report.get("dropped", {}).items())
            lines.append(
                f"{kind}: {report.get('used', 0):,} of {report.get('inputs', 0):,} inputs used; "
                f"dropped: {dropped or 'none'}"
            )
        for kind in dict.fromkeys(s["kind"] for s in summary["sections"]):
            splits = [s["split"] for s in summary["sections"] if s["kind"] == kind]
            lines += [f"{kind}: {note}" for note in notes(splits, summary["reports"].get(kind))]
        return "\n".join(lines)

    def draw(self, split: str, count: int, seed: int) -> list[Item]:
        """Draws random clips and images in proportion to their numbers, at least one of each."""
        kinds = [(records, decode_image) for records in self._footage.images(split).values()]
        if self._footage.has_clips(split):
            kinds.insert(0, (self._footage.clips(split), decode_clip))
        total = sum(len(records) for records, _ in kinds)
        items = []
        for records, decode in kinds:
            share = max(1, round(count * len(records) / total))
            for index in pick(len(records), share, seed):
                try:
                    items.append(_item(index, decode(records[index])))
                except UserError:  # a damaged record, which the table counts
                    continue
        return items[:count] if len(kinds) == 1 else items


def _summarize(
    footage: Footage, limit: int | None, seed: int, progress: Callable[[int], Any]
) -> list[dict[str, Any]]:
    """Returns a section for the clips of each split, and for each size of its images.

    Each section holds `kind`, `split`, `bucket` ([height, width] of images, None for clips) and
    `count`, which is exact. The following numbers are those of the records looked into:
    `looked_at`, `damaged`, `bytes` (mean), `sizes` ({"256x448": count}), `captions` (share),
    `caption_words` (median over captions), `sources` (distinct ones). Clips also have `frames`
    ({"8": count}), `seconds` (min, median and max from the begin of the first frame to the end of
    the last one) and `hours` (of all clips, estimated).
    """
    sections = []
    for split in footage.splits():
        found: list[tuple[str, Any, TfdsRecords]] = []
        if footage.has_clips(split):
            found.append((CLIPS, None, footage.clips(split)))
        found += [(IMAGES, size, records) for size, records in footage.images(split).items()]
        for kind, size, records in found:
            place = {"kind": kind, "split": split, "bucket": size and list(size)}
            looked = [_look(kind, records, i, progress) for i in pick(len(records), limit, seed)]
            sections.append({**place, "count": len(records), **_describe(looked, len(records))})
    return sections


def _look(
    kind: str, records: TfdsRecords, index: int, progress: Callable[[int], Any]
) -> dict[str, Any] | None:
    """Returns what is known of a record without decoding its pictures; None if it is damaged."""
    progress(1)
    try:
        record = records[index]
        if kind == CLIPS:
            with open_bytes(io.BytesIO(record["video"]), "mp4") as container:
                codec = container.streams.video[0].codec_context
                if codec is None:  # this build of ffmpeg has no decoder for it
                    return None
                size = codec.height, codec.width
            times = np.frombuffer(record["times"], "<f8")
            own = {"bytes": len(record["video"]), "frames": len(times), "seconds": _span(times)}
        else:
            with Image.open(io.BytesIO(record["image"]), formats=("JPEG", "PNG", "WEBP")) as image:
                size = image.height, image.width
            own = {"bytes": len(record["image"])}
    except (UserError, av.FFmpegError, OSError, ValueError, IndexError):
        return None
    caption, source = record["caption"].decode(), record["source"].decode()
    return {**own, "size": f"{size[0]}x{size[1]}", "words": len(caption.split()), "source": source}


def _span(times: np.ndarray) -> float:
    """Returns a clip's duration in seconds; the last frame lasts as long as the others' mean."""
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


def _read_reports(folder: Path) -> dict[str, dict]:
    """Returns the reports of `gen1 ingest` that are there, by kind."""
    reports = {}
    for kind in (CLIPS, IMAGES):
        try:
            report = read_json(folder / kind / REPORT)
        except UserError:  # damaged
            continue
        if report is not None:
            reports[kind] = report
    return reports


def _item(index: int, clip: dict[str, Any]) -> Item:
    label = clip["caption"] or clip["source"]
    times = clip.get("times")
    if times is None or len(times) < 2 or times[-1] <= times[0]:
        return Item(label, clip["frames"])
    if not clip["caption"]:
        label = f"{label} at {times[0]:.1f} s"
    return Item(label, clip["frames"], (len(times) - 1) / float(times[-1] - times[0]))


# ---- what `gen1 precompute` stored


class EncodedFolder:
    """Clips and images as `gen1 precompute` stored them, in sub-folders with a meta.json each.

    Attributes:
      splits: names of the sub-folders, those of training first.
    """

    def __init__(self, folder: Path, found: Sequence[Path]):
        self._folder = folder
        self._found = {str(path.relative_to(folder)): path for path in found}
        self.splits = sorted(self._found, key=lambda name: "train" not in name)

    def summarize(self, limit: int | None = None, seed: int = 0) -> dict[str, Any]:
        """Returns the numbers of the folder; they need no look into records."""
        sections = []
        for name, path in self._found.items():
            source = EncodedSource(path)
            layout = source.layout
            sections.append(
                {
                    "part": name,
                    "count": len(source),
                    "bytes": layout.size,
                    "precision": layout.precision,
                    "fields": {field: list(shape) for field, shape in layout.shapes},
                }
            )
        return {"data": str(self._folder), "sections": sections}

    def table(self, summary: dict[str, Any]) -> str:
        """Returns a summary as a table for people."""
        rows = [["", "count", "kB each", "GB", "precision", "latents", "levels", "captions"]]
        for s in summary["sections"]:
            fields = s["fields"]
            rows.append(
                [
                    s["part"],
                    f"{s['count']:,}",
                    f"{s['bytes'] / 1000:.1f}",
                    f"{s['count'] * s['bytes'] / 1e9:.3f}",
                    s["precision"],
                    "x".join(map(str, fields["latents"])),
                    str(fields["levels"][0]),
                    "yes" if "tokens" in fields else "no",
                ]
            )
        lines = [_aligned(rows)]
        if TRAIN in " ".join(self._found) and VALIDATION not in " ".join(self._found):
            lines.append(
                "no validation split: training on this folder measures no held-out loss; it takes "
                "raw data that have one"
            )
        return "\n".join(lines)

    def draw(self, split: str, count: int, seed: int) -> list[Item]:
        """Draws random clips; three channels of their latents serve as colours."""
        source = EncodedSource(self._found[split])
        return [
            Item(f"#{i}", _false_colours(source[i]["latents"]), _ENCODED_FPS)
            for i in pick(len(source), count, seed)
        ]


def _false_colours(latents: np.ndarray) -> np.ndarray:
    """Returns latents [n h w c] as pictures [n h w 3] uint8, each channel over its full range."""
    planes = latents[..., [0, 1, 2]] if latents.shape[-1] >= 3 else latents[..., [0, 0, 0]]
    planes = planes.astype(np.float32)
    low, high = np.percentile(planes, (1, 99), axis=(0, 1, 2))
    unit = np.clip((planes - low) / np.maximum(high - low, 1e-6), 0, 1)
    return (unit * 255).round().astype(np.uint8)


# ---- tables


def _common(counts: dict[str, int]) -> str:
    """Returns the most common value, and how many others there are."""
    most, *others = counts
    return f"{most} and {len(others)} others" if others else most


def _range(values: dict[str, float]) -> str:
    low, high = (f"{values[name]:.3g}" for name in ("min", "max"))
    return low if low == high else f"{low} to {high}"


def _aligned(rows: list[list[str]]) -> str:
    """Returns a table whose first column is aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    kept = [i for i, width in enumerate(widths) if width]
    return "\n".join(
        "  ".join(row[i].rjust(widths[i]) if i else row[i].ljust(widths[i]) for i in kept).rstrip()
        for row in rows
    )
