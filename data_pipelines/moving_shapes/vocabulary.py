"""The words of the moving-shapes world: colours, looks, motions, and the captions made of them.

Every caption has exactly one colour word, which is the hero solid's colour. Extras are neutral
greys, and backgrounds are named by nouns alone, so a colour in a prompt has one meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RGB = tuple[int, int, int]

# Eight colours that shading, textures and a little blur do not turn into one another.
COLOURS: dict[str, RGB] = {
    "red": (214, 32, 38),
    "orange": (246, 130, 14),
    "yellow": (248, 218, 40),
    "green": (34, 166, 52),
    "cyan": (32, 206, 214),
    "blue": (34, 74, 214),
    "purple": (134, 46, 186),
    "pink": (250, 138, 192),
}

SHAPES = ("ball", "box", "diamond", "triangle", "star", "ring", "cross", "hexagon")
TEXTURES = ("plain", "striped", "dotted", "checkered")
MOTIONS = (
    "drifting left",
    "drifting right",
    "drifting up",
    "drifting down",
    "bouncing",
    "circling",
    "spinning",
    "growing",
)
CAMERAS = ("still", "pan left", "pan right", "zoom in", "zoom out")
SHAKY = "shaky"  # a camera held by hand, which no clip of a data set has
CAMERA_KINDS = ("still", "moving", SHAKY)
GEOMETRIES = ("floor", "room", "wall", "slope")


@dataclass(frozen=True)
class Look:
    """The colours of a background: a ramp from `dark` to `light` that fades into `haze`."""

    dark: RGB
    light: RGB
    haze: RGB


LOOKS: dict[str, Look] = {
    "a grassy field": Look((88, 112, 62), (138, 158, 100), (198, 212, 214)),
    "desert sand": Look((186, 158, 112), (224, 202, 160), (232, 222, 204)),
    "snow": Look((206, 214, 224), (246, 248, 250), (186, 198, 214)),
    "a night sky": Look((20, 22, 44), (196, 198, 214), (38, 40, 70)),
    "a brick wall": Look((112, 70, 60), (166, 132, 118), (74, 60, 60)),
    "a calm sea": Look((66, 104, 128), (116, 152, 168), (184, 198, 206)),
}
BACKGROUNDS = tuple(LOOKS)

# What an edit may change: attribute → its values.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "background": BACKGROUNDS,
    "shape": SHAPES,
}

# What no clip of a data set shows, and only `changes` of `render` ask for: attribute → its values.
# A model is customised to such a subject.
UNSEEN: dict[str, tuple[str, ...]] = {"texture": ("target",), "shape": ("heart",)}

# Kind of edit → the attributes that it changes. `far` asks for much else than the clip shows, and
# `shape` for another shape than its depth does.
EDITS: dict[str, tuple[str, ...]] = {
    "colour": ("colour",),
    "shape": ("shape",),
    "texture": ("texture",),
    "background": ("background",),
    "style": ("texture", "background"),
    "far": ("colour", "texture", "background"),
}
DEFAULT_EDITS = ("colour",)

# The first template is the canonical one, which `canonical_caption` uses.
_TEMPLATES = (
    "{thing} {motion} over {background}",
    "{thing} is {motion} over {background}",
    "{motion} over {background}, {thing}",
    "a video of {thing} {motion} over {background}",
)
NUM_TEMPLATES = len(_TEMPLATES)


def compose_caption(
    colour: str,
    texture: str,
    shape: str,
    motion: str,
    background: str,
    template: int = 0,
    say_plain: bool = False,
) -> str:
    """Returns a caption such as "a red striped ball drifting left over a grassy field"."""
    words = [colour, shape] if texture == "plain" and not say_plain else [colour, texture, shape]
    article = "an" if words[0][0] in "aeiou" else "a"
    thing = f"{article} {' '.join(words)}"
    return _TEMPLATES[template].format(thing=thing, motion=motion, background=background)


def canonical_caption(truth: Mapping[str, Any], say_plain: bool = False) -> str:
    """Returns the caption of a clip in its canonical form, which prompts of edits have.

    Args:
      truth: `Clip.truth` of the clip, with the attributes replaced that an edit should change.
      say_plain: whether a plain texture is named.
    """
    words = (truth[name] for name in ("colour", "texture", "shape", "motion", "background"))
    return compose_caption(*words, say_plain=say_plain)


def camera_kind(camera: str) -> str:
    """Returns how a camera moves: still, moving or shaky."""
    return camera if camera in ("still", SHAKY) else "moving"
