"""Configs: each part is complete and made of what exists; the paper's numbers stand in paper.py."""

from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from gen1_jax.batch import Batch
from gen1_jax.conditioning import Conditioner
from gen1_jax.config import (
    check_config,
    load_config,
)
from gen1_jax.configs import base, demo, gpu24, node, paper, paper_vit_h, rivals, tiny, v5e16
from gen1_jax.data_pipelines.moving_shapes.builder import CONFIGS as WORLDS
from gen1_jax.pipeline import MODELS, SETTINGS
from gen1_jax.training.objectives import make_objective
from gen1_jax.training.state import choose_trained, make_optimizer
from gen1_jax.training_checks import check_settings
from gen1_jax.weights.folder import module_from_config, param_template
from gen1_jax.weights.merge import merge_params
from gen1_jax.workflow import KINDS

CONFIGS = {"tiny": tiny, "demo": demo, "paper": paper}
CONFIGS |= {"node": node, "gpu24": gpu24, "v5e16": v5e16, "paper_vit_h": paper_vit_h}
EACH = [(name, part) for name, module in CONFIGS.items() for part in module.PARTS]
FIELDS = set(Batch.__dataclass_fields__)
# The class that each part's model is built as.
CLASSES = {part.run_folder: part.kind for part in MODELS.values()} | dict.fromkeys(
    ("image", "video", "structure", "blur"), "VideoUNet"
)


def check_train(part: str, config: ConfigDict) -> None:
    check_settings(config)
    module = module_from_config(config.model.to_dict())
    assert type(module).__name__ == CLASSES[part]
    make_objective(config.objective, module, Conditioner(), config.loss.to_dict())
    make_optimizer(num_steps=config.num_steps, **config.optimizer)
    assert config.name == part and config.num_steps > config.optimizer.warmup_steps
    assert 0 < config.ema_decay < 1 and 0 <= config.data.image_fraction <= 1
    # Raw data hold frames, encoded data latents; nothing is asked for that no batch has.
    needed = "content" if part == "prior" else "latents"
    assert {"raw": "frames", "encoded": needed}[config.data.form] in config.data.fields
    assert set(config.data.fields) <= FIELDS
    for rows in ("batch_size", "image_batch_size"):
        assert config.data[rows] % config.microbatches == 0


def check_given(part: str, config: ConfigDict) -> None:
    assert config.made_by.startswith("gen1 ") and not Path(config.holds).is_absolute()
    if "model" in config:
        assert type(module_from_config(config.model.to_dict())).__name__ == CLASSES[part]


def check_pipeline(part: str, config: ConfigDict) -> None:
    assert set(config.folders) == MODELS.keys()
    assert set(config.settings) == set(SETTINGS)


def check_evaluation(part: str, config: ConfigDict) -> None:
    assert config.split == "test" and config.num_clips >= config.num_pictured > 0
    assert config.builder in WORLDS
    first = config.structure_level[0], config.temporal_scale[0]
    assert first == (0, 1.0)  # the plain edit, which the headline figures are of


CHECKS = {
    "train": check_train,
    "given": check_given,
    "encode": lambda part, config: check_config(config),
    "world": lambda part, config: WORLDS[config.builder],
    "tokenizer": lambda part, config: WORLDS[config.builder],
    "pipeline": check_pipeline,
    "evaluation": check_evaluation,
}


@pytest.mark.parametrize(("name", "part"), EACH)
def test_every_part_can_be_run(name, part):
    assert CHECKS.keys() == KINDS.keys()
    config = load_config(f"{name}:{part}")
    CHECKS[config.kind](part, config)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_lists_its_parts_in_order(name):
    assert load_config(name).to_dict() == {"kind": "all", "parts": tuple(CONFIGS[name].PARTS)}
    with pytest.raises(ValueError, match="unknown part 'vidoe'; known: all, "):
        CONFIGS[name].get_config("vidoe")


def zeros_of(model: dict):
    template = param_template(module_from_config(model))
    # No memory is taken: the zeros are one number, seen many times.
    return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), template)


def test_stages_take_over_from_each_other():
    """Nothing is new but what their patterns name. The demo's models are the same (below)."""
    get = tiny.get_config
    for part in ("video", "structure", "blur"):
        config = get(part)
        before = get(Path(config.init_from).parts[1])
        wanted, loaded = (zeros_of(c.model.to_dict()) for c in (config, before))
        _, report = merge_params(wanted, loaded, **config.merge.to_dict())
        assert bool(report.new) == (part == "video") and not report.dropped
        assert report.widened == (("conv_in/kernel",) if part == "structure" else ())


