"""Streams of batches from a config's `data`; the one place where training meets its data."""

from collections.abc import Callable
from pathlib import Path

import jax

from gen1_jax.batch import Batch
from gen1_jax.data_pipelines.stream import Stream
from gen1_jax.errors import UserError
from gen1_jax.tokenizer import load_tokenizer


def make_stream(data, seed: int, split: str = "train") -> Stream:
    """The endless stream of a config's `data`, as this process's share.

    Raises:
      UserError: an unknown form, or data that are not there.
    """
    share = {
        "seed": seed,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    settings = data.to_dict()
    form = settings.pop("form", None)
    if form == "encoded":
        from gen1_jax.data_pipelines.encoded.reader import make_encoded_dataset

        clips, images = _open_encoded(settings, split)
        return make_encoded_dataset(clips, images, **settings, **share)
    if form in ("raw", "footage"):
        from gen1_jax.data_pipelines.mixture import make_dataset

        videos, images = _RAW[form](settings, split)
        tokenizer = settings.pop("tokenizer", None)
        if "tokens" in settings["fields"] and tokenizer is not None:
            settings["tokenizer"] = load_tokenizer(tokenizer).encode
        return make_dataset(videos, images, **settings, **share)
    raise UserError(f"data form {form!r}; accepted: raw, footage, encoded")


def _open_world(settings: dict, split: str) -> tuple[list, list]:
    """The buckets of videos and images of the moving-shapes world; takes its own settings out."""
    from gen1_jax.data_pipelines.decoded import Decoded
    from gen1_jax.data_pipelines.mixture import Bucket
    from gen1_jax.data_pipelines.moving_shapes.builder import load
    from gen1_jax.data_pipelines.moving_shapes.records import decode_clip

    source = Decoded(load(settings.pop("world"), settings.pop("builder"), split), decode_clip)
    sizes = settings.pop("buckets")
    image_sizes = settings.pop("image_buckets", None) or sizes
    return [Bucket(s, [source]) for s in sizes], [Bucket(s, [source]) for s in image_sizes]


def _open_footage(settings: dict, split: str) -> tuple[list, list]:
    """The buckets of videos and images of ingested folders; takes its own settings out."""
    from gen1_jax.data_pipelines.footage.mixing import make_buckets
    from gen1_jax.data_pipelines.footage.reader import open_footage

    folders = settings.pop("folder")
    folders = (folders,) if isinstance(folders, str) else tuple(folders)
    # A small folder has no validation split: training's then serves for pictures.
    if split == "validation" and any(split not in open_footage(f).splits() for f in folders):
        split = "train"
    names = ("weights", "buckets", "image_buckets", "image_weights")
    return make_buckets(folders, split, **{k: settings.pop(k) for k in names if k in settings})


def _open_encoded(settings: dict, split: str) -> tuple:
    """The source of clips and those of images; takes their settings out."""
    from gen1_jax.data_pipelines.encoded.reader import EncodedSource

    def open_one(folder: str) -> EncodedSource:
        # As above.
        missing = split == "validation" and not (Path(folder) / split).exists()
        return EncodedSource(Path(folder) / ("train" if missing else split))

    folders = settings.pop("image_folders", ())
    if settings["image_fraction"] == 0:  # as for pictures of clips
        folders, settings["image_buckets"] = (), ()
    return open_one(settings.pop("folder")), list(map(open_one, folders))


_RAW = {"raw": _open_world, "footage": _open_footage}


def make_preview_batch(data) -> Callable[[], Batch]:
    """The validation split's first video batch (first image batch where all are images)."""

    def make() -> Batch:
        preview = data.copy_and_resolve_references()
        preview.image_fraction = 1.0 if data.image_fraction == 1 else 0.0
        for readers in {"num_threads", "num_workers"} & set(preview):
            preview[readers] = 0  # it is one batch
        return next(make_stream(preview, seed=0, split="validation"))

    return make
