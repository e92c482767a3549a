"""Clips of the moving-shapes world to edit, with the truth of the clip and of the edit.

Clips are rendered from the seeds of a split, so there are as many of each as are wanted, with any
camera; no clip of one split is in another.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen1_jax.data_pipelines.moving_shapes.renderer import TURNING, render
from gen1_jax.data_pipelines.moving_shapes.solids import overlap
from gen1_jax.data_pipelines.moving_shapes.vocabulary import (
    ATTRIBUTES,
    CAMERA_KINDS,
    CAMERAS,
    DEFAULT_EDITS,
    EDITS,
    camera_kind,
    canonical_caption,
)
from gen1_jax.errors import UserError
from gen1_jax.evaluation.items import Item

KINDS = {"colour": "object", "texture": "surface", "background": "environment"}  # for tables
_LIKE = 0.8  # overlap from which two shapes look alike: ball and hexagon, box and both of them
_PICTURES = 2**31  # number of the first clip of a split that example pictures are taken of


def world_items(
    folder: str | Path,
    builder: str | None,
    split: str,
    count: int,
    seed: int = 0,
    *,
    edits: Sequence[str] = DEFAULT_EDITS,
    cameras: Sequence[str] = (),
) -> list[Item]:
    """Returns clips of the world with the truth, and prompts that ask for something else.

    Args:
      folder: of the data set, whose clips' size and length are taken.
      builder: its size: demo, tiny, …; None: the one that is in the folder.
      split: the split to take clips from. There may be more of them than the data set holds.
      count: clips, from the split's first on.
      seed: of the values asked for. The first clips have the same ones however many there are.
      edits: kinds of edit, of `EDITS`; each clip is edited in each of these ways.
      cameras: how the camera moves, of `CAMERA_KINDS`; each clip is made for each of these. Empty:
        each clip has its own camera, which is still or moving.

    Returns:
      The items by camera, then by kind of edit, then by clip.

    Raises:
      UserError: the data set is not there, or an edit or a camera is unknown.
    """
    _check(edits, EDITS, "kind of edit")
    _check(cameras, CAMERA_KINDS, "camera")
    items = []
    for camera in dict.fromkeys(cameras or ("",)):
        clips = world_clips(folder, builder, split, count, camera=camera)
        for edit in dict.fromkeys(edits):
            rng = np.random.default_rng(seed if edit == "colour" else [seed, *edit.encode()])
            items += [_edited(clip, edit, _draw_wanted(clip.truth, edit, rng)) for clip in clips]
    return items


def picture_items(
    folder: str | Path,
    builder: str | None,
    split: str,
    count: int = 6,
    pictures: int = 5,
    *,
    cameras: Sequence[str] = (),
) -> list[Item]:
    """Returns clips whose object should become that of an example picture.

    The pictures show other solids over other backgrounds, of different colours and shapes. What an
    edit should have is all that its picture shows: colour, texture, background and shape.

    Args:
      folder: of the data set, whose clips' size and length are taken.
      builder: its size: demo, tiny, …; None: the one that is in the folder.
      split: the split to take clips and pictures from.
      count: clips.
      pictures: pictures for each clip, 8 at most.
      cameras: see `world_items`.

    Returns:
      The items by camera, then by picture, then by clip.

    Raises:
      UserError: the data set is not there, there are too many pictures, or a camera is unknown.
    """
    from gen1_jax.data_pipelines.moving_shapes.builder import split_seed

    _check(cameras, CAMERA_KINDS, "camera")
    most = len(ATTRIBUTES["colour"])
    if not 1 <= pictures <= most:
        raise UserError(f"{pictures} example pictures; 1 to {most} are accepted")
    num_frames, size = _clip_size(folder, builder)
    shown, number = [], _PICTURES
    while len(shown) < pictures:
        picture = render(split_seed(split, number), num_frames=num_frames, size=size)
        number += 1
        own = picture.truth
        if any(own[name] == other.truth[name] for other in shown for name in ("colour", "shape")):
            continue
        shown.append(picture)
    items = []
    for camera in dict.fromkeys(cameras or ("",)):
        clips = world_clips(folder, builder, split, count, camera=camera)
        for place, picture in enumerate(shown):
            wanted = {name: picture.truth[name] for name in ATTRIBUTES}
            image = picture.frames[num_frames // 2]
            items += [_edited(clip, f"picture-{place}", wanted, image) for clip in clips]
    return items


def world_clips(
    folder: str | Path,
    builder: str | None,
    split: str,
    count: int,
    *,
    start: int = 0,
    camera: str = "",
) -> list[Item]:
    """Returns clips of the world with the truth, and without prompts.

    Args:
      folder: see `world_items`, as for `builder` and `split`.
      builder: its size.
      split: the split.
      count: clips.
      start: number of the first clip in the split.
      camera: how the camera moves, of `CAMERA_KINDS`; empty: each clip has its own.

    Raises:
      UserError: the data set is not there.
    """
    from gen1_jax.data_pipelines.moving_shapes.builder import split_seed

    num_frames, size = _clip_size(folder, builder)
    items = []
    for number in range(start, start + count):
        seed = split_seed(split, number)
        clip = render(seed, num_frames=num_frames, size=size)
        if camera and camera_kind(clip.truth["camera"]) != camera:
            path = _camera_path(camera, number)
            clip = render(seed, num_frames=num_frames, size=size, camera=path)
        video = f"{split}-{number:05d}"
        items.append(
            Item(
                clip=f"{video}-{camera}" if camera else video,
                video=video,
                frames=clip.frames,
                prompt="",
                depth=clip.depth,
                mask=clip.mask,
                camera=camera_kind(clip.truth["camera"]),
                truth={**clip.truth, "seed": seed},
            )
        )
    return items


# ---- what a probe is to read


def attribute_labels(items: Sequence[Item], attribute: str) -> np.ndarray:
    """Returns the number of each clip's value of an attribute of the world, `[b]` int.

    Args:
      items: clips with truth.
      attribute: colour, texture, background or shape.
    """

    values = ATTRIBUTES[attribute]
    return np.array([values.index(item.truth[attribute]) for item in items])


def object_places(items: Sequence[Item]) -> np.ndarray:
    """Returns where the object's centre is in each frame, `[b n 2]` float64.

    x and y are 0 in the middle of the frame; y is −1 at its upper edge and 1 at its lower one.
    """
    heroes = [item.truth["hero"] for item in items]
    return np.array([np.stack([hero["x"], hero["y"]], axis=-1) for hero in heroes])


# ---- parts


def _clip_size(folder: str | Path, builder: str | None) -> tuple[int, tuple[int, int]]:
    """Returns the number of frames and the size of a data set's clips."""
    from gen1_jax.data_pipelines.moving_shapes.builder import CONFIGS, built_configs, load

    if builder is None:
        found = built_configs(folder)
        if len(found) > 1:
            raise UserError(f"{folder} holds {' and '.join(found)}; name one: --builder {found[0]}")
        builder = found[0] if found else "demo"
    load(folder, builder, "test")  # says what is wrong if it is not there
    return CONFIGS[builder].num_frames, CONFIGS[builder].size


