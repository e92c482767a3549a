"""A folder of pictures as it is: the 15 to 30 of a subject that a model is customised to.

Unlike `gen1 ingest images`, nothing is left out: neither duplicates nor small pictures. A file that
is no picture is an error.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gen1_jax.data_pipelines.footage.images import MORE_FORMATS, WHITE
from gen1_jax.errors import UserError, one_line
from gen1_jax.video.images import open_image
from gen1_jax.video.pixels import image_to_rgb
from gen1_jax.video.sources import Unreadable, natural_key

LEAST = 5  # a subject of fewer pictures is learnt by heart, background included
_NO_PICTURES = ("Thumbs.db", "desktop.ini")  # files that systems leave in folders of pictures


class Pictures:
    """Random access to the pictures of a folder, each an example of one frame, [1 H W 3] uint8.

    Args:
      folder: holds the pictures, and nothing else; hidden files do not count.

    Attributes:
      paths: the files, in natural order of their names.

    Raises:
      UserError: there are too few pictures; while one is read: it is none.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "is not there"
            raise UserError(f"{folder} {what}; a folder of pictures is accepted")
        files = [
            path
            for path in folder.iterdir()
            if not path.name.startswith(".") and path.name not in _NO_PICTURES
        ]
        self.paths = sorted(files, key=lambda path: natural_key(path.name))
        if len(self.paths) < LEAST:
            raise UserError(
                f"{folder} holds {len(self.paths)} pictures; {LEAST} or more are accepted, and 15 "
                "to 30 are usual"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"frames": read_picture(self.paths[index])[None]}

    def __repr__(self) -> str:
        return f"Pictures({len(self)} of {self.paths[0].parent})"

    def digest(self) -> str:
        """Returns the SHA-256 of the files, in their order; reads every picture, to check it.

        Raises:
          UserError: a file is no picture.
        """
        digest = hashlib.sha256()
        for path in self.paths:
            read_picture(path)
            digest.update(path.read_bytes())
        return digest.hexdigest()


def read_picture(path: Path) -> np.ndarray:
    """Reads a picture, upright and in sRGB, [H W 3] uint8; a transparent one is put on white.

    Raises:
      UserError: the file is no picture, or a damaged one.
    """
    try:
        with open_image(path, MORE_FORMATS) as image:
            return image_to_rgb(ImageOps.exif_transpose(image), WHITE)
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{path} is no picture; accepted: PNG, JPEG, WebP or the like") from error
    except Unreadable:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise UserError(f"{path} cannot be read as a picture: {one_line(error)}") from error
