"""`gen1 config`: what it prints is the config, and says where each value comes from."""

import json
import re
from pathlib import Path

import pytest
import yaml

from gen1_jax import cli
from gen1_jax.config import known_configs, load_config
from gen1_jax.explain import explain, list_parts, write_reference, write_value, write_yaml

EACH = [f"{name}:{part}" for name in known_configs() for part, _ in list_parts(name)]


def without_nulls(tree):
    if isinstance(tree, dict):
        return {key: without_nulls(value) for key, value in tree.items() if value is not None}
    return tree


@pytest.mark.parametrize("spec", EACH)
def test_a_printed_config_is_the_config(spec):
    rows = explain(spec)
    printed = yaml.safe_load(write_yaml(rows))
    expected = json.loads(json.dumps(load_config(spec).to_dict()))
    assert without_nulls(printed) == without_nulls(expected)
    assert all(row.source for row in rows if not row.is_group)
    assert all(
        row.doc for row in rows if not row.path.startswith(("model.", "frozen.", "folders."))
    )


def test_each_value_says_where_it_comes_from(tmp_path):
    def sources(spec, *overrides):
        return {row.path: row.source for row in explain(spec, overrides)}

    found = sources("demo:video", "seed=3", "optimizer.b1=0.9")
    assert found["seed"] == found["optimizer.b1"] == "--set"  # also if it is the default
    assert found["num_steps"] == found["data.batch_size"] == "configs/demo.py"
    assert found["model.max_frames"] == found["optimizer.b2"] == "configs/tiny.py"
    assert found["remat"] == found["loss.preview_steps"] == "default" and found["optimizer"] == ""
    path = tmp_path / "mine.py"
    path.write_text(
        "from gen1_jax.configs import demo\n"
        "def get_config(part):\n"
        "    config = demo.get_config(part)\n"
        "    config.seed = 5\n"
        "    return config\n"
    )
    found = sources(f"{path}:video")
    assert found["seed"] == str(path) and found["num_steps"] == "configs/demo.py"
    assert found["model.max_frames"] == "configs/tiny.py"
    found = sources("tiny:video", "data.form=footage", "data.folder=x")
    assert found["data.folder"] == found["data.form"] == "--set"
    assert found["data.stride"] == "default" and found["data.image_batch_size"] == "configs/tiny.py"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "1.0e-05"),
        (1.5e-7, "1.5e-07"),
        ("1e-05", '"1e-05"'),
        ((1e20, -2e-9), None),
        (0.1, "0.1"),
    ],
)
def test_numbers_stay_numbers_in_yaml(value, text):
    assert text in (None, write_value(value))
    assert yaml.safe_load(write_value(value)) == json.loads(json.dumps(value))


def test_the_command_lists_configs_and_parts(capsys):
    assert cli.main(["config"]) == 0
    assert "tiny         Everything, laptop-sized" in capsys.readouterr().out
    assert cli.main(["config", "tiny"]) == 0
    assert "video        trains a stage of the UNet; 350 steps" in capsys.readouterr().out
    words = ["config", "tiny", "--part", "video", "--set", "num_steps=3", "--set", "seed=1"]
    assert cli.main(words) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["num_steps"], config["seed"]) == (3, 1)


def test_the_page_of_all_keys_is_up_to_date():
    """`gen1 config --docs` makes the rest of the page that follows its introduction."""
    page = Path(__file__).resolve().parents[1] / "docs" / "configs.md"
    begin = page.read_text().index("## Kinds of part")
    assert page.read_text()[begin:].rstrip() == write_reference().rstrip(), (
        "replace all from '## Kinds of part' in docs/configs.md by what `gen1 config --docs` prints"
    )


def test_the_pages_configs_load(tmp_path):
    page = Path(__file__).resolve().parents[1] / "docs" / "configs.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        path = tmp_path / f"mine{number}.py"
        path.write_text(block)
        for part, _ in list_parts(str(path)):
            load_config(f"{path}:{part}")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("config tiny:vidoe", "unknown part 'vidoe'; known: all, world, .*; did you mean 'video'?"),
        ("config tniy", "no config 'tniy'; .*; did you mean 'tiny'?"),
        ("config tiny --set num_steps=3", "name a part too, such as tiny:video"),
        ("config tiny:video --part image", "--part image: tiny:video names another part"),
        ("config --part image", "name a config first, such as: gen1 config tiny:video"),
        ("config tiny:video --set data.form=footage", "data.folder is missing; .* `gen1 ingest`"),
        ("config tiny:video --set data.form=footge", "did you mean 'footage'?"),
        ("config tiny:encoded --set data.form=encoded", "accepted: raw, footage"),
    ],
)
def test_what_cannot_be_printed_ends_in_one_line(capsys, words, line):
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(line, error), error
