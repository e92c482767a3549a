"""What a pipeline's UNet was trained on, for gen1.json: sizes, length, pace and structure."""

import contextlib
import warnings
from collections.abc import Sequence

from ml_collections import ConfigDict

from gen1_jax.config import SAVED_CONFIG
from gen1_jax.data_pipelines.encoded.folders import find_recipe, read_pace, read_shapes
from gen1_jax.data_pipelines.settings import ENCODED, check_data
from gen1_jax.data_pipelines.sources import complete
from gen1_jax.errors import UserError
from gen1_jax.files import as_path, read_json
from gen1_jax.structure_settings import (
    DEPTH_KEY,
    DROP_RATE,
    UNRECORDED,
    StructureRecipe,
    read_recipe,
)
from gen1_jax.weights.folder import module_from_config, read_config
from gen1_jax.weights.starting import ReadConfig, read_model_config

_NO_PACE = "the pace of training is not known, so edits take neighbouring frames"
_GIVE_PACE = "settings.stride and settings.frame_rate give it"


def resolve_pipeline(config: ConfigDict, read: ReadConfig = read_config) -> ConfigDict:
    """Returns the config of a pipeline with what the data of training decide.

    Args:
      config: the config of a pipeline part, with resolved paths. Its `data` are the encoded clips
        from which settings that are None are read.
      read: reads the config.json of a model folder.

    Raises:
      UserError: the size or the length is missing and there are no data to read it from, or
        settings.depth or settings.structure is not accepted.
    """
    config = ConfigDict(config.to_dict())
    settings = config.settings
    for key, own in _read_recipe(config).to_json().items():
        if not settings.get(key):
            settings[key] = ConfigDict(own)
    for key, checked in read_recipe(settings.to_dict(), "settings").to_json().items():
        settings[key] = ConfigDict(checked)
    if settings.get(DROP_RATE) is None:
        settings[DROP_RATE] = _read_drop_rate(config)

    def is_open(*names: str) -> bool:
        return any(settings.get(name) is None for name in names)

    needed = is_open("size", "num_frames")
    if needed and not config.get("data"):
        raise UserError("settings.size and settings.num_frames are needed, or data to read them of")
    if not config.get("data") or not is_open("size", "num_frames", "sizes", "stride", "frame_rate"):
        return config
    try:
        data = complete(config.data)
        n, *latent_size, _ = read_shapes(data)["latents"]
    except UserError as error:
        if needed:
            raise
        warnings.warn(f"{_NO_PACE}: {error}; {_GIVE_PACE}", stacklevel=2)
        return config
    pace = read_pace(data)
    if n > 1 and not pace and is_open("stride"):
        why = f"{data.folder} does not say it, because an earlier version encoded it"
        warnings.warn(f"{_NO_PACE}: {why}; {_GIVE_PACE}", stacklevel=2)
    vae = module_from_config(read_model_config(config.folders.vae, name="pipeline", read=read))
    factor = 2 ** (len(vae.block_out_channels) - 1)

    def in_pixels(latent: Sequence[int]) -> tuple[int, ...]:
        return tuple(side * factor for side in latent)

    size = settings.get("size") or in_pixels(latent_size)
    images = [] if data.image_fraction == 0 else map(in_pixels, data.image_buckets or ())
    found = {
        "size": size,
        "num_frames": n,
        "sizes": tuple(dict.fromkeys([tuple(size), *images])),
        **pace,
    }
    for name, value in found.items():
        if is_open(name):
            settings[name] = value
    return config


def _read_recipe(config: ConfigDict) -> StructureRecipe:
    """Returns how structure was made in the data that a pipeline's UNet was trained on."""
    part = as_path(config.folders.unet).parent
    trained = read_json(part / SAVED_CONFIG)
    if trained and DEPTH_KEY in trained:
        return read_recipe(trained, str(part / SAVED_CONFIG))
    data = (trained or config).get("data")
    if data and data.get("form") == ENCODED:
        with contextlib.suppress(UserError):  # the data of a run before may be gone
            return find_recipe(check_data(data))
    return UNRECORDED if trained else StructureRecipe()


def _read_drop_rate(config: ConfigDict) -> float | None:
    """Returns the share of examples that a pipeline's UNet saw without structure, if any."""
    trained = read_json(as_path(config.folders.unet).parent / SAVED_CONFIG) or {}
    return trained.get("loss", {}).get(DROP_RATE) or None
