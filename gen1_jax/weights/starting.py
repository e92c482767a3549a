"""The model that a part trains and the one that it starts from, by their config.json alone.

A config may say a model whole, or what differs from the model that it is like. No weight is read
here, so that models that do not fit end a run before anything is loaded.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gen1_jax.config import resolve_paths
from gen1_jax.diffusion.structure import LEVEL_CHANNELS
from gen1_jax.errors import UserError
from gen1_jax.files import as_path
from gen1_jax.models.config import list_fields
from gen1_jax.pipeline import MODELS
from gen1_jax.settings import show
from gen1_jax.weights.folder import CONFIG, module_from_config, param_template, read_config
from gen1_jax.weights.foreign import special_unet
from gen1_jax.weights.merge import plan_merge
from gen1_jax.weights.naming import MismatchError

ReadConfig = Callable[[Path], dict[str, Any]]  # model folder → the content of its config.json

LIKE, START = "like", "init_from"
SCALE = "scaling_factor"  # of an autoencoder's latents
# Fields that change no parameter and no output: what diffusers' files say of the training.
_NO_EFFECT = ("sample_size",)
# Part of a parameter's name → the fields of the UNet that it comes from.
_CAUSES = {"temporal": ("temporal", "max_frames"), "conv_in/": ("in_channels",)}

# Width of an image embedding → a public CLIP that has it.
_PUBLIC_CLIPS = {
    768: "openai/clip-vit-large-patch14",
    1024: "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
}


class NotDescribed(UserError):
    """Neither a model folder nor a config says what a part's model is."""


def resolve_model(
    model: Mapping[str, Any], init_from: str, *, name: str, read: ReadConfig = read_config
) -> dict[str, Any]:
    """Returns the content of config.json of the model that a part trains.

    Args:
      model: a whole model, or `like` and what differs from the model that it names: the word
        "init_from", or a model folder.
      init_from: the model folder that training starts from; may be empty.
      name: the part's name, for messages.
      read: reads the config.json of a model folder.

    Raises:
      UserError: the model to be like is missing, or a setting is not one of that network.
    """
    changes = dict(model)
    like = changes.pop(LIKE, None)
    if like is None and (model or not init_from):
        if init_from and model.get("_class_name") == "AutoencoderKL" and SCALE not in model:
            # What was trained on its latents knows their scale.
            before = read_model_config(init_from, name=name, read=read)
            changes[SCALE] = module_from_config(before, where=init_from).scaling_factor
        return changes
    like = START if like is None else like
    if not isinstance(like, str):
        raise UserError(
            f"{name}: model.like is {show(like)}; accepted: 'init_from', or a model folder"
        )
    folder = init_from if like == START else like
    if not folder:
        raise UserError(f"{name}: model.like is 'init_from', but init_from is empty; accepted: a "
                        "model folder in either")  # fmt: skip
    first = read_model_config(folder, name=name, read=read)
    whole = {**first, **changes}
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(first.get(key), Mapping):
            whole[key] = {**first[key], **value}
    module = module_from_config(whole, where=f"{name}: model like {folder}")
    _check_inputs(module, f"{name}: model like {folder}")
    return module.to_config()