def _camera_path(kind: str, number: int) -> str:

    moving = [path for path in CAMERAS if camera_kind(path) == "moving"]
    return moving[number % len(moving)] if kind == "moving" else kind


def _draw_wanted(truth: Mapping[str, Any], edit: str, rng: np.random.Generator) -> dict[str, str]:
    """Draws another value of each attribute that a kind of edit changes."""
    wanted = {}
    for name in EDITS[edit]:
        values = [value for value in ATTRIBUTES[name] if value != truth[name]]
        if name == "shape":
            values = [
                value
                for value in values
                if overlap(value, truth["shape"]) < _LIKE
                and (value in TURNING or truth["motion"] != "spinning")
            ]
        wanted[name] = str(rng.choice(values))
    return wanted


def _edited(
    clip: Item, edit: str, wanted: Mapping[str, str], image: np.ndarray | None = None
) -> Item:
    """Returns a clip with a prompt, and maybe a picture, that asks for other attributes."""

    say_plain = "texture" in wanted
    return dataclasses.replace(
        clip,
        clip=clip.clip if edit == "colour" else f"{clip.clip}-{edit}",
        prompt=canonical_caption({**clip.truth, **wanted}, say_plain),
        source_prompt=canonical_caption(clip.truth, say_plain),
        image=image,
        kind="picture" if image is not None else KINDS.get(edit, edit),
        wanted=wanted,
    )


def _check(names: Sequence[str], known: Iterable[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"unknown {what} {name!r}; one of: {', '.join(known)}")
