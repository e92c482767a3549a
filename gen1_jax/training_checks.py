"""What can be trained: settings and batches, checked before anything is read or compiled."""

from ml_collections import ConfigDict

from gen1_jax.config import check_config
from gen1_jax.distributed import batch_parts, check_batch, check_clips_at_once
from gen1_jax.errors import UserError
from gen1_jax.training.lora import TRAINED


def check_settings(config) -> ConfigDict:
    """Returns the config of a trained part, checked, with its defaults.

    Raises:
      UserError: a value that cannot be trained with.
    """
    config = check_config(config, config.get("name", "config"))
    if config.mesh.frames != 1 and config.objective != "diffusion":
        raise UserError(
            f"{config.name}: mesh.frames is {config.mesh.frames}; this part accepts 1: only the "
            "UNet's stages shard the frames of a clip"
        )
    if config.reduce_once != "no" and (
        config.mesh.frames != 1 or config.objective == "contrastive"
    ):
        raise UserError(
            f"{config.name}: reduce_once is {config.reduce_once}; this part accepts 'no': CLIP's "
            "loss compares all examples of a batch, and mesh.frames shares out a clip's frames"
        )
    if config.lora.rank:
        if config.objective != "diffusion" or config.trains not in ((), TRAINED):
            raise UserError(
                f"{config.name}: lora.rank is {config.lora.rank}, which a stage of the UNet "
                "accepts, without trains: a LoRA alone is trained then"
            )
        config.trains = TRAINED
        config.merge.new = (*config.merge.new, *(x for x in TRAINED if x not in config.merge.new))
    if config.dtype == "float16":
        raise UserError(
            f"{config.name}: dtype is float16, in which gradients below 6e-8 vanish; bfloat16 and "
            "float32 are accepted in training"
        )
    if config.microbatches != 1 and config.objective == "contrastive":
        raise UserError(
            f"{config.name}: microbatches is {config.microbatches}; this part accepts 1: each "
            "example is compared with all others of the batch"
        )
    return config


def check_batches(config, mesh) -> None:
    """Checks, before anything is read or compiled, that a part's batches can be divided.

    Raises:
      UserError: they do not divide over the devices, or into microbatches.
    """
    data, parts = config.data, config.microbatches
    images = data.get("image_fraction", 0)
    for key, num_frames, is_read in (
        ("batch_size", data.get("num_frames", 1), images < 1),
        ("image_batch_size", 1, images > 0),
    ):
        if not is_read or key not in data:
            continue
        check_batch(data[key], num_frames, mesh)
        if data[key] % parts:
            raise UserError(
                f"{config.name}: data.{key} is {data[key]}, which does not divide into {parts} "
                f"microbatches; a multiple of {parts} is accepted"
            )
        check_clips_at_once(data[key], num_frames, parts, mesh)
        if config.reduce_once != "no" and data[key] % (parts * batch_parts(mesh)):
            raise UserError(
                f"{config.name}: data.{key} is {data[key]}; with reduce_once each of "
                f"{batch_parts(mesh)} devices computes {parts} microbatches of its own: a multiple "
                f"of {parts * batch_parts(mesh)} is accepted"
            )
