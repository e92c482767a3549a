"""Data of the paper's counts for at_scale.py: few real shards, linked under all shards' names."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from gen1_jax.data_pipelines.encoded.records import FORMAT, Layout, make_layout, pack
from gen1_jax.data_pipelines.encoded.writer import META, choose_records_per_shard, shard_name
from gen1_jax.data_pipelines.footage import records
from gen1_jax.data_pipelines.footage.builders import BUILDERS, TEMPLATE
from gen1_jax.data_pipelines.quiet import silent_tfds
from gen1_jax.structure_settings import StructureRecipe

CLIPS, IMAGES = 6_400_000, 240_000_000
SIZES = ((256, 448), (448, 256), (256, 256), (320, 256), (256, 320))  # of images, in pixels
FRAMES, FACTOR, LATENT, CONTENT, LEVELS = 8, 8, 4, 768, 8
_CLIP_BYTES, _IMAGE_BYTES, _SHARD_BYTES = 60_000, 50_000, 512 * 2**20  # of footage, as measured
_MOST_LINKS = 60_000  # of one file; ext4 takes 65,000


def _link(first: Path, place: Callable[[int], Path], count: int) -> None:
    """Gives a shard the names of all shards; each takes an entry of its folder, and no space."""
    for number in range(count):
        if number % _MOST_LINKS == 0 and number:
            copy = place(number)
            copy.write_bytes(first.read_bytes())
            first = copy
        elif number:
            os.link(first, place(number))


# ---- what `gen1 precompute` writes


def make_encoded(root: Path) -> tuple[int, list[int]]:
    """Writes encoded clips and images; returns the number of files, and of clips in each."""
    files, counts = _make_folder(root / "clips" / "train", FRAMES, SIZES[0], CLIPS)
    for size in SIZES:
        folder = root / f"images_{size[0]}x{size[1]}" / "train"
        files += _make_folder(folder, 1, size, IMAGES // len(SIZES))[0]
    return files, counts


def write_clips(folder: Path, shards: int, per_shard: int) -> None:
    """Writes a small folder of clips of the paper's size."""
    layout = _layout(FRAMES, SIZES[0])
    folder.mkdir(parents=True)
    for shard in range(shards):
        _write_shard(folder / shard_name(shard), layout, per_shard)
    _write_meta(folder, layout, shards * per_shard, per_shard)


def _layout(n: int, size: tuple[int, int]) -> Layout:
    latent = (n, size[0] // FACTOR, size[1] // FACTOR, LATENT)
    shapes = {"latents": latent, "latents_logvar": latent, "structure": (LEVELS, *latent)}
    return make_layout(shapes | {"levels": (LEVELS,), "content": (n, CONTENT), "tokens": (77,)})


def _write_meta(folder: Path, layout: Layout, count: int, per_shard: int) -> None:
    meta = {"format": FORMAT, "count": count, "records_per_shard": per_shard, **layout.to_json()}
    (folder / META).write_text(json.dumps(meta | StructureRecipe().to_json()))


def _make_folder(folder: Path, n: int, size: tuple[int, int], count: int) -> tuple[int, list[int]]:
    layout = _layout(n, size)
    per_shard = choose_records_per_shard(layout.size, count)
    shards = -(-count // per_shard)
    folder.mkdir(parents=True)
    first = folder / shard_name(0)
    _write_shard(first, layout, per_shard)
    _link(first, lambda shard: folder / shard_name(shard), shards)
    last = count - (shards - 1) * per_shard
    if last != per_shard:
        path = folder / shard_name(shards - 1)
        path.unlink()
        _write_shard(path, layout, last)
    _write_meta(folder, layout, count, per_shard)
    return shards, [per_shard] * (shards - 1) + [last]


def _write_shard(path: Path, layout: Layout, count: int) -> None:
    rng = np.random.default_rng(0)
    shapes = dict(layout.shapes)
    record = {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    record |= {"levels": np.arange(LEVELS), "tokens": np.zeros(shapes["tokens"], np.int32)}
    _, *rest = pack(record, layout, "a record")
    with path.open("wb") as file:
        for number in range(count):
            record["tokens"][:] = number
            entry = pack(record | {"structure": record["structure"]}, layout, "a record")[0]
            file.write(b"".join([entry, *rest]))


# ---- what `gen1 ingest` writes


def make_footage(root: Path) -> tuple[int, list[int]]:
    """Writes ingested clips and images of small pictures; returns the number of files, and [].

    The pictures are small, so that the disk holds a shard's number of records: the cost of opening
    a file grows with that number.
    """
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (FRAMES, 16, 16, 3), np.uint8)
    clip = records.encode_clip(frames, np.arange(FRAMES) / 8, "a clip", "film.mp4", 0)
    image = records.encode_image(frames[0], "an image", "picture.jpg")
    files = _make_set(root, "clips", {"train": CLIPS}, clip, _CLIP_BYTES)
    splits = {f"train_{h}x{w}": IMAGES // len(SIZES) for h, w in SIZES}
    return files + _make_set(root, "images", splits, image, _IMAGE_BYTES), []


def _make_set(root: Path, kind: str, splits: dict[str, int], record: dict, size: int) -> int:
    per_shard, infos, files = _SHARD_BYTES // size, [], 0
    with silent_tfds():
        builder = BUILDERS[kind](data_dir=str(root), file_format="array_record")
    folder = Path(builder.data_path)
    folder.mkdir(parents=True)
    data = builder.info.features.serialize_example(builder.info.features.encode_example(record))
    for split, count in splits.items():
        shards = -(-count // per_shard)
        lengths = [per_shard] * (shards - 1) + [count - (shards - 1) * per_shard]
        template = builder._get_filename_template(split).replace(template=TEMPLATE)
        paths = [
            Path(template.sharded_filepath(shard_index=i, num_shards=shards)) for i in range(shards)
        ]
        writer = ArrayRecordWriter(str(paths[0]), "group_size:1")
        for _ in range(per_shard):
            writer.write(data)
        writer.close()
        _link(paths[0], paths.__getitem__, shards)
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths,
                num_bytes=count * size,
                filename_template=template,
            )
        )
        files += shards
    builder.info.set_splits(tfds.core.SplitDict(infos))
    builder.info.write_to_directory(folder)
    return files
