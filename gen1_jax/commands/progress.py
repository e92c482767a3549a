"""The bar that shows how far the copy of a model's weights is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm


@contextmanager
def byte_bar(title: str, total: int, progress: bool = True) -> Iterator[Callable[[str, int], None]]:
    """Yields `report(tensor_name, num_bytes)`, which moves the bar.

    The bar appears with the first tensor, so that nothing stands before the line of a refusal.

    Args:
      title: stands before the bar.
      total: the bar's full length in bytes.
      progress: whether to show a bar.
    """
    bars: list[tqdm] = []

    def report(name: str, size: int) -> None:
        if not bars:
            bars.append(
                tqdm(
                    total=total, desc=title, unit="B", unit_scale=True, unit_divisor=1024,
                    dynamic_ncols=True, disable=not progress,
                )
            )  # fmt: skip
        bars[0].update(size)

    try:
        yield report
    finally:
        for bar in bars:
            bar.close()


def weight_bytes(folder: Path) -> int:
    """Returns the size of all safetensors files in and below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
