"""The folders of encoded data: where clips and images lie, and what sizes they have.

`gen1 precompute` writes the clips of a world to its part's folder itself, in one folder for each
split. It writes those of footage to `clips/SPLIT`, and images to `images_HxW/SPLIT`, where H and W
are in pixels.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gen1_jax.data_pipelines.encoded.reader import EncodedSource, read_meta
from gen1_jax.data_pipelines.encoded.writer import PACE
from gen1_jax.data_pipelines.mixture import IMAGE_FRACTION
from gen1_jax.data_pipelines.settings import CLIPS, ENCODED, TRAIN, VALIDATION, EncodedData, Size
from gen1_jax.data_pipelines.shards import ShardCache
from gen1_jax.errors import UserError
from gen1_jax.files import as_path
from gen1_jax.structure_settings import StructureRecipe, read_recipe


def find_encoded(settings: EncodedData) -> tuple[str | None, tuple[str, ...]]:
    """Returns the folder of the encoded clips, if there are any, and those of encoded images."""
    folder, images = as_path(settings.folder), settings.image_folders
    inner = folder / CLIPS
    clips = folder if _find_split(folder) else inner if inner.is_dir() else None
    if images is None:
        found = {}
        for path in folder.glob("images_*x*"):
            if (match := re.fullmatch(r"images_(\d+)x(\d+)", path.name)) and path.is_dir():
                found[int(match[1]), int(match[2])] = str(path)
        images = tuple(found[size] for size in sorted(found))
    return (None if clips is None else str(clips)), images


def find_sizes(settings: EncodedData) -> dict[str, Any]:
    """Returns values of the settings that follow from the data, by name.

    Raises:
      UserError: there are no encoded data, or no clips although clips are wanted.
    """
    clips, images = find_encoded(settings)
    if clips is None and not (images and settings.image_fraction in (None, 1)):
        raise UserError(
            f"{settings.folder} holds no encoded clips{'' if images else ' or images'}; "
            f"`gen1 precompute --config NAME:encoded --workdir {_part_folder(settings.folder)}` "
            "makes them of what `gen1 ingest` wrote"
        )
    found: dict[str, Any] = {"image_folders": images}
    if settings.image_fraction is None:
        found["image_fraction"] = IMAGE_FRACTION if clips else 1.0
    if settings.num_frames is None or settings.buckets is None:
        n, size = 1, []
        if clips is not None:
            n, *size, _ = _read_shapes(clips)["latents"]
        found |= {"num_frames": n, "buckets": (tuple(size),) if size else ()}
    if settings.image_buckets is None and all(map(_find_split, images)):
        found["image_buckets"] = tuple(_read_shapes(folder)["latents"][1:3] for folder in images)
    return found


def read_shapes(settings: EncodedData) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each stored field of the encoded clips or, without clips, of images.

    Raises:
      UserError: there are no encoded data.
    """
    clips, images = find_encoded(settings)
    for folder in filter(None, (clips, *images)):
        if _find_split(folder):
            return _read_shapes(folder)
    raise UserError(f"{settings.folder} holds no encoded data")


def read_pace(settings: EncodedData) -> dict[str, Any]:
    """Returns `stride` and `frame_rate` of the encoded clips, as far as they are known.

    They are not known of images, and of clips that an earlier version encoded.
    """
    clips, _ = find_encoded(settings)
    split = _find_split(clips) if clips else None
    return dict(read_meta(split).get(PACE, {})) if split else {}


def find_recipe(settings: EncodedData) -> StructureRecipe:
    """Returns how the encoded structure was made.

    Raises:
      UserError: there are no encoded data, or folders of one data set differ.
    """
    clips, images = find_encoded(settings)
    splits = filter(None, map(_find_split, filter(None, (clips, *images))))
    found = {split: read_recipe(read_meta(split), str(split)) for split in splits}
    if not found:
        raise UserError(f"{settings.folder} holds no encoded data")
    (first, recipe), *others = found.items()
    for folder, other in others:
        if other != recipe:
            raise UserError(
                f"{folder} and {first} were encoded differently: {other.differences(recipe)}; one "
                "way is accepted for all"
            )
    return recipe


def open_subject(folder: str) -> list[EncodedSource]:
    """Opens the encoded pictures of a subject, at each size.

    Raises:
      UserError: there are none.
    """
    _, images = find_encoded(EncodedData(form=ENCODED, folder=folder))
    if not images:
        raise UserError(
            f"{folder} holds no encoded pictures of a subject; `gen1 customize` makes them"
        )
    return [EncodedSource(as_path(each) / TRAIN) for each in images]


def _find_split(folder: str | Path) -> Path | None:
    """Returns the folder of the training split, that of validation without one, or None."""
    splits = (as_path(folder) / split for split in (TRAIN, VALIDATION))
    return next((path for path in splits if path.is_dir()), None)


def _read_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a folder's records; all splits have the same."""
    return dict(read_meta(_find_split(folder) or as_path(folder) / TRAIN)["layout"].shapes)


def _part_folder(folder: str) -> str:
    """Returns the folder of the part that encodes, of which `folder` may be the folder of clips."""
    path = as_path(folder)
    return str(path.parent) if path.name == CLIPS else folder


def open_encoded(
    settings: EncodedData, split: str
) -> tuple[EncodedSource | None, list[EncodedSource], list[Size]]:
    """Opens the encoded clips, the images of each size, and the sizes that images must have.

    Where all batches hold images, clips are opened only if there are no images.
    The training split serves for a kind that the validation split lacks.
    """

    def find(folders: Sequence[str]) -> list[tuple[int, Path]]:
        """Returns the number and the place of each folder that has the split."""
        paths = [as_path(folder) for folder in folders]
        for own in (split, TRAIN) if split == VALIDATION else (split,):
            found = [(i, path / own) for i, path in enumerate(paths) if (path / own).is_dir()]
            if found:
                return found
        return []

    clips, folders = find_encoded(settings)
    cache = None
    if settings.shard_cache:
        cache = partial(ShardCache, settings.shard_cache, int(settings.shard_cache_gb * 1e9))
    sizes = settings.image_buckets or ()
    if sizes and len(sizes) != len(folders):
        raise UserError(f"{len(folders)} folders of encoded images, but {len(sizes)} image_buckets")
    videos = None
    if clips is not None and not (folders and settings.image_fraction == 1):
        place = find([clips])
        videos = EncodedSource(place[0][1] if place else as_path(clips) / split, cache)
    if settings.image_fraction == 0 or not folders:  # images are not read, as for previews of clips
        return videos, [], []
    found = find(folders)
    missing = [folder for i, folder in enumerate(folders) if i not in dict(found)]
    if missing:
        said = f"{split}: no encoded images in {', '.join(missing)}"
        if not found:
            raise UserError(
                f"{said}; `gen1 ingest images` and then `gen1 precompute --config NAME:encoded "
                f"--workdir {_part_folder(settings.folder)}` make them"
            )
        warnings.warn(f"{said}; the other sizes are read", stacklevel=4)
    images = [EncodedSource(path, cache) for _, path in found]
    return videos, images, [sizes[i] for i, _ in found] if sizes else []
