"""Reading configs: `--set`, odd values, paths, configs of one's own, what changed since a run."""

import copy
import functools
import math
from pathlib import Path
from typing import get_args

import pytest
from ml_collections import ConfigDict

from gen1_jax import config as config_module
from gen1_jax.config import (
    DTYPES,
    changed_settings,
    check_config,
    load_config,
    load_saved_config,
    resolve_paths,
)
from gen1_jax.configs import base, losses, schema, tiny
from gen1_jax.errors import UserError
from gen1_jax.files import write_json
from gen1_jax.models.remat import REMAT
from gen1_jax.pipeline import ENCODERS, MODELS
from gen1_jax.resolve import describe_models
from gen1_jax.settings import describe, list_kinds
from gen1_jax.training.objectives import OBJECTIVES
from gen1_jax.training.state import make_optimizer
from gen1_jax.workflow import KINDS


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
    ("override", "line"),
    [
        ("steps=3", "no key 'steps'; did you mean 'num_steps'?"),
        ("num_steps=x", "num_steps is 'x' (text); a whole number is accepted"),
        ("num_steps=1.5", "num_steps is 1.5 (a number); a whole number is accepted"),
        ("num_steps=0", "num_steps is 0; a whole number of 1 or more is accepted"),
        ("seed=-1", "seed is -1; a whole number from 0 to 4294967295 is accepted"),
        ("dtype=float33", "dtype is 'float33'; 'float32', 'bfloat16' or 'float16' is accepted"),
        ("remat=all", "remat is 'all'; 'none', 'products' or 'layer' is accepted"),
        ("optimizer=3", "optimizer is a group; such as optimizer.learning_rate=VALUE"),
        ("optimizer.rate=1", "no key 'optimizer.rate'; did you mean 'optimizer.learning_rate'?"),
        ("optimzer.b1=1", "no key 'optimzer.b1'; did you mean 'optimizer.b1'?"),
        ("mesh.fsdp=two", "mesh.fsdp is 'two' (text); a whole number is accepted"),
        ("merge.new=3", "merge.new is 3 (a whole number); a list of texts is accepted"),
        ("sharding=1", "sharding is 1 (a whole number); a list, each a list of 2, 'place', 'in' "),
        ("loss.kl=1", "no key 'loss.kl'"),
        ("loss.latents_drawn=maybe", "loss.latents_drawn is 'maybe' (text); True or False is acc"),
        ("model.frames=3", "no key 'model.frames'; did you mean 'model.max_frames'?"),
        ("model.max_frames=x", "model.max_frames is 'x' (text); a whole number or a list of who"),
        ("frozen.vea=x", "no key 'frozen.vea'; did you mean 'frozen.vae'?"),
        ("data.batch=3", "no key 'data.batch'; did you mean 'data.batch_size'?"),
        ("zzz=3", "no key 'zzz'"),
        ("=3", "key.path=value is accepted"),
        ("num_steps", "key.path=value is accepted"),
    ],
)
def test_overrides_that_do_not_fit_end_in_one_line(override, line):
    with pytest.raises(UserError) as caught:
        load_config("tiny:video", [override])
    assert line in str(caught.value) and len(str(caught.value)) < 250


def test_overrides_are_read_as_their_types_want_them():
    overrides = ["optimizer.learning_rate=1", "data.fields=latents,content", "mesh.fsdp=2"]
    overrides += ["num_steps=1e4", "name=7", "loss.zero_terminal_snr=true", "model.max_frames=24"]
    config = load_config("tiny:video", overrides)
    assert config.optimizer.learning_rate == 1.0 and config.num_steps == 10_000
    assert config.data.fields == ("latents", "content") and config.mesh.to_dict() == {
        "data": -1, "fsdp": 2, "frames": 1,
    }  # fmt: skip
    assert config.name == "7" and config.loss.zero_terminal_snr is True
    assert config.model.max_frames == 24
    with pytest.raises(UserError, match="--set num_steps=3: name a part too, such as tiny:video"):
        load_config("tiny", ["num_steps=3"])


