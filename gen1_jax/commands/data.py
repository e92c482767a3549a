"""Streams of batches from a config's `data`; the one place where training meets its data."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from gen1_jax.errors import UserError
from gen1_jax.tokenizer import load_tokenizer


def make_stream(data, seed: int, split: str = "train") -> Iterator[dict]:
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
        from data_pipelines.encoded import EncodedSource, make_encoded_dataset

        clips = EncodedSource(Path(settings.pop("folder")) / split)
        folders = settings.pop("image_folders", ())
        images = [EncodedSource(Path(folder) / split) for folder in folders]
        return iter(make_encoded_dataset(clips, images, **settings, **share))
    if form == "raw":
        from data_pipelines.mixture import make_dataset
        from data_pipelines.moving_shapes.builder import load
        from data_pipelines.moving_shapes.records import decode_clip

        source = load(settings.pop("world"), settings.pop("builder"), split)
        tokenizer = settings.pop("tokenizer")
        if "tokens" in settings["fields"]:
            tokenizer = load_tokenizer(tokenizer)
            settings["tokenizer"] = tokenizer.encode
        return iter(make_dataset(source, decode=decode_clip, **settings, **share))
    raise UserError(f"data form {form!r}; accepted: raw, encoded")


def make_preview_batch(data) -> Callable[[], dict]:
    """The validation split's first video batch (first image batch where all are images)."""

    def make() -> dict:
        preview = data.copy_and_resolve_references()
        preview.image_fraction = 1.0 if data.image_fraction == 1 else 0.0
        stream = make_stream(preview, seed=0, split="validation")
        return next(stream)

    return make
