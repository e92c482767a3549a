"""Pictures with a known answer for the duplicate search: copies, and look-alikes that are none.

All are drawn from a random generator, so a new seed gives new pictures. Ordinary pictures are dead
leaves: discs and boxes of random sizes, colours and textures that cover each other, which have the
statistics of photographs (Lee, Mumford and Huang, 2001).
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = (320, 384)  # height and width of all pictures
_WORDS = (
    "winter sale ends today new river house garden quiet seven open market light train paper "
    "question answer thank you welcome home closed please wait room music north bridge stone"
).split()


def make_scene(random: np.random.Generator, leaves: int = 80) -> Image.Image:
    """Returns an ordinary picture: dead leaves, with texture and uneven light."""
    height, width = SIZE
    image = Image.new("RGB", (width, height), _colour(random))
    draw = ImageDraw.Draw(image)
    palette = [_colour(random) for _ in range(random.integers(4, 12))]
    for radius in sorted(min(200, 8 * random.pareto(1.2) + 6) for _ in range(leaves))[::-1]:
        x, y = random.uniform(-20, width + 20), random.uniform(-20, height + 20)
        long = radius * random.uniform(0.5, 2)
        box = (x - long, y - radius, x + long, y + radius)
        fill = _near(random, palette[random.integers(len(palette))], 25)
        (draw.ellipse if random.random() < 0.6 else draw.rectangle)(box, fill=fill)
    pixels = np.asarray(image, np.float32)
    pixels = pixels + random.uniform(2, 14) * _clouds(random, 1.2)[..., None]
    pixels = pixels * (1 + random.uniform(0, 0.3) * _clouds(random, 3)[..., None])
    return _picture(pixels)


def make_clip(random: np.random.Generator, frames: int = 8) -> list[Image.Image]:
    """Returns a film: a window of two thirds that moves over an ordinary picture."""
    height, width = SIZE
    scene, size = make_scene(random), (2 * width // 3, 2 * height // 3)
    ends = random.uniform(0, 1, (2, 2)) * (width - size[0], height - size[1])
    places = [ends[0] + (ends[1] - ends[0]) * step / (frames - 1) for step in range(frames)]
    return [scene.crop((int(x), int(y), int(x) + size[0], int(y) + size[1])) for x, y in places]


# ---- near-copies


def recode(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Saves a picture as JPEG or WebP of quality 30 to 90."""
    buffer = io.BytesIO()
    kind = ("JPEG", "WEBP")[random.integers(2)]
    image.save(buffer, kind, quality=int(random.integers(30, 91)))
    return Image.open(buffer).convert("RGB")


