"""What CLIP is shown of pictures: cut out and resized on the host, by Pillow."""

import numpy as np
from PIL import Image

MARGIN = 0.1  # on each side of an object, of its longer side
LOVEU_SIZE = 480  # to whose square LOVEU-TGVE's script squeezes frames before CLIP sees them


def fit_picture(picture: np.ndarray, size: int) -> np.ndarray:
    """Returns what CLIP sees of a picture: the shorter side resized to `size`, the centre cropped.

    Args:
      picture: `[H W 3]` uint8.
      size: side of the square that CLIP takes.

    Returns:
      `[size size 3]` uint8, as transformers' `CLIPImageProcessor` on Pillow makes it. Pictures of
      all sizes so fit one compiled program.
    """
    height, width = picture.shape[:2]
    shorter = min(height, width)
    height, width = size * height // shorter, size * width // shorter
    top, left = (height - size) // 2, (width - size) // 2
    resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)[top : top + size, left : left + size]


def squeeze_frames(frames: np.ndarray) -> np.ndarray:
    """Returns frames `[b n H W 3]` uint8 squeezed into LOVEU-TGVE's square, `[b n 480 480 3]`."""
    square = (LOVEU_SIZE, LOVEU_SIZE)
    squeezed = [
        [
            np.asarray(Image.fromarray(frame).resize(square, Image.Resampling.BICUBIC))
            for frame in clip
        ]
        for clip in frames
    ]
    return np.array(squeezed)


def crop_objects(frames: np.ndarray, masks: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns each frame's object, and whether the frame has one.

    The crop is a square about the mask's bounding box, with a margin of a tenth of the box's longer
    side all around. It is moved so that it lies in the frame, and is no larger than the frame's
    shorter side. What else stands in the square is seen too.

    Args:
      frames: `[b n H W 3]` uint8.
      masks: `[b n H W]` bool.
      size: side of the square that CLIP takes.

    Returns:
      Crops `[b n size size 3]` uint8, black where the mask is empty; `[b n]` bool, whether it is
      not.
    """
    crops = np.zeros((*masks.shape[:2], size, size, 3), np.uint8)
    seen = masks.any(axis=(2, 3))
    for place in zip(*np.nonzero(seen), strict=True):
        box = object_box(masks[place])
        picture = Image.fromarray(frames[place]).crop(box)
        crops[place] = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
    return crops, seen


def object_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of the square of `crop_objects` about a mask `[H W]`."""
    ends = []
    for axis in (1, 0):  # rows that the mask touches, then columns
        touched = np.flatnonzero(mask.any(axis=axis))
        ends.append((int(touched[0]), int(touched[-1]) + 1))
    longer = max(end - start for start, end in ends)
    side = min(round(longer * (1 + 2 * MARGIN)), *mask.shape)
    (top, bottom), (left, right) = (
        _inside((start + end - side) // 2, side, length)
        for (start, end), length in zip(ends, mask.shape, strict=True)
    )
    return left, top, right, bottom


def _inside(start: int, side: int, length: int) -> tuple[int, int]:
    start = max(0, min(start, length - side))
    return start, start + side
