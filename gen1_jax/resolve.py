"""Fills in what a config leaves open and its files decide: the model, and the sizes of the data.

A part's config need not repeat what lies on the disk. A model may be "like" another one, of which
config.json gives every width; the fields of a batch follow from the objective, and sizes from the
data. Everything is resolved and compared before data, encoders or programs are made ready, so that
parts that do not fit together end the run at once.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gen1_jax.config import resolve_paths
from gen1_jax.data_pipelines.encoded.folders import find_recipe, read_shapes
from gen1_jax.data_pipelines.mixture import IMAGE_FRACTION
from gen1_jax.data_pipelines.settings import ENCODED, check_data
from gen1_jax.data_pipelines.sources import complete, fill
from gen1_jax.errors import UserError
from gen1_jax.files import as_path, join
from gen1_jax.models.prior import SCALE, read_own
from gen1_jax.pipeline import ENCODERS
from gen1_jax.structure_settings import StructureRecipe, read_recipe
from gen1_jax.tokenizer import load_tokenizer
from gen1_jax.weights import prior_scale
from gen1_jax.weights.folder import module_from_config, read_config
from gen1_jax.weights.starting import (
    ReadConfig,
    check_start,
    check_widths,
    read_model_config,
    read_parts,
    resolve_model,
)

# ---- a trained part


def resolve_training(
    config: ConfigDict,
    read: ReadConfig = read_config,
    *,
    has_data: bool = True,
    begun: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """Returns the config of a trained part, whole and checked, with what follows filled in.

    Args:
      config: the part's config, with resolved paths.
      read: reads the config.json of a model folder.
      has_data: whether the data are there. If not, the config must say the sizes.
      begun: the model of a run that is continued, which no longer needs the one it began from.

    Raises:
      UserError: a model, a data set or a setting is missing, or they do not fit together.
    """
    config, name = ConfigDict(config.to_dict()), config.name
    data, frozen = check_data(config.data), config.frozen.to_dict()
    merge = config.merge.to_dict()
    try:
        model = resolve_model(config.model.to_dict(), config.init_from, name=name, read=read)
    except UserError:
        if not begun:
            raise
        model = dict(begun)
    if config.objective == "prior":
        model = _fill_scale(model, config, begun, read=read)
    if config.init_from and not _is_open(model) and not begun:
        check_start(model, config.init_from, merge, name=name, read=read)
    data = complete(data) if has_data else fill(data, {"image_fraction": IMAGE_FRACTION})
    shapes = read_shapes(data) if has_data and data.form == ENCODED else {}
    if config.objective == "prior" and shapes:
        _check_captions(config, data.folder, shapes)
    if _is_open(model):
        model = _fill_prior(model, frozen, name=name, read=read)
    module = module_from_config(model, where=f"{name}: model")
    if config.objective == "diffusion":
        if data.form != ENCODED:
            frozen = _add_encoders(frozen, name)
        _check_unet(module, data, shapes, frozen, name=name, read=read)
        is_new = not config.init_from or any("temporal" in new for new in merge["new"])
        if is_new and not begun and not config.loss.get("random_positions"):
            _check_positions(module, data, name)
    fields = needed_fields(config.objective, data.form, module, config.loss.to_dict())
    if data.fields is None:
        data = dataclasses.replace(data, fields=fields)
    if missing := [field for field in fields if field not in data.fields]:
        raise UserError(
            f"{name}: data.fields is {','.join(data.fields)} and lacks {', '.join(missing)}, which "
            f"objective {config.objective} reads; accepted: {','.join((*data.fields, *missing))}"
        )
    if has_data and data.form == ENCODED:
        for key, found in _recipe_of_data(config, data).to_json().items():
            config[key] = ConfigDict(found)
    config.model, config.frozen = ConfigDict(model), ConfigDict(frozen)
    config.data = ConfigDict(_merge_filled(config.data.to_dict(), data))
    return config


def _recipe_of_data(config: ConfigDict, data: Any) -> StructureRecipe:
    """Returns how the structure was made that encoded data hold.

    Raises:
      UserError: the config says otherwise.
    """
    given, found = read_recipe(config.to_dict(), config.name), find_recipe(data)
    if given not in (found, StructureRecipe()):
        raise UserError(
            f"{config.name} and {data.folder}, which was encoded before, differ: "
            f"{given.differences(found)}; `gen1 precompute` takes --set structure.extractor=… and "
            "depth.range=…"
        )
    return found


def _merge_filled(given: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """Returns `data` as it was given, with the settings that follow from other things filled in."""
    filled = dict(given)
    for field in dataclasses.fields(data):
        value = getattr(data, field.name)
        if field.default is None and given.get(field.name) is None and value is not None:
            filled[field.name] = value
    return filled


def needed_fields(
    objective: str, form: str, module: Any, loss: Mapping[str, Any]
) -> tuple[str, ...]:
    """Returns the fields that batches of an objective must have, by their names in `Batch`."""
    if objective == "prior":
        return ("content", "tokens")
    if objective != "diffusion":
        return ("frames", *{"contrastive": ("tokens",), "depth": ("depth",)}.get(objective, ()))
    if form != ENCODED:  # encoders that run in the training step make the rest of these
        return ("frames", "structure_level", "content_frame")
    drawn = ("latents_logvar",) if loss.get("latents_drawn") else ()
    structured = module.in_channels > module.out_channels
    structure = ("structure", "structure_level") if structured else ()
    return ("latents", *drawn, *structure, "content")


# ---- widths


def _is_open(model: Mapping[str, Any]) -> bool:
    return any(model.get(key, 0) is None for key in ("embedding_dim", "num_embeddings"))


def _check_captions(config: ConfigDict, folder: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UserError unless encoded data hold captions as long as the tokenizer makes them."""
    if "tokens" not in shapes:
        raise UserError(
            f"{config.name}: the encoded data hold no captions, which a prior learns from; encode "
            "with a tokenizer (`gen1 import --clip`, or --tokenizer)"
        )
    length, stored = load_tokenizer(config.tokenizer).context_length, shapes["tokens"][-1]
    if length != stored:
        raise UserError(
            f"{config.name}: {config.tokenizer} makes texts of {length} tokens, and {folder} holds "
            f"texts of {stored}; accepted: the tokenizer that it was encoded with"
        )


