"""Opens data that hold frames: a rendered world, footage, or a TFDS data set of another project."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gen1_jax.data_pipelines.decoded import Decoded
from gen1_jax.data_pipelines.mixture import Bucket
from gen1_jax.data_pipelines.settings import (
    CLIPS,
    Data,
    Size,
    Source,
    Tfds,
    World,
    check_source,
)
from gen1_jax.errors import UserError


class Records(NamedTuple):
    """Raw examples of one kind and one split.

    Attributes:
      name: name within their data set: the name of the folder that holds them once encoded.
      examples: clips or images by number: frames [n H W 3] uint8, and a caption where there is one.
      size: the (height, width) that images are cropped to; None for clips.
    """

    name: str
    examples: Decoded
    size: Size | None = None


@dataclasses.dataclass(frozen=True)
class RawData:
    """One split of a rendered world or of an ingested folder.

    Attributes:
      folder: where the data are.
      clips: the clips, or None.
      images: the images of each size.
    """

    folder: str
    clips: Records | None
    images: dict[Size, Records]

    def records(self) -> Iterator[Records]:
        """Yields the clips and then the images of each size."""
        if self.clips is not None:
            yield self.clips
        yield from self.images.values()


def open_raw(
    data: Mapping[str, Any] | Source | Data, split: str, *, required: bool = True
) -> list[RawData]:
    """Opens a split of raw data.

    Args:
      data: settings of a form that holds frames, checked or not; its place alone is used.
      split: split to open.
      required: whether each folder of footage must have the split. If not, a folder without it is
        left out.

    Returns:
      The data of each folder.

    Raises:
      UserError: the form is not a raw one, or data are missing.
    """
    if not dataclasses.is_dataclass(data):
        data = check_source(data)
    if isinstance(data, Tfds):
        return _open_tfds(data, split, required)
    if isinstance(data, World):
        from gen1_jax.data_pipelines.moving_shapes.builder import load
        from gen1_jax.data_pipelines.moving_shapes.records import decode_clip

        clips = Decoded(load(data.world, data.builder, split), decode_clip)
        return [RawData(data.world, Records(split, clips), {})]

    from gen1_jax.data_pipelines.footage.reader import open_footage
    from gen1_jax.data_pipelines.footage.records import decode_clip, decode_image

    opened = []
    for folder in (data.folder,) if isinstance(data.folder, str) else data.folder:
        footage = open_footage(folder)
        if split not in footage.splits():
            if required:
                there = ", ".join(footage.splits())
                raise UserError(f"{folder} has no split {split!r}; there: {there}")
            continue
        clips = None
        if footage.has_clips(split):
            clips = Records(f"{CLIPS}/{split}", Decoded(footage.clips(split), decode_clip))
        images = {
            (height, width): Records(
                f"images_{height}x{width}/{split}", Decoded(found, decode_image), (height, width)
            )
            for (height, width), found in footage.images(split).items()
        }
        opened.append(RawData(folder, clips, images))
    return opened


def _open_tfds(data: Tfds, split: str, required: bool) -> list[RawData]:
    from gen1_jax.data_pipelines.tfds_sets import open_tfds

    found = open_tfds(data, split, required)
    if found is None:
        return []
    name, examples, is_video = found
    if is_video:
        return [RawData(name, Records(f"{CLIPS}/{split}", examples), {})]
    if not data.image_buckets:
        raise UserError(f"{name} holds images; data.image_buckets names the sizes to crop them to")
    sizes = {
        (height, width): Records(f"images_{height}x{width}/{split}", examples, (height, width))
        for height, width in data.image_buckets
    }
    return [RawData(name, None, sizes)]


def make_buckets(
    opened: Sequence[RawData],
    *,
    buckets: Sequence[Size],
    weights: Sequence[float] | None = None,
    image_buckets: Sequence[Size] | None = None,
    image_weights: Sequence[float] | None = None,
) -> tuple[list[Bucket], list[Bucket]]:
    """Returns the buckets of videos and those of images that raw data are read in.

    Args:
      opened: the data; each holds clips, images or both.
      buckets: sizes of video batches, which take turns.
      weights: share of each of `opened` in what is read; by default, its number of records.
      image_buckets: sizes of image batches; by default, all sizes of which there are images. A
        size without images is left out with a warning.
      image_weights: share of each of `image_buckets` among image batches. By default, its number
        of records, so that every image is read equally often.

    Returns:
      Buckets of videos and buckets of images. If there are no images, the image buckets are frames
      of the clips where `image_buckets` gives sizes, and [] otherwise.

    Raises:
      UserError: there are images, but of none of the sizes; or weights are wrong.
    """
    if not opened or len(weights or opened) != len(opened):
        raise UserError(f"{len(opened)} folders of footage and {len(weights or ())} weights")
    clips: list[tuple[Decoded, float]] = []
    images: dict[Size, list[tuple[Decoded, float]]] = {}
    for each, weight in zip(opened, weights or [None] * len(opened), strict=True):
        if each.clips is not None:
            examples = each.clips.examples
            clips.append((examples, len(examples) if weight is None else weight))
        total = sum(len(records.examples) for records in each.images.values())
        for size, (_, examples, _) in each.images.items():
            share = len(examples) if weight is None else weight * len(examples) / total
            images.setdefault(size, []).append((examples, share))

    def bucket(size: Size, sources: Sequence[tuple[Decoded, float]], share: float) -> Bucket:
        return Bucket(tuple(size), [s for s, _ in sources], [w for _, w in sources], share)

    videos = [bucket(size, clips, 1.0) for size in buckets] if clips else []
    sizes = [tuple(size) for size in (image_buckets or images)]
    if clips and not images:
        images = dict.fromkeys(sizes, clips)
    if image_weights and len(image_weights) != len(sizes):
        raise UserError(f"{len(image_weights)} image_weights for {len(sizes)} image_buckets")
    kept = [size in images for size in sizes]
    if not all(kept):
        where = ", ".join(each.folder for each in opened)
        missing = " or ".join(str(s) for s, is_kept in zip(sizes, kept, strict=True) if not is_kept)
        said = f"no images of {missing} in {where}; of {sorted(images)}"
        if not any(kept):
            raise UserError(said)
        warnings.warn(f"{said}: the others are read", stacklevel=3)
    shares = image_weights or [sum(share for _, share in images.get(size, ())) for size in sizes]
    return videos, [
        bucket(size, images[size], share)
        for size, share, is_kept in zip(sizes, shares, kept, strict=True)
        if is_kept
    ]
