"""The bar that shows how far the copy of a model's weights is."""

from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm


@contextmanager
def byte_bar(title: str, *folders: Path):
    """Yields `report(tensor_name, num_bytes)`, which moves the bar.

    Args:
      title: stands before the bar.
      *folders: hold the safetensors files, whose size on disk is the bar's full length.
    """
    files = [file for folder in folders for file in Path(folder).rglob("*.safetensors")]
    total = sum(file.stat().st_size for file in files) or None
    with tqdm(
        total=total, desc=title, unit="B", unit_scale=True, unit_divisor=1024, dynamic_ncols=True
    ) as bar:
        yield lambda name, size: bar.update(size)