@pytest.mark.parametrize("name", CONFIGS)
def test_parts_fit_together(name):
    get, parts = CONFIGS[name].get_config, list(CONFIGS[name].PARTS)

    def paths(tree):
        for value in tree.values():
            if isinstance(value, dict):
                yield from paths(value)
            elif isinstance(value, str) and value.startswith("../"):
                yield value

    for index, part in enumerate(parts):
        for path in paths(get(part).to_dict()):
            assert path.split("/")[1] in parts[:index], (part, path)
    width = get("clip").model.projection_dim
    assert get("blur").model.cross_attention_dim == get("prior").model.embedding_dim == width
    length = get("tokenizer").context_length
    assert get("clip").model.text_config.max_position_embeddings == length
    assert get("prior").model.num_embeddings == length
    settings = get("pipeline").settings
    assert settings.num_frames == get("blur").data.num_frames <= get("blur").model.max_frames
    size, patch = get("depth").model.image_size, get("depth").model.patch_size
    assert size % patch == 0 and settings.size[0] % 2 == 0
    # The latents that a stage asks for are those of the frames that an edit will have.
    factor = 2 ** (len(get("autoencoder").model.block_out_channels) - 1)
    assert get("blur").data.buckets == (tuple(side // factor for side in settings.size),)


@pytest.mark.parametrize("name", ["own", "paper", "node", "v5e16", "gpu24"])
def test_both_bounds_of_the_moving_average_act(name):
    """In all stages the share bounds what it spans at first, and the decay at some stage's end."""
    configs = [load_config(f"{name}:{stage}") for stage in ("image", "video", "structure", "blur")]
    at_end = [1 + config.ema_share * config.num_steps for config in configs]
    most = [1 / (1 - config.ema_decay) for config in configs]
    assert any(share > bound for share, bound in zip(at_end, most, strict=True))
    for config, *spans in zip(configs, at_end, most, strict=True):
        assert config.num_steps / 50 < min(spans) < config.num_steps / 4


def test_the_demo_is_the_tiny_run_with_less_of_it():
    assert demo.PARTS == tiny.PARTS
    for part in tiny.PARTS:
        small, large = demo.get_config(part), tiny.get_config(part)
        if large.kind == "train":
            assert small.num_steps == demo.STEPS[part] < large.num_steps
            assert (small.model, small.objective) == (large.model, large.objective)
            assert small.data.fields == large.data.fields
    assert demo.get_config("world").builder == demo.get_config("depth").data.builder == "demo"
    assert demo.get_config("evaluation").num_clips >= 32


# ---------------------------------------------------------------- the paper's numbers


def test_the_paper_s_stages():
    """Section 4.1 of the paper."""
    get = paper.get_config
    stages = ("image", "video", "structure", "blur")
    assert {stage: get(stage).num_steps for stage in stages} == {
        **{"image": 15_000, "video": 75_000, "structure": 25_000, "blur": 10_000}
    }
    # A stage goes on from the one before; the first from Stable Diffusion.
    before = [Path(get(stage).init_from).parts[1] for stage in stages]
    assert before == ["unet", "image", "video", "structure"]
    assert [get(stage).model.in_channels for stage in stages] == [4, 4, 12, 12]
    assert ["max_frames" in get(stage).model for stage in stages] == [False, True, True, True]
    assert get("structure").data.levels == (0,)
    assert get("blur").data.levels == base.LEVELS == (0, 1, 2, 3, 4, 5, 6, 7)
    assert [get(stage).data.image_fraction for stage in stages] == [1.0, 0.125, 0.125, 0.125]
    for stage in stages:
        data = get(stage).data
        assert (data.batch_size, data.image_batch_size, data.num_frames) == (1152, 9216, 8)
        assert data.buckets == ((32, 56),)  # 448 × 256 pixels, 8 to a latent
        assert data.image_buckets == ((40, 40), (40, 48), (48, 40), (32, 56), (56, 32))
    assert "--size 256x448 --num-frames 8 --stride 4" in get("footage").made_by
    assert get("encoded").levels_per_clip == 8 and get("encoded").data["size"] == (256, 448)
    settings = get("pipeline").settings.to_dict()
    assert settings["size"] == (256, 448) and settings["guidance_scale"] == 7.5
    assert settings["prior"] == {"num_steps": 25, "guidance_scale": 4.0}


@pytest.mark.parametrize("part", ["image", "structure"])
def test_a_small_gpu_trains_a_third_of_the_parameters_at_most(part):
    config = gpu24.get_config(part)
    template = param_template(module_from_config(config.model.to_dict()))
    trained = choose_trained(template, config.trains)
    count, total = (sum(x.size for x in jax.tree.leaves(t)) for t in (trained, template))
    assert 0 < count < total / 3
    # An image skips temporal layers, so a stage of these alone reads none.
    assert gpu24.get_config("video").data.image_fraction == 0


@pytest.mark.parametrize(
    ("config", "part", "count"),
    [
        (paper, "unet", 859_520_964),  # Stable Diffusion 1.5's
        (paper, "autoencoder", 83_653_863),  # Stable Diffusion 1.5's
        (paper, "clip", 427_616_513),  # CLIP ViT-L/14's
        (paper_vit_h, "unet", 865_910_724),  # Stable Diffusion 2.1's
        (paper_vit_h, "clip", 986_109_441),  # OpenCLIP ViT-H/14's
    ],
)
def test_the_paper_s_models_have_the_published_number_of_parameters(config, part, count):
    template = param_template(module_from_config(config.get_config(part).model.to_dict()))
    assert sum(x.size for x in jax.tree.leaves(template)) == count


def test_the_rivals_start_from_the_demo_s_stages_and_are_trained_as_long():
    for part, stage in (
        ("rival_image", "image"),
        ("rival_depth", "image"),
        ("rival_video", "video"),
    ):
        config, before = rivals.get_config(part), demo.get_config(stage)
        assert config.init_from == f"../{stage}/model"
        wanted, loaded = (zeros_of(c.model.to_dict()) for c in (config, before))
        _, report = merge_params(wanted, loaded, **config.merge.to_dict())
        assert not report.new and not report.dropped
        assert report.widened == (("conv_in/kernel",) if part == "rival_depth" else ())
        stages = list(demo.STEPS)
        assert config.num_steps == sum(demo.STEPS[s] for s in stages[stages.index(stage) + 1 :])
    own, second = demo.get_config("clip"), rivals.get_config("metric_clip")
    assert second.seed != own.seed and second.model.projection_dim != own.model.projection_dim