def check_start(
    model: Mapping[str, Any],
    init_from: str,
    merge: Mapping[str, Any],
    *,
    name: str,
    read: ReadConfig = read_config,
) -> None:
    """Checks that a model can start from another one, by their config.json alone.

    Args:
      model: the content of config.json of the model that is trained.
      init_from: the model folder that training starts from.
      merge: the patterns of `plan_merge`.
      name: the part's name, for messages.
      read: reads the config.json of a model folder.

    Raises:
      UserError: they do not fit; the line names the fields that differ.
    """
    here = module_from_config(model, where=f"{name}: model")
    there = module_from_config(read_model_config(init_from, name=name, read=read), where=init_from)
    if type(here) is not type(there):
        raise UserError(
            f"{name}: init_from {init_from} holds {type(there).__name__}; accepted: "
            f"{type(here).__name__}"
        )
    _check_inputs(there, f"{name}: init_from {init_from}")
    own, other = list_fields(here), list_fields(there)
    differ = [key for key in own if own[key] != other[key] and key not in _NO_EFFECT]
    if not differ:
        return
    try:
        plan_merge(param_template(here), param_template(there), **merge)
    except MismatchError as error:
        paths = [*error.missing, *error.unexpected, *(path for path, *_ in error.wrong_shapes)]
        for part, keys in _CAUSES.items():
            if not any(part in path for path in paths):  # the merge allows these to differ
                differ = [key for key in differ if key not in keys]
        fields = ", ".join(f"{key} {show(other[key])} there, {show(own[key])} here"
                           for key in differ)  # fmt: skip
        raise UserError(
            f"{name}: init_from {init_from} is not the model of this config: {fields}; accepted: "
            f"the same, or 'model': {{'like': 'init_from'}}, which takes them from there "
            "(configs/own.py)"
        ) from error


def _check_inputs(module: Any, what: str) -> None:
    """Refuses a UNet whose input is neither latents nor latents, structure and its level.

    Args:
      module: the model.
      what: how the error's line begins.

    Raises:
      UserError: it is a UNet of inpainting, of another depth model, or the like.
    """
    if type(module).__name__ != MODELS["unet"].kind:
        return
    image = module.out_channels
    structured = 2 * image + LEVEL_CHANNELS
    if module.in_channels not in (image, structured):
        known = special_unet({"_class_name": "UNet2DConditionModel", **list_fields(module)})
        raise UserError(
            f"{what} is {known}; accepted: a UNet of {image} input channels, as of text-to-image "
            f"models, or of {structured}, as of ours"
        )


def check_widths(unet: Any, width: int, channels: int, *, name: str, where: str) -> None:
    """Checks that a UNet takes the embeddings of a CLIP and the latents of an autoencoder.

    Args:
      unet: the UNet's module.
      width: width of an image embedding.
      channels: channels of the latents.
      name: the part's name, for messages.
      where: where the embeddings come from, for messages.

    Raises:
      UserError: they do not fit.
    """
    wanted = unet.cross_attention_dim
    if width != wanted:
        public = f", such as {_PUBLIC_CLIPS[wanted]}" if wanted in _PUBLIC_CLIPS else ""
        raise UserError(
            f"{name}: the UNet's cross_attention_dim is {wanted}, and image embeddings of {where} "
            f"have {width} numbers; accepted: a CLIP whose projection_dim is {wanted}{public} "
            "(`gen1 import --clip`, then `gen1 precompute`), or a UNet of that width"
        )
    if channels != unet.out_channels:
        raise UserError(
            f"{name}: the UNet predicts latents of {unet.out_channels} channels, and those of "
            f"{where} have {channels}; accepted: the autoencoder that belongs to the UNet"
        )


def read_model_config(folder: str, *, name: str, read: ReadConfig) -> dict[str, Any]:
    try:
        return read(as_path(folder))
    except NotDescribed:
        raise
    except UserError as error:
        raise UserError(
            f"{name} starts from {folder}: {error}; the part before it makes it, or `gen1 import`"
        ) from None


def read_parts(load_part: Callable[[str], ConfigDict]) -> ReadConfig:
    """Returns a reader of model configs that needs no folder where a part describes its model.

    Args:
      load_part: part → its config.
    """

    def read(folder: Path) -> dict[str, Any]:
        # A folder that begins with `..` belongs to a run that was not named.
        if folder.parts[:1] != ("..",) and (folder / CONFIG).is_file():
            return read_config(folder)
        part = folder.parent.name
        config = load_part(part)
        model = config.get("model")
        if not model:
            made_by = config.get("made_by", f"gen1 train --config NAME:{part}")
            raise NotDescribed(
                f"no {folder / CONFIG}, and the config says no model of the part {part}; "
                f"{made_by} makes it, and --workdir RUN/PART finds it"
            )
        config = resolve_paths(config, folder.parent)
        model = config.model
        return resolve_model(model.to_dict(), config.get("init_from", ""), name=part, read=read)

    return read