def test_the_schema_has_the_defaults_of_the_code():
    for name, make in OBJECTIVES.items():
        rows = {row.name: row.default for row in describe(losses.LOSSES[name])}
        assert rows == make.__kwdefaults__
    kinds = list_kinds(schema.Training)
    assert set(get_args(kinds["remat"])) == REMAT.keys()
    assert {key[7:] for key in kinds if key.startswith("frozen.")} == ENCODERS.keys()
    folders = {key[8:] for key in list_kinds(schema.Pipeline) if key.startswith("folders.")}
    assert folders == MODELS.keys()
    assert set(schema.Optimizer.__annotations__) == set(make_optimizer.__kwdefaults__) | {
        "learning_rate", "warmup_steps",
    }  # fmt: skip
    assert schema.KINDS.keys() == KINDS.keys() and get_args(schema.Dtype) == DTYPES


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ("'t', 'depth', num_step=3", "t: no key 'num_step'; did you mean 'num_steps'?"),
        ("'t', 'depht'", "t: objective is 'depht'; 'autoencoder', 'contrastive', 'depth', 'prio"),
        ("'t', 'depth', seed='x'", "t: seed is 'x' (text); a whole number from 0 to 4294967295"),
        ("'t', 'depth', optimizer={'b3': 1}", "t: no key 'optimizer.b3'; accepted: optimizer.lear"),
        ("'t', 'depth', loss={'scale': 1}", "no key 'loss.scale'; did you mean 'loss.scales'?"),
        ("'t', 'depth', model=3", "t: model is 3 (a whole number); a mapping is accepted"),
        ("'t', 1 / 0", "mine.py, line 3: ZeroDivisionError: division by zero"),
        ("'t', 'depth')\nmissing(1", "mine.py, line 4 cannot be loaded: NameError"),
        ("'t'", "TypeError: training() missing 1 required positional argument: 'objective'"),
    ],
)
def test_a_config_of_ones_own_that_is_wrong_ends_in_one_line(tmp_path, fields, line):
    path = tmp_path / "mine.py"
    path.write_text(
        "from gen1_jax.configs import base\n"
        f"def get_config(part):\n    return base.training({fields})\n"
    )
    with pytest.raises(UserError) as caught:
        load_config(f"{path}:t")
    assert line in str(caught.value) and str(path) in str(caught.value)


ODD = (
    *(
        None,
        True,
        -1,
        0,
        10**400,
        1.5,
        math.nan,
        math.inf,
        "",
        "x",
        "a\nb",
        b"x",
        Path("x"),
        object(),
    ),
    *((), (1,), ("x",), ((1, 2),), [None], {}, {"x": 1}, {1: {}}, ConfigDict({"y": 2})),
)
TEXTS = ("", "x", "None", "(", "{}", "[1,", "1e999", "9" * 400, "0x", "a,b", "'", "\n", "-", "=")


@pytest.mark.parametrize(
    "spec", ["tiny:video", "tiny:evaluation", "paper:encoded", "paper:clip", "own:pipeline"]
)
def test_no_value_ends_in_anything_but_one_line(spec):
    """Whatever stands in a config or behind --set, at every key; a third of each at any one."""
    values = load_config(spec).to_dict()

    def is_refused(make) -> bool:
        try:
            make()
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 500
            return True
        return False

    refused = 0
    for number, path in enumerate(config_module._kinds_of(values)):
        *groups, key = path.split(".")
        for odd in ODD[number % 3 :: 3]:
            tree = copy.deepcopy(values)
            functools.reduce(lambda tree, group: tree.setdefault(group, {}), groups, tree)[key] = (
                odd
            )
            refused += is_refused(lambda tree=tree: check_config(tree))
        for text in TEXTS[number % 3 :: 3]:
            refused += is_refused(lambda text=text: _override(values, path, text))  # noqa: B023
    assert refused > 30


def _override(values: dict, path: str, text: str) -> None:
    config_module._override(ConfigDict(values), [f"{path}={text}"], "config")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{'kind': 'train', 'name': 'a'}", "objective is missing; 'autoencoder', 'contrastive'"),
        ("{'kind': 'trian'}", "kind is 'trian'; accepted: train, encode, .*did you mean 'train'"),
        ("{}", "kind is None; accepted: train, encode"),
        ("{'kind': 'world', 'bulder': 'tiny'}", "no key 'bulder'; did you mean 'builder'"),
        ("{'kind': 'all', 'part': ('a',)}", "no key 'part'; did you mean 'parts'"),
        ("{'kind': 'all'}", "parts is missing; a list of texts is accepted: names of the parts"),
        ("None", "is a NoneType; a ConfigDict is accepted"),
    ],
)
def test_a_config_by_hand_is_checked_as_well(tmp_path, text, line):
    path = tmp_path / "mine.py"
    path.write_text(f"def get_config(part):\n    return {text}\n")
    with pytest.raises(UserError, match=line):
        load_config(f"{path}:a")


