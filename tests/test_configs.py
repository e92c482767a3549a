"""Every config in configs/: complete, explained, and made of models and data that exist."""

import math
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from gen1_jax.conditioning import SETTINGS, Conditioner
from gen1_jax.config import load_config, resolve_paths
from gen1_jax.configs import demo, paper, tiny
from gen1_jax.errors import UserError
from gen1_jax.training.loop import check_settings
from gen1_jax.training.objectives import make_objective
from gen1_jax.training.step import make_optimizer
from gen1_jax.weights.folder import module_from_config, param_template
from gen1_jax.weights.merge import merge_params
from gen1_jax.workflow import KINDS

CONFIGS = {"tiny": tiny, "demo": demo, "paper": paper}
EACH = [(name, part) for name, module in CONFIGS.items() for part in module.PARTS]


@pytest.mark.parametrize(("name", "part"), EACH)
def test_every_part_can_be_run(name, part):
    config = CONFIGS[name].get_config(part)
    assert config.kind in KINDS
    if config.kind != "train":
        return
    module = module_from_config(config.model.to_dict())
    make_objective(config.objective, module, Conditioner(), config.loss.to_dict())
    make_optimizer(num_steps=config.num_steps, **config.optimizer)
    assert config.name == part and config.num_steps > config.optimizer.warmup_steps
    if config.data.form == "raw":
        assert {"frames"} <= set(config.data.fields)
    if config.kind == "train":
        check_settings(config)


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
    get = CONFIGS[name].get_config
    folders = {"../" + part for part in CONFIGS[name].PARTS}

    def paths(tree):
        for value in tree.values():
            if isinstance(value, dict):
                yield from paths(value)
            elif isinstance(value, str) and value.startswith("../"):
                yield value

    for index, part in enumerate(CONFIGS[name].PARTS):
        earlier = {"../" + p for p in CONFIGS[name].PARTS[:index]}
        for path in paths(get(part).to_dict()):
            assert "/".join(path.split("/")[:2]) in folders & earlier, (part, path)
    width = get("clip").model.projection_dim
    assert get("blur").model.cross_attention_dim == get("prior").model.embedding_dim == width
    length = get("tokenizer").context_length
    assert get("clip").model.text_config.max_position_embeddings == length
    assert get("prior").model.num_embeddings == length
    settings = get("pipeline").settings
    assert set(settings) == set(SETTINGS)
    assert settings.num_frames <= get("blur").model.max_frames
    size, patch = get("depth").model.image_size, get("depth").model.patch_size
    assert size % patch == 0 and settings.size[0] % 2 == 0
    assert sorted(get("blur").data.levels) == list(range(8))


def test_the_demo_is_the_tiny_run_with_less_of_it():
    for part in tiny.PARTS:
        if tiny.get_config(part).kind == "train":
            small, large = demo.get_config(part), tiny.get_config(part)
            assert small.num_steps < large.num_steps and small.model == large.model
    assert demo.get_config("evaluation").num_clips >= 32


def test_the_paper_s_sizes():
    """Section 4.1 of the paper; Stable Diffusion 1.5's number of parameters."""
    get = paper.get_config
    steps = {stage: get(stage).num_steps for stage in ("image", "video", "structure", "blur")}
    assert steps == {"image": 15_000, "video": 75_000, "structure": 25_000, "blur": 10_000}
    blur = get("blur")
    assert (blur.data.batch_size, blur.data.image_batch_size) == (1152, 9216)
    assert blur.data.num_frames == 8 and "--num-frames 8 --stride 4" in get("footage").made_by
    assert blur.data.image_fraction == 0.125 and get("image").data.image_fraction == 1
    assert blur.data.buckets == ((32, 56),)
    assert set(blur.data.image_buckets) == {(40, 40), (40, 48), (48, 40), (32, 56), (56, 32)}
    count = sum(x.size for x in jax.tree.leaves(zeros_of(get("unet").model.to_dict())))
    assert count == 859_520_964


# ------------------------------------------------------------------------------------- reading


def test_overrides_change_what_they_name():
    spec = "tiny:video"
    config = load_config(spec, ["num_steps=7", "optimizer.weight_decay=0", "dtype=bfloat16"])
    assert (config.num_steps, config.optimizer.weight_decay) == (7, 0)
    assert config.dtype == "bfloat16"
    assert load_config(spec, ["data.levels=(0,3)"]).data.levels == (0, 3)
    assert load_config(spec, ["init_from=/a=b"]).init_from == "/a=b"
    assert load_config("tiny").kind == "all"
    path = Path(tiny.__file__)
    assert load_config(f"{path}:video").to_dict() == load_config(spec).to_dict()


@pytest.mark.parametrize(
    "override",
    ["steps=3", "num_steps=x", "num_steps=1.5", "optimizer=3", "optimizer.rate=1", "=3"],
)
def test_overrides_that_change_nothing_are_refused(override):
    with pytest.raises(UserError, match="keys: .*num_steps"):
        load_config("tiny:video", [override])


def test_paths_are_relative_to_the_parts_own_folder(tmp_path):
    config = ConfigDict({"a": "../image/model", "b": {"c": "../x"}, "d": "/y", "e": math.pi})
    resolved = resolve_paths(config, tmp_path / "video")
    assert resolved.a == str(tmp_path / "image" / "model") and resolved.b.c == str(tmp_path / "x")
    assert resolved.d == "/y" and resolved.e == math.pi
