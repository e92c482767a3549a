"""The structure of a whole video: its maps, which wait on the disk, and their common range."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gen1_jax.conditioning import EncoderParams
from gen1_jax.editing.events import Stages
from gen1_jax.editing.pieces import Pieces
from gen1_jax.errors import UserError
from gen1_jax.settings import closest, show
from gen1_jax.structure_settings import DROP_RATE, EXTRACTORS
from gen1_jax.video.extractors import extract, extract_clip
from gen1_jax.video.footage import Footage
from gen1_jax.video.given_maps import to_map
from gen1_jax.video.maps import as_grey
from gen1_jax.video.streams import Spool, Stream

if TYPE_CHECKING:
    from gen1_jax.editing.editor import VideoEditor
    from gen1_jax.editing.wanted import Wanted

_MOST_VALUES = 2**24  # of which quantiles are taken: 64 MiB


class Structure(NamedTuple):
    """Maps of a video.

    Attributes:
      maps: of each frame, [H W] float32, or in colours [H W 3] in 0 … 255.
      bounds: the values of grey maps that become −1 and 1, [2].
    """

    maps: Stream
    bounds: np.ndarray


class Wish(NamedTuple):
    """Where the structure of a video comes from.

    Attributes:
      given: the caller's own maps; None: an extractor makes them.
      extractor: the extractor's name.
      colours: whether the model takes maps in colours.
      none: whether the edit has no structure.
    """

    given: Stream | None
    extractor: str
    colours: bool
    none: bool


# ---- what is wanted


def find_wish(editor: "VideoEditor", footage: Footage, wanted: "Wanted") -> Wish:
    """Returns where the structure comes from.

    Raises:
      UserError: the model was not trained for it, or a map is not accepted.
    """
    recipe = editor.conditioner.recipe
    trained = recipe.extractor
    if wanted.no_structure:
        check_dropped(editor.settings)
        return Wish(None, trained, recipe.colours, True)
    kind = trained if wanted.structure_kind is None else wanted.structure_kind
    if kind != trained and not wanted.any_structure:
        raise UserError(
            f"this model was trained on structure of {trained}, not of {kind}; --any-structure "
            "(any_structure=True) edits with it all the same"
        )
    given = None
    if wanted.structure is not None:
        given = to_map(
            wanted.structure, footage, recipe.colours, grey_too=bool(wanted.any_structure)
        )
    else:
        check_extractor(kind, recipe.version if kind == trained else None)
    return Wish(given, kind, recipe.colours, False)


def check_kind(kind: str) -> None:
    """Raises UserError if there is no such kind of structure."""
    if kind not in EXTRACTORS:
        guess = closest(kind, EXTRACTORS) if isinstance(kind, str) else ""
        raise UserError(f"structure kind {show(kind)}; accepted: {', '.join(EXTRACTORS)}{guess}")


def check_dropped(settings: Mapping[str, Any]) -> None:
    """Raises UserError unless a model, of which this is gen1.json, can do without structure."""
    if not settings.get(DROP_RATE):
        raise UserError(
            "this model was not trained to do without structure (loss.structure_drop_rate was 0); "
            "structure level 7 keeps nearly nothing of it"
        )


def check_extractor(kind: str, version: int | None = None) -> None:
    """Raises UserError if nothing extracts structure of a kind from any video.

    Args:
      kind: name of the extractor.
      version: that of training; None: any.
    """
    if EXTRACTORS[kind].place == "world":
        raise UserError(
            f"structure of {kind} is known of the moving-shapes world alone; give a map of your "
            "own (--structure, structure=…), or another kind with --any-structure"
        )
    if version is not None and version != EXTRACTORS[kind].version:
        raise UserError(
            f"this model was trained on version {version} of {kind}, and this release extracts "
            f"version {EXTRACTORS[kind].version}; give a map of your own (--structure, structure=…)"
        )


# ---- maps


def make_maps(editor: "VideoEditor", frames: np.ndarray) -> Any:
    """Clips [b n H W 3] uint8 → what the model's structure is made of, [b n H W] as a rule.

    Raises:
      UserError: nothing extracts it from frames.
    """
    recipe = editor.conditioner.recipe
    if recipe.place == "device":
        return editor.conditioner.structure_map(frames, editor.estimate_depth(frames))
    check_extractor(recipe.extractor, recipe.version)
    return np.stack([extract_clip(recipe.extractor, clip) for clip in frames])


def make_structure(
    pieces: Pieces,
    params: EncoderParams,
    frames: Stream,
    wish: Wish,
    quantiles: tuple[float, float],
    length: int,
    stages: Stages,
) -> Structure:
    """Returns the structure of a video.

    Args:
      pieces: the encoders.
      params: their parameters.
      frames: [H W 3] uint8.
      wish: where it comes from.
      quantiles: of estimated depth, which become −1 and 1.
      length: frames that the encoders take at a time.
      stages: hears how far it is.
    """
    maps, own = wish.given, (0.0, 1.0)
    if maps is None:
        own = quantiles if wish.extractor == "depth" else own
        with stages("depth", frames.count) as advance:
            if EXTRACTORS[wish.extractor].place == "device":
                made = pieces.maps(params, frames, length, wish.extractor)
            else:
                made = extract(wish.extractor, frames).pieces(length)
            spool = None
            for piece in made:
                spool = spool or Spool(piece.shape[1:])
                spool.append(piece)
                advance(len(piece))
        maps = spool.stream()
    in_colours = next(iter(maps)).ndim == 3
    if in_colours and not wish.colours:
        maps = maps.map(lambda frame: as_grey(frame / np.float32(127.5) - 1, "structure"))
    if wish.colours:
        bounds = np.array([0, 255], np.float32)
        return Structure(maps if in_colours else _in_shades(maps, find_bounds(maps, own)), bounds)
    return Structure(maps, find_bounds(maps, own))


def find_bounds(maps: Stream, quantiles: tuple[float, float] = (0, 1)) -> np.ndarray:
    """Returns two quantiles [2] of the values of all maps; if they are equal, the extremes.

    They are exact for up to 2^24 values; of a longer video a regular part of the pixels is taken.
    """
    low, high, values, step = np.inf, -np.inf, [], 1
    for index, each in enumerate(maps):
        low, high = min(low, each.min()), max(high, each.max())
        if quantiles != (0, 1):
            step = -(-maps.count * each.size // _MOST_VALUES)
            values.append(each.ravel()[index % step :: step])
    if values:
        least, most = np.quantile(np.concatenate(values), quantiles)
        if least < most:
            low, high = least, most
    return np.array([low, high], np.float32)


def _in_shades(maps: Stream, bounds: np.ndarray) -> Stream:
    """Returns grey maps [H W] as shades of grey [H W 3] in 0 … 255."""
    low, span = bounds[0], max(bounds[1] - bounds[0], np.float32(1e-9))

    def shade(frame: np.ndarray) -> np.ndarray:
        return np.clip((frame - low) / span * 255, 0, 255)[..., None].repeat(3, axis=-1)

    return maps.map(shade)


def encode_structure(
    pieces: Pieces,
    params: EncoderParams,
    structure: Structure,
    level: int,
    length: int,
    stages: Stages,
) -> np.ndarray:
    """Returns the structure latents [n h w 4] of a video at the level t_s."""
    found = []
    with stages("encoding", structure.maps.count) as advance:
        for latents in pieces.structure(params, structure.maps, level, structure.bounds, length):
            found.append(latents)
            advance(len(latents))
    return np.concatenate(found)
