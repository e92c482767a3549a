"""Encodes raw clips and images ahead of training, in a job that several processes share.

The bytes of a record follow from the settings, the models and the record's number alone, because a
device always encodes the same ranges of records together. Any number of processes and devices can
therefore resume a job that was stopped. (Devices of another kind, a CPU with another number of
threads, and another `batch_size` may round differently.)
"""

import hashlib
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from gen1_jax.conditioning import Conditioner, EncoderParams
from gen1_jax.data_pipelines.encoded.records import make_layout
from gen1_jax.data_pipelines.encoded.writer import META, EncodedWriter, check_same, clean
from gen1_jax.data_pipelines.settings import Source
from gen1_jax.data_pipelines.to_encode import (
    Raw,
    complete_source,
    describe_source,
    make_structure_map,
    open_records,
    read_pace,
)
from gen1_jax.diffusion.structure import NUM_LEVELS
from gen1_jax.distributed import (
    batch_parts,
    batch_sharding,
    is_lead,
    make_mesh,
    on_lead,
    replicated,
)
from gen1_jax.errors import UserError
from gen1_jax.files import is_remote, read_json
from gen1_jax.made_from import check_encoded
from gen1_jax.resolve import check_encoding
from gen1_jax.runtime import naming_what_to_lower
from gen1_jax.structure_settings import DEPTH_KEY, StructureRecipe, read_recipe
from gen1_jax.tokenizer import load_tokenizer
from gen1_jax.weights.digest import digest_params, digest_tokenizer

# The keys of a config that the stored numbers depend on, beside the data and models. `batch_size`
# is not among them: a job that ran out of memory is resumed with a smaller one.
SETTINGS = ("levels_per_clip", "precision", "dtype", "seed")


def encode(config, workdir: Path, progress: bool, mesh: Mesh | None = None) -> None:
    """Encodes all splits of a config's data. Shards that are finished are not encoded again.

    Args:
      config: an encoding part's; see configs/tiny.py.
      workdir: the part's folder.
      progress: whether to show a bar.
      mesh: devices of this process that share the clips; None: all of them.

    Raises:
      UserError: a setting is not accepted, data or models are missing, the folder was begun with
        other settings, a number does not fit the precision, or the disk is full.
    """
    # ---- what is to be encoded
    is_first = is_lead()
    data = complete_source(config.data, config.splits)
    raws = [raw for split in config.splits for raw in open_records(data, split)]
    if not raws:
        raise UserError(f"nothing to encode: no split of {', '.join(config.splits)} is there")
    check_encoding(config)
    on_lead(lambda: _check_encoders(config, [workdir / raw.folder for raw in raws]))
    for raw in raws if is_first else ():
        if said := raw.describe_crop():
            warnings.warn(f"{raw.folder}: {said} (data.size)", stacklevel=2)
    raws = [raw for raw in raws if not _finished(config, data, raw, workdir / raw.folder)]
    if not raws:
        return
    conditioner, encoder_params = Conditioner.load(
        config.frozen.to_dict(),
        jnp.dtype(config.dtype),
        read_recipe(config.to_dict(), "config"),
    )
    encoder = Encoder(conditioner, encoder_params, config, data, mesh)
    writers = [encoder.make_writer(raw, workdir / raw.folder) for raw in raws]
    if is_first:
        for writer in writers:
            writer.start()

    # ---- this process's shards
    shards = _own_shards(writers)
    bar = tqdm(
        total=sum(len(writers[k].records(shard)) for k, shard in shards),
        unit="clip",
        disable=not (progress and is_first),
        dynamic_ncols=True,
    )
    with bar:
        for k, shard in shards:
            bar.set_description(f"encode {raws[k].folder}")
            records = encoder.records(raws[k], writers[k].records(shard))
            writers[k].write(shard, _counted(_naming(records, raws[k].folder, config), bar))

    for line in encoder.count_troubles():
        tqdm.write(line)

    # ---- the first process finishes each folder once all shards are there; the others wait for it
    pause = 5.0 if is_remote(workdir) else 0.2  # a store is paid by the question
    for raw, writer in zip(raws, writers, strict=True):
        if is_first:
            _wait(lambda writer=writer: not writer.missing(), pause)
            writer.finish(None if raw.are_images else read_pace(data, raw))
            tqdm.write(f"{workdir / raw.folder}: {writer.summary()}")
        else:
            _wait(lambda writer=writer: writer.finished, pause)


