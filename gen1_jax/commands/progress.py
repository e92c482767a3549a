"""The bar of a long copy."""

from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm


@contextmanager
def byte_bar(title: str, *folders: Path):
    """Yields `report(tensor, bytes)`; the whole is what the folders' weights take on disk."""
    files = [file for folder in folders for file in Path(folder).rglob("*.safetensors")]
    total = sum(file.stat().st_size for file in files) or None
    with tqdm(
        total=total, desc=title, unit="B", unit_scale=True, unit_divisor=1024, dynamic_ncols=True
    ) as bar:
        yield lambda name, size: bar.update(size)
