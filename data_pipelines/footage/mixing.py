"""Ingested folders as the buckets that `mixture.make_dataset` mixes."""

from __future__ import annotations

from collections.abc import Sequence

from gen1_jax.data_pipelines.decoded import Decoded
from gen1_jax.data_pipelines.footage.reader import open_footage
from gen1_jax.data_pipelines.footage.records import decode_clip, decode_image
from gen1_jax.data_pipelines.mixture import Bucket
from gen1_jax.errors import UserError

Size = tuple[int, int]  # (height, width)


def make_buckets(
    folders: Sequence[str],
    split: str,
    *,
    buckets: Sequence[Size],
    weights: Sequence[float] | None = None,
    image_buckets: Sequence[Size] | None = None,
    image_weights: Sequence[float] | None = None,
) -> tuple[list[Bucket], list[Bucket]]:
    """Buckets of videos and of images.

    Args:
        folders: that `gen1 ingest` wrote; clips, images or both in each.
        split: of each.
        buckets: sizes of video batches, taken in turn.
        weights: the share of each folder in what is read; by default by number of records.
        image_buckets: sizes of image batches; by default all that hold images.
        image_weights: the share of each of `image_buckets` among image batches; by default by
            number of records, so that every image is read as often.

    Returns:
        Videos and images. Images are [] where no folder has any, unless sizes are given for them:
        they are then frames of the clips.

    Raises:
        UserError: a folder without a record of the split, a size without images, wrong weights.
    """
    if not folders or len(weights or folders) != len(folders):
        raise UserError(f"{len(folders)} folders of footage and {len(weights or ())} weights")
    weights = weights or [None] * len(folders)
    clips: list[tuple[Decoded, float]] = []
    images: dict[Size, list[tuple[Decoded, float]]] = {}
    for folder, weight in zip(folders, weights, strict=True):
        footage = open_footage(folder)
        if split not in footage.splits():
            raise UserError(f"{folder} has no split {split!r}; it has {footage.splits()}")
        if footage.has_clips(split):
            records = footage.clips(split)
            share = len(records) if weight is None else weight
            clips.append((Decoded(records, decode_clip), share))
        found = footage.images(split)
        total = sum(map(len, found.values()))
        for size, records in found.items():
            share = len(records) if weight is None else weight * len(records) / total
            images.setdefault(size, []).append((Decoded(records, decode_image), share))

    def bucket(size: Size, sources: Sequence[tuple[Decoded, float]], share: float) -> Bucket:
        return Bucket(tuple(size), [s for s, _ in sources], [w for _, w in sources], share)

    videos = [bucket(size, clips, 1.0) for size in buckets] if clips else []
    sizes = [tuple(size) for size in (image_buckets or images)]
    if clips and not images:
        images = dict.fromkeys(sizes, clips)
    if missing := [size for size in sizes if size not in images]:
        raise UserError(f"no images of {missing[0]} in {', '.join(folders)}; of {sorted(images)}")
    by_count = [sum(share for _, share in images[size]) for size in sizes]
    shares = list(image_weights or by_count)
    if len(shares) != len(sizes):
        raise UserError(f"{len(shares)} image_weights for {len(sizes)} image_buckets")
    return videos, [
        bucket(*each) for each in zip(sizes, map(images.get, sizes), shares, strict=True)
    ]