class Encoder:
    """The encoders on this process's devices. Each device encodes `batch_size` clips at a time."""

    def __init__(
        self,
        conditioner: Conditioner,
        encoder_params: EncoderParams,
        config: Any,
        data: Source,
        mesh: Mesh | None = None,
    ):
        self._config, self._data = config, data
        self._extractor = (
            conditioner.recipe.extractor if conditioner.recipe.place != "device" else None
        )
        self._tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else None
        self._models = {name: digest_params(params) for name, params in encoder_params.items()}
        self._mesh = make_mesh(devices=jax.local_devices()) if mesh is None else mesh
        self._sharding = batch_sharding(self._mesh)
        self._size = config.batch_size * batch_parts(self._mesh)
        self._encoder_params = jax.device_put(encoder_params, replicated(self._mesh))
        self._function = conditioner.encode_record
        self._encode = jax.jit(self._function, out_shardings=self._sharding)

    def make_writer(self, raw: Raw, folder: Path) -> EncodedWriter:
        """Returns the writer of a folder, which records everything that its bytes depend on."""
        if not len(raw.source):
            raise UserError(f"{raw.folder} holds no records to encode; at least one is needed")
        first, config = self._clip(raw, 0), self._config
        frames, levels = first["frames"][None], self._levels(raw, 0)
        maps = [first["structure_map"][None]] if self._extractor else []
        shapes = jax.eval_shape(self._function, self._encoder_params, frames, levels[None], *maps)
        shapes = {name: x.shape[1:] for name, x in shapes.items()} | {"levels": levels.shape}
        if self._tokenizer:
            shapes["tokens"] = self._tokens(first).shape
        return EncodedWriter(
            folder,
            make_layout(shapes, config.precision),
            count=len(raw.source),
            records_per_shard=config.get("records_per_shard"),
            settings=_settings(config)
            | {"data": describe_source(self._data), "models": self._models}
            | ({"tokenizer": digest_tokenizer(config.tokenizer)} if config.tokenizer else {})
            | {"first_record": hashlib.sha256(first["frames"].tobytes()).hexdigest()},
        )

    def records(self, raw: Raw, numbers: range) -> Iterator[dict[str, np.ndarray]]:
        """Yields the encoded records of a range, in order.

        While the devices compute one group of clips, the host reads the next.
        """
        clips, launched = self._decoded(raw, numbers), None
        for start in range(0, len(numbers), self._size):
            group = list(islice(clips, self._size))
            following = group, self._launch(raw, group, numbers[start : start + self._size])
            if launched:
                yield from self._fetch(*launched)
            launched = following
        yield from self._fetch(*launched)

    def count_troubles(self) -> list[str]:
        """Returns a line for each trouble that this process met with several captions."""
        return self._tokenizer.count_troubles() if self._tokenizer else []

    def _decoded(self, raw: Raw, numbers: range) -> Iterator[dict]:
        """Yields the examples of a range, decoded by threads."""
        import grain

        threads = self._config.num_threads
        clip = partial(self._clip, raw)
        dataset = grain.MapDataset.range(numbers.start, numbers.stop).map(clip)
        return iter(
            dataset.to_iter_dataset(
                grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * self._size)
            )
        )

    def _clip(self, raw: Raw, index: int) -> dict:
        """Returns an example, with its structure map where the devices do not make it."""
        clip = raw.clip(index)
        if self._extractor is None:
            return clip
        return clip | {"structure_map": make_structure_map(self._extractor, clip)}

    def _launch(self, raw: Raw, clips: list[dict], numbers: range) -> dict[str, Any]:
        """Starts to encode a group of clips and returns the arrays, which are still computed."""
        shape = clips[0]["frames"].shape
        for index, clip in zip(numbers, clips, strict=True):
            if clip["frames"].shape != shape:
                raise UserError(
                    f"record {index} of {raw.folder} has frames of {list(clip['frames'].shape)}, "
                    f"others {list(shape)}; all must have one size"
                )
        # The last group is filled up with copies of its last clip.
        padding = [(0, self._size - len(clips))]
        frames = np.stack([clip["frames"] for clip in clips])
        levels = np.stack([self._levels(raw, index) for index in numbers])
        maps = [np.stack([clip["structure_map"] for clip in clips])] if self._extractor else []
        padded = (
            np.pad(x, padding + [(0, 0)] * (x.ndim - 1), mode="edge")
            for x in (frames, levels, *maps)
        )
        placed = jax.device_put(tuple(padded), self._sharding)
        with jax.set_mesh(self._mesh):  # attention kernels run on each device's own shard
            encoded = self._encode(self._encoder_params, *placed)
        return encoded | {"levels": levels}

    def _fetch(self, clips: list[dict], encoded: dict) -> Iterator[dict[str, np.ndarray]]:
        """Yields the records of a group that `_launch` started, once they are computed."""
        encoded = jax.device_get(encoded)
        for i, clip in enumerate(clips):
            record = {name: x[i] for name, x in encoded.items()}
            yield record | ({"tokens": self._tokens(clip)} if self._tokenizer else {})

    def _levels(self, raw: Raw, index: int) -> np.ndarray:
        """Returns the structure levels of a record: level 0, and others at random, in order."""
        rng = np.random.default_rng([self._config.seed, zlib.crc32(raw.folder.encode()), index])
        others = rng.permutation(NUM_LEVELS - 1)[: self._config.levels_per_clip - 1]
        return np.r_[0, np.sort(1 + others)].astype(np.int32)

    def _tokens(self, clip: dict) -> np.ndarray:
        """Returns the caption's tokens, or those of the empty text without a caption."""
        return self._tokenizer.encode_captions([clip.get("caption", "")])[0]


