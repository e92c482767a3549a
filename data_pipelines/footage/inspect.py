"""Data folders as `gen1 inspect` sees them: sections of numbers, and items to look at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from gen1_jax.data_pipelines.encoded.reader import EncodedSource
from gen1_jax.data_pipelines.encoded.writer import META
from gen1_jax.data_pipelines.footage.reader import CLIPS, IMAGES, VERSION, Footage, open_footage
from gen1_jax.data_pipelines.footage.records import decode_clip, decode_image
from gen1_jax.data_pipelines.footage.summary import pick, read_reports, summarize
from gen1_jax.errors import UserError
from gen1_jax.video import pictures
from gen1_jax.video.io import fit_size, resize_frame, write_video

HEIGHT = 128  # of an item in the pictures, pixels
_WIDTH = 1900  # of the contact sheet, about
_FRAMES = 4  # of a clip on the contact sheet
_SECONDS = 6  # of the mosaic, at least
_ENCODED_FPS = 6.0  # of encoded clips, which hold no times


class Item(NamedTuple):
    """Something to look at: a label, frames [n h w 3] uint8 and frames per second."""

    label: str
    frames: np.ndarray
    fps: float | None = None


def open_data(folder: Path) -> "IngestedFolder | EncodedFolder":
    """UserError where it is neither ingested nor encoded."""
    if any((folder / kind / VERSION).is_dir() for kind in (CLIPS, IMAGES)):
        return IngestedFolder(open_footage(folder))
    places = (META, f"*/{META}", f"*/*/{META}")
    if parts := sorted(path.parent for place in places for path in folder.glob(place)):
        return EncodedFolder(folder, parts)
    raise UserError(
        f"{folder}: neither ingested nor encoded data; accepted: a folder that `gen1 ingest` or "
        "`gen1 precompute` has finished"
    )


class IngestedFolder:
    """Clips and images as `gen1 ingest` stored them."""

    def __init__(self, footage: Footage):
        self._footage, self.splits = footage, footage.splits()

    def summarize(self, limit: int | None, seed: int) -> dict[str, Any]:
        with tqdm(desc="looking", unit="record", disable=None, leave=False) as bar:
            sections = summarize(self._footage, limit=limit, seed=seed, progress=bar.update)
        reports = read_reports(self._footage.folder)
        return {"data": str(self._footage.folder), "sections": sections, "reports": reports}

    def table(self, summary: dict[str, Any]) -> str:
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
                f"Beside the counts, of {looked:,} records drawn at random; --all reads each."
            )
        for kind, report in summary["reports"].items():
            dropped = ", ".join(f"{n:,} {why}" for why, n in report.get("dropped", {}).items())
            lines.append(
                f"{kind}: {report.get('used', 0):,} of {report.get('inputs', 0):,} inputs used; "
                f"dropped: {dropped or 'none'}"
            )
        return "\n".join(lines)

    def draw(self, split: str, count: int, seed: int) -> list[Item]:
        """Random clips and images, in proportion to their numbers, each kind at least once."""
        parts = [(records, decode_image) for records in self._footage.images(split).values()]
        if self._footage.has_clips(split):
            parts.insert(0, (self._footage.clips(split), decode_clip))
        total = sum(len(records) for records, _ in parts)
        items = []
        for records, decode in parts:
            share = max(1, round(count * len(records) / total))
            for index in pick(len(records), share, seed):
                try:
                    items.append(_item(index, decode(records[index])))
                except UserError:  # counted in the table
                    continue
        return items[:count] if len(parts) == 1 else items


class EncodedFolder:
    """Clips and images as `gen1 precompute` stored them; a folder each, with a meta.json."""

    def __init__(self, folder: Path, parts: Sequence[Path]):
        self._folder = folder
        self._parts = {str(part.relative_to(folder)): part for part in parts}
        self.splits = sorted(self._parts, key=lambda name: "train" not in name)

    def summarize(self, limit: int | None, seed: int) -> dict[str, Any]:
        sections = []
        for name, part in self._parts.items():
            source = EncodedSource(part)
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
        return _aligned(rows)

    def draw(self, split: str, count: int, seed: int) -> list[Item]:
        """Random clips: three channels of their latents as colours."""
        source = EncodedSource(self._parts[split])
        return [
            Item(f"#{i}", _false_colours(source[i]["latents"]), _ENCODED_FPS)
            for i in pick(len(source), count, seed)
        ]


def show(items: Sequence[Item], out: Path) -> list[Path]:
    """Writes out/contact_sheet.png and out/mosaic.mp4; replaces what is there."""
    if not items:
        raise UserError("no item can be shown: all that were drawn are damaged")
    small = [item._replace(frames=_to_height(item.frames)) for item in items]
    sheet, film = out / "contact_sheet.png", out / "mosaic.mp4"
    pictures.save_image(sheet, pictures.contact_sheet(_rows(small), _FRAMES, scale=1))
    rates = [item.fps for item in small if item.fps]
    fps = float(np.median(rates)) if rates else 1.0
    frames = pictures.mosaic([item.frames for item in small])
    again = max(1, round(_SECONDS * fps / len(frames)))
    write_video(film, np.concatenate([frames] * again), fps, overwrite=True)
    return [sheet, film]


def _rows(items: Sequence[Item]) -> list[dict[str, np.ndarray]]:
    """As many items in a row as fit; labels begin with a number, so each is another."""
    rows: list[dict[str, np.ndarray]] = []
    room = 0
    for number, item in enumerate(items, 1):
        width = item.frames.shape[2] * min(_FRAMES, len(item.frames))
        if width > room:
            rows.append({})
            room = _WIDTH
        rows[-1][f"{number} · {item.label}"] = item.frames
        room -= width
    return rows


def _item(index: int, clip: dict[str, Any]) -> Item:
    label = clip["caption"] or clip["source"]
    times = clip.get("times")
    if times is None or len(times) < 2 or times[-1] <= times[0]:
        return Item(label, clip["frames"])
    if not clip["caption"]:
        label = f"{label} at {times[0]:.1f} s"
    return Item(label, clip["frames"], (len(times) - 1) / float(times[-1] - times[0]))


def _to_height(frames: np.ndarray) -> np.ndarray:
    height, width = frames.shape[1:3]
    size = (HEIGHT, fit_size(HEIGHT, width * HEIGHT / height, 1)[1])
    return np.stack([resize_frame(frame, size) for frame in frames])


def _false_colours(latents: np.ndarray) -> np.ndarray:
    """Latents [n h w c] -> [n h w 3] uint8, the range of each channel filled."""
    planes = latents[..., [0, 1, 2]] if latents.shape[-1] >= 3 else latents[..., [0, 0, 0]]
    planes = planes.astype(np.float32)
    low, high = np.percentile(planes, (1, 99), axis=(0, 1, 2))
    unit = np.clip((planes - low) / np.maximum(high - low, 1e-6), 0, 1)
    return (unit * 255).round().astype(np.uint8)


def _common(counts: dict[str, int]) -> str:
    """The most common one, and how many others there are."""
    most, *others = counts
    return f"{most} and {len(others)} others" if others else most


def _range(values: dict[str, float]) -> str:
    low, high = (f"{values[name]:.3g}" for name in ("min", "max"))
    return low if low == high else f"{low} to {high}"


def _aligned(rows: list[list[str]]) -> str:
    """A table; the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    kept = [i for i, width in enumerate(widths) if width]
    return "\n".join(
        "  ".join(row[i].rjust(widths[i]) if i else row[i].ljust(widths[i]) for i in kept).rstrip()
        for row in rows
    )
