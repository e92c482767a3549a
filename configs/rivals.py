"""What a comparison with rival methods trains beside a run of `configs/demo.py`.

    gen1 all --config rivals --workdir runs/demo

Every rival starts from a stage of the run and is trained for as many further steps as the run's own
UNet, so that none is measured half trained. The second CLIP has another seed and another size than
the run's own, on which the UNet is conditioned; it measures alone.

Hardware: two CPU cores; the four parts take about half an hour there.
"""

from ml_collections import ConfigDict

from gen1_jax.configs import base, demo, tiny

# Steps that the run's UNet takes after its image stage, and after its video stage.
AFTER_IMAGE = sum(demo.STEPS[stage] for stage in ("video", "structure", "blur"))
AFTER_VIDEO = sum(demo.STEPS[stage] for stage in ("structure", "blur"))


def _stage(name: str, like: str, num_steps: int, **changes) -> ConfigDict:
    """Returns a stage of the demo under another name, with other steps."""
    config = demo.get_config(like).to_dict()
    data = config.pop("data") | changes.pop("data", {})
    config |= {"name": name, "data": data, "num_steps": num_steps, **changes}
    config |= {"checkpoint_every": num_steps, "eval_every": num_steps}
    return base.make(**config)


def rival_image() -> ConfigDict:
    """The image model without structure, for SDEdit frame by frame."""
    return _stage("rival_image", "image", AFTER_IMAGE, init_from="../image/model")


def rival_depth() -> ConfigDict:
    """The image model with depth, which edits frame by frame."""
    fields = ("latents_logvar", "latents", "structure", "structure_level", "content")
    return _stage(
        "rival_depth",
        "image",
        AFTER_IMAGE,
        init_from="../image/model",
        merge=base.ADDS_STRUCTURE_CHANNELS,
        model=tiny.unet(temporal=False, structured=True),
        data={"fields": fields, "levels": base.LEVELS},
    )


def rival_video() -> ConfigDict:
    """The video model without structure, for SDEdit of whole clips."""
    return _stage("rival_video", "video", AFTER_VIDEO, init_from="../video/model", merge={})


def metric_clip() -> ConfigDict:
    """A CLIP of another seed and another size than the one that the UNet is conditioned on."""
    config = demo.get_config("clip").to_dict()
    model = config["model"]
    model["projection_dim"] = 96
    model["text_config"] |= {"hidden_size": 96, "intermediate_size": 192}
    model["vision_config"] |= {"hidden_size": 128, "intermediate_size": 256}
    config |= {"name": "metric_clip", "seed": 1, "num_steps": 400, "checkpoint_every": 400}
    return base.make(**config)


# In the order in which `gen1 all` runs them.
PARTS = {
    "rival_depth": rival_depth,
    "rival_image": rival_image,
    "rival_video": rival_video,
    "metric_clip": metric_clip,
}


def get_config(part: str = "all") -> ConfigDict:
    """Returns one part's config or, for `all`, the list of parts."""
    return base.choose(PARTS, part)