def _settings(config) -> dict[str, Any]:
    """Returns the settings of a config that the stored numbers depend on, as JSON gives them."""
    recipe = read_recipe(config.to_dict(), "config").to_json()
    return {name: config[name] for name in SETTINGS} | recipe


def _finished(config, data: Source, raw: Raw, folder: Path) -> bool:
    """Returns whether a folder is finished, and if so removes what stopped jobs left in it.

    Raises:
      UserError: the folder was made with other settings, or of another number of records.
    """
    known = read_json(folder / META)
    if known is None:
        return False
    wanted = _settings(config) | {"count": len(raw.source)}
    if not raw.are_images:
        wanted["data"] = describe_source(data)
    if DEPTH_KEY not in known and wanted[DEPTH_KEY] == StructureRecipe().to_json()[DEPTH_KEY]:
        # Nobody asked for this; training and edits follow what an earlier version encoded.
        del wanted[DEPTH_KEY]
    check_same(wanted, known, folder)
    clean(folder)
    return True


def _check_encoders(config, folders: Sequence[Path]) -> dict[str, Any]:
    """Checks that finished folders were made with the encoders that are there now.

    Raises:
      UserError: they were made with others.
    """
    for folder in folders:
        if (known := read_json(folder / META)) is not None:
            check_encoded("encoded", known, folder, config)
    return {}


def _own_shards(writers: list) -> list[tuple[int, int]]:
    """Returns the missing shards that this process writes, as (number of writer, shard)."""
    missing = [np.isin(np.arange(w.num_shards), w.missing()) for w in writers]
    flags = np.concatenate(missing)
    if jax.process_count() > 1:
        # All must share out the same list; a fast process may have written a shard by now.
        flags = multihost_utils.broadcast_one_to_all(flags)
    every = [(k, shard) for k, w in enumerate(writers) for shard in range(w.num_shards)]
    left = [every[i] for i in np.flatnonzero(flags)]
    return left[jax.process_index() :: jax.process_count()]


def _naming(records: Iterator, folder: str, config) -> Iterator:
    """Yields the records; running out of memory names the setting to lower."""
    size = config.batch_size
    lower = f"--set batch_size, which is {size}; the same command then goes on from here"
    if size == 1:
        lower = "the size of the frames (batch_size is 1 already)"
    with naming_what_to_lower(f"encoding {folder}", lower):
        yield from records


def _wait(done: Callable[[], bool], seconds: float) -> None:
    """Waits for other processes. If one of them fails, the cluster or jax ends this one too."""
    while not done():
        time.sleep(seconds)


def _counted(records: Iterator, bar: tqdm) -> Iterator:
    """Yields the records and moves the bar."""
    for record in records:
        yield record
        bar.update()