def _fill_prior(
    model: Mapping[str, Any],
    frozen: Mapping[str, str],
    *,
    name: str,
    read: ReadConfig,
) -> dict[str, Any]:
    """Returns a prior's config.json with the widths of CLIP, where they were left open."""
    if "clip" not in frozen:
        raise UserError(f"{name}: frozen has no clip, whose text the prior reads")
    clip = module_from_config(
        read_model_config(frozen["clip"], name=name, read=read), where=frozen["clip"]
    )
    widths = {
        "embedding_dim": clip.projection_dim,
        "num_embeddings": clip.text_config.max_position_embeddings,
    }
    return {**model, **{key: x for key, x in widths.items() if model.get(key) is None}}


def _fill_scale(
    model: Mapping[str, Any],
    config: ConfigDict,
    begun: Mapping[str, Any] | None,
    *,
    read: ReadConfig,
) -> dict[str, Any]:
    """Returns a prior's config.json that says in which length the prior reads text embeddings.

    A prior is trained on as it was made. All that were begun before the setting came read content.
    """
    earlier = None
    if begun:
        earlier = {SCALE: "content", **read_own(begun)}
    elif config.init_from:
        earlier = read_model_config(config.init_from, name=config.name, read=read)
    return prior_scale.fill_config(model, config.model.to_dict(), earlier)


def _add_encoders(frozen: Mapping[str, str], name: str) -> dict[str, str]:
    """Adds the encoders that raw batches need; they lie in the run of those that are named."""
    frozen = dict(frozen)
    runs = [as_path(folder).parent.parent for folder in frozen.values()]
    for kind in ("vae", "clip", "depth"):
        found = [run / ENCODERS[kind].run_folder / "model" for run in runs]
        found = [str(folder) for folder in found if folder.is_dir()]
        if kind not in frozen and not found:
            raise UserError(
                f"{name}: batches of frames need the encoders vae, clip and depth, and frozen has "
                f"no {kind}; `gen1 precompute` encodes ahead of training instead"
            )
        frozen.setdefault(kind, *found[:1])
    return frozen