def test_paths_are_relative_to_the_parts_own_folder(tmp_path):
    config = ConfigDict({"a": "../image/model", "b": {"c": "../x"}, "d": "/y", "e": math.pi})
    resolved = resolve_paths(config, tmp_path / "video")
    assert resolved.a == str(tmp_path / "image" / "model") and resolved.b.c == str(tmp_path / "x")
    assert resolved.d == "/y" and resolved.e == math.pi
    resolved = resolve_paths(ConfigDict({"a": "~/x", "b": ("~/y", "./z"), "c": ".."}), tmp_path)
    home = str(Path.home())
    assert (
        resolved.a == f"{home}/x"
        and resolved.b == (f"{home}/y", "./z")
        and resolved.c == str(tmp_path.parent)
    )


def test_changed_settings_are_told(tmp_path):
    """Wherever the run was started from, and whichever version wrote the settings."""

    def told(workdir: Path, **changes) -> str:
        config = load_config("tiny:video")
        config.unlock()
        config.update_from_flattened_dict(changes)
        return changed_settings(resolve_paths(config, workdir), workdir)

    workdir = tmp_path / "run" / "video"
    config = resolve_paths(load_config("tiny:video"), Path("run/video")).to_dict()
    del config["trains"], config["optimizer"]["b1"]
    write_json(workdir / "config.json", config | {"older": 1})
    assert told(workdir) == ""
    assert told(workdir, seed=3, **{"data.levels": (0,)}) == (
        "data.levels was [0, 1, 2, 3, 4, 5, 6, 7], is [0]; seed was 0, is 3"
    )
    assert told(workdir, init_from="../other/model").startswith("init_from was 'run/image/model', ")
    assert told(workdir, init_from="../image/modelx") != "" == told(tmp_path / "nothing", seed=3)
    many = {key: 77 for key in config if type(config[key]) is int}
    assert len(many) == 10 and told(workdir, **many).endswith("; and 2 more")
    (workdir / "config.json").write_text("{")
    assert told(workdir, seed=3) == ""


def test_models_lie_in_the_folders_of_the_table_of_parts():
    folders = base.model_folders(*ENCODERS)
    assert folders == {n: f"../{part.run_folder}/model" for n, part in ENCODERS.items()}
    models = describe_models(folders, lambda part: load_config(f"tiny:{part}"))
    assert models == {
        name: tiny.get_config(part.run_folder).model.to_dict() for name, part in ENCODERS.items()
    }


def test_a_config_of_ones_own_may_build_on_the_base(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from gen1_jax.configs import base\n"
        "def get_config(part):\n"
        "    return base.choose({'mine': lambda: base.training('mine', 'depth', seed=5)}, part)\n"
    )
    config = load_config(f"{path}:mine", ["num_steps=3"])
    assert (config.name, config.seed, config.num_steps) == ("mine", 5, 3)
    with pytest.raises(UserError, match="unknown part 'yours'; known: all, mine"):
        load_config(f"{path}:yours")
    with pytest.raises(
        UserError,
        match="no config 'huge'; accepted: demo, gpu24, node, own, paper, paper_vit_h, "
        "rivals, tiny, v5e16",
    ):
        load_config("huge")


def test_a_model_folder_is_not_the_folder_of_a_trained_part(tmp_path):
    """Both hold a config.json."""
    (tmp_path / "config.json").write_text('{"_class_name": "VideoUNet"}')
    with pytest.raises(UserError, match="accepted: the folder of a trained part"):
        load_saved_config(tmp_path)


def test_an_optimizer_that_is_given_in_part_means_what_it_always_did():
    """A resumed run must not get another schedule because the config leaves keys out."""
    part = {"learning_rate": 1e-3, "warmup_steps": 9}
    given = base.training("a", "depth", optimizer=part, data={}).optimizer
    assert (given.final_fraction, given.b2) == (1.0, 0.999)
    none = base.training("a", "depth", data={}).optimizer
    assert (none.final_fraction, none.b2) == (0.05, 0.99)