def scale(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Scales a picture to a third up to 1.5 of its size, and back."""
    factor = random.uniform(0.33, 1.5)
    ways = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
    way = ways[random.integers(3)]
    small = image.resize([round(side * factor) for side in image.size], way)
    return small.resize(image.size, Image.Resampling.LANCZOS)


def crop(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Cuts 2 % off each side's length, at a random place, and scales the rest to the old size."""
    width, height = image.size
    x, y = random.uniform(0, 0.02 * width), random.uniform(0, 0.02 * height)
    box = (x, y, x + 0.98 * width, y + 0.98 * height)
    return image.resize(image.size, Image.Resampling.LANCZOS, box=box)


def watermark(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Writes a half-transparent line over a picture, in the middle or in a corner."""
    width, height = image.size
    over = Image.new("RGBA", image.size, (0, 0, 0, 0))
    font = ImageFont.load_default(float(random.uniform(0.06, 0.14) * height))
    text = " ".join(random.choice(_WORDS, 2))
    place = (random.uniform(0, 0.3) * width, random.uniform(0, 0.85) * height)
    shade = (255, 255, 255) if random.random() < 0.7 else (0, 0, 0)
    ImageDraw.Draw(over).text(place, text, (*shade, int(random.integers(90, 180))), font=font)
    return Image.alpha_composite(image.convert("RGBA"), over).convert("RGB")


def mirror(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Mirrors a picture left to right, and saves it as JPEG."""
    return recode(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), random)


def all_at_once(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Crops, scales, marks and recodes a picture, and mirrors it in half of all cases."""
    changed = watermark(scale(crop(image, random), random), random)
    return (mirror if random.random() < 0.5 else recode)(changed, random)


COPIES: dict[str, Callable] = {
    "recoded": recode,
    "scaled": scale,
    "cropped by 2 %": crop,
    "watermarked": watermark,
    "mirrored": mirror,
    "all at once": all_at_once,
}

# ---- look-alikes: pictures of a kind are distinct, and have much in common


def _plain(random: np.random.Generator) -> Image.Image:
    return Image.new("RGB", SIZE[::-1], _colour(random))


def _line_of_text(random: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", SIZE[::-1], "white")
    font = ImageFont.load_default(32)
    text = " ".join(random.choice(_WORDS, 3, replace=False))
    ImageDraw.Draw(image).text((24, 140), text, "black", font=font)
    return image


def _bird(random: np.random.Generator) -> Image.Image:
    height, width = SIZE
    top, bottom = np.array([90, 140, 220.0]), np.array([200, 220, 245.0])
    share = np.linspace(0, 1, height)[:, None, None]
    image = _picture(np.broadcast_to(top + share * (bottom - top), (height, width, 3)))
    x, y = random.uniform(40, width - 40), random.uniform(40, height - 40)
    size, lift = random.uniform(6, 24), random.uniform(-0.8, 0.8)
    wing = [(x - size, y - lift * size), (x, y), (x + size, y - lift * size), (x, y + size / 4)]
    ImageDraw.Draw(image).polygon(wing, fill=(30, 30, 35))
    return image


def _objects_on_white(random: np.random.Generator) -> Image.Image:
    height, width = SIZE
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(1, 4)):
        x, y = random.uniform(0.3, 0.7) * width, random.uniform(0.3, 0.7) * height
        a, b = random.uniform(10, 40, 2)
        shape = (draw.ellipse, draw.rectangle)[random.integers(2)]
        shape((x - a, y - b, x + a, y + b), fill=_colour(random))
    return image


def _balls(random: np.random.Generator) -> Image.Image:
    height, width = SIZE
    image = Image.new("RGB", (width, height), _colour(random))
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(2, 7)):
        x, y, r = random.uniform(0, width), random.uniform(0, height), random.uniform(15, 60)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=_colour(random))
    return image


def _gradient(random: np.random.Generator) -> Image.Image:
    height, width = SIZE
    angle = random.uniform(0, 2 * np.pi)
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    along = (np.cos(angle) * x + np.sin(angle) * y) / np.sqrt(2)
    share = ((along + 1) / 2)[..., None]
    return _picture(np.array(_colour(random)) * (1 - share) + np.array(_colour(random)) * share)


def _checkerboard(random: np.random.Generator) -> Image.Image:
    height, width = SIZE
    period = random.uniform(16, 80)
    x, y = np.meshgrid(np.arange(width) + random.uniform(0, 160), np.arange(height))
    odd = ((x // period + (y + random.uniform(0, 160)) // period) % 2)[..., None]
    return _picture(np.array(_colour(random)) * odd + np.array(_colour(random)) * (1 - odd))


def _chart(random: np.random.Generator) -> Image.Image:
    height, width = SIZE
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.line((40, 20, 40, height - 30, width - 20, height - 30), fill="black", width=2)
    for row in range(5):
        draw.line((40, 20 + 54 * row, width - 20, 20 + 54 * row), fill=(210, 210, 210))
    values = random.uniform(0.05, 1, 8) * (height - 60)
    if random.random() < 0.5:
        for bar, value in enumerate(values):
            left = 52 + 39 * bar
            draw.rectangle((left, height - 30 - value, left + 26, height - 30), fill=(70, 110, 180))
    else:
        points = [(52 + 39 * i, height - 30 - value) for i, value in enumerate(values)]
        draw.line(points, fill=(200, 60, 50), width=3)
    return image


def _night_sky(random: np.random.Generator) -> Image.Image:
    height, width = SIZE
    pixels = np.full((height, width, 3), (8.0, 10.0, 22.0)) + random.normal(0, 1.5, (*SIZE, 1))
    for _ in range(random.integers(60, 200)):
        x, y = random.integers(1, width - 1), random.integers(1, height - 1)
        glow = min(230, 30 + 20 * random.pareto(1.0))
        pixels[y, x] += glow
        pixels[y - 1 : y + 2, x - 1 : x + 2] += glow / 3
    return _picture(pixels)


KINDS: dict[str, Callable[[np.random.Generator], Image.Image]] = {
    "plain colours": _plain,
    "one line of text": _line_of_text,
    "a bird in a sky": _bird,
    "small objects on white": _objects_on_white,
    "balls over plain colour": _balls,
    "gradients": _gradient,
    "checkerboards": _checkerboard,
    "charts": _chart,
    "night skies": _night_sky,
}
RED_AND_BLUE = "the same picture in red and in blue"


def make_kind(kind: str, count: int, random: np.random.Generator) -> list[Image.Image]:
    """Returns distinct pictures of one kind of look-alikes."""
    if kind != RED_AND_BLUE:
        distinct: dict[bytes, Image.Image] = {}
        while len(distinct) < count:
            picture = KINDS[kind](random)
            distinct[picture.tobytes()] = picture
        return list(distinct.values())
    pictures = []
    for _ in range(count // 2):
        grey = np.asarray(make_scene(random).convert("L"), np.float32)[..., None] / 255
        powers = np.array((0.6, 2, 2)), np.array((2, 2, 0.6))
        pictures += [_picture(255 * grey**power) for power in powers]
    return pictures


# ---- parts


def _colour(random: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(level) for level in random.integers(0, 256, 3))


def _near(random: np.random.Generator, colour: tuple[int, ...], by: int) -> tuple[int, ...]:
    return tuple(int(np.clip(level + random.integers(-by, by + 1), 0, 255)) for level in colour)


def _clouds(random: np.random.Generator, power: float) -> np.ndarray:
    """Returns noise [h w] of unit variance whose amplitude falls with frequency to a power."""
    height, width = SIZE
    across, down = np.fft.rfftfreq(width) * width, np.fft.fftfreq(height)[:, None] * height
    frequency = np.maximum(1, np.hypot(across, down))
    noise = np.fft.rfft2(random.standard_normal(SIZE)) / frequency**power
    noise = np.fft.irfft2(noise, SIZE)
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))