def _check_unet(
    unet: Any,
    data: Any,
    shapes: Mapping[str, tuple[int, ...]],
    frozen: Mapping[str, str],
    *,
    name: str,
    read: ReadConfig,
) -> None:
    """Raises UserError unless the UNet takes the latents, frames and embeddings of the data."""
    if not hasattr(unet, "cross_attention_dim"):
        raise UserError(f"{name}: objective diffusion trains a UNet, not a {type(unet).__name__}")
    if shapes:
        width, channels, where = shapes["content"][-1], shapes["latents"][-1], data.folder
    elif data.form != ENCODED:
        where = frozen["clip"]
        width = module_from_config(read_model_config(where, name=name, read=read)).projection_dim
        channels = module_from_config(
            read_model_config(frozen["vae"], name=name, read=read)
        ).latent_channels
    else:
        return
    check_widths(unet, width, channels, name=name, where=where)
    frames = data.num_frames or 1
    if unet.temporal and data.image_fraction != 1 and frames > unet.max_frames:
        raise UserError(
            f"{name}: clips have {frames} frames, and the model's max_frames is {unet.max_frames}; "
            f"accepted: --set model.max_frames={frames}, where temporal layers are new, or shorter "
            "clips"
        )


def _check_positions(unet: Any, data: Any, name: str) -> None:
    """Raises UserError if a new UNet would take clips whose positions are never trained."""
    if unet.temporal and data.image_fraction != 1 and data.num_frames < unet.max_frames:
        raise UserError(
            f"{name}: model.max_frames is {unet.max_frames}, and clips of {data.num_frames} frames "
            "train no position beyond; accepted: --set loss.random_positions=true, or "
            f"model.max_frames={data.num_frames}"
        )


# ---- other parts


def check_encoding(config: ConfigDict, read: ReadConfig = read_config) -> None:
    """Checks, before anything is encoded, that a UNet can be trained on what will be encoded.

    Args:
      config: the config of an encoding part, with resolved paths. Its `unet` names the UNet;
        without one, nothing is checked.
      read: reads the config.json of a model folder.

    Raises:
      UserError: a model is missing, or the encoders do not belong to the UNet.
    """
    if not config.get("unet"):
        return
    folders = {"unet": config.unet, "clip": config.frozen.clip, "vae": config.frozen.vae}
    models = {
        kind: module_from_config(
            read_model_config(folder, name="encoding", read=read), where=folder
        )
        for kind, folder in folders.items()
    }
    check_widths(
        models["unet"],
        models["clip"].projection_dim,
        models["vae"].latent_channels,
        name=config.unet,
        where=folders["clip"],
    )


# ---- parts that are not made yet, for `gen1 compile` and `gen1 plan`

LoadPart = Callable[[str], ConfigDict]  # part → its config


def resolve_planned(
    config: ConfigDict, load_part: LoadPart, workdir: Path | None = None
) -> ConfigDict:
    """Returns a trained part's config as whole as other parts and the files of its run make it.

    Args:
      config: the part's config.
      load_part: part → its config.
      workdir: the part's folder, where there is a run.

    Raises:
      UserError: a model or a size is left to files that are not there.
    """
    config = resolve_paths(config, workdir) if workdir else config
    data = check_data(config.data)
    left_open = [f"data.{x}" for x in ("num_frames", "buckets") if getattr(data, x) is None]
    if left_open:
        try:
            complete(data)
        except UserError as error:
            raise UserError(
                f"{config.name}: {' and '.join(left_open)} are left to the data: {error}; or give "
                f"--workdir RUN/{config.name}, or say them, such as --set data.num_frames=8 "
                "data.buckets=((32,56),)"
            ) from None
    return resolve_training(config, read_parts(load_part), has_data=bool(left_open))


def describe_models(
    folders: Mapping[str, str], load_part: LoadPart, workdir: Path | None = None
) -> dict[str, dict[str, Any]]:
    """Returns the config.json of models, from their folders or from the parts that make them.

    Args:
      folders: name → model folder, `../PART/model`.
      load_part: part → its config.
      workdir: the folder of the part that names them, where there is a run.

    Raises:
      UserError: neither says what a model is.
    """
    read = read_parts(load_part)
    return {
        name: read(as_path(join(workdir, folder) if workdir else folder))
        for name, folder in folders.items()
    }
