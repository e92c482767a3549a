"""Tests `gen1 plan`: what it counts, and what it refuses, without a compiler."""

import json

import micro
import pytest

from gen1_jax import cli
from gen1_jax.commands import plan as command
from gen1_jax.configs import gpu24

CONFIG = f"{micro.__file__}"


def plan(capsys, *options: str) -> tuple[list[str], dict]:
    assert cli.main(["plan", "--no-compile", "--json", *options]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    return table, json.loads(last)


def test_a_plan_counts_steps_time_data_and_disk(capsys):
    options = ["--config", f"{CONFIG}:video", "--chips", "v5e:2x2", "--clips", "64"]
    options += ["--set", "data.image_fraction=0.25", "num_steps=100", "checkpoint_every=50"]
    table, found = plan(capsys, *options, "--mfu", "0.5")
    (part,) = found["parts"]
    assert found["number_of_chips"] == 4 and part["num_steps"] == 100 and not part["compiled"]
    clips, images = part["steps"]
    assert (clips["kind"], clips["share"]) == ("clips", 0.75) and images["share"] == 0.25
    assert part["clips"] == 75 * micro.BATCH and part["images"] == 25 * micro.BATCH
    assert found["data"]["clips"]["epochs"] == 75 * micro.BATCH / 64
    # At half the peak all takes twice the time at the peak.
    flops = 100 * (0.75 * clips["flops"] + 0.25 * images["flops"])
    assert found["chip_hours"] == pytest.approx(flops / (0.5 * 197e12) / 3600)
    assert found["least_chip_hours"] == pytest.approx(found["chip_hours"] / 2)
    # Parameters, average and two moments, in three checkpoints, and the model.
    assert part["disk_bytes"] == pytest.approx((3 * 16 + 4) * part["parameters"], rel=0.01)
    assert part["fits"] is None  # activations are not counted
    text = "\n".join(table)
    assert "+ activations of 15.8 GiB" in text and "times each of 64" in text and "as asked" in text
    assert len(table) < 24 and max(map(len, table)) < 140


def test_encoded_data_take_the_bytes_that_were_measured():
    """docs/footage.md: a clip of 448×256 with 8 levels and 77 tokens takes 1,159,508 bytes."""
    from gen1_jax.config import load_config

    found = command.example_bytes("paper:blur", load_config("paper:blur"), "clips")
    assert found["encoded_bytes"] == pytest.approx(1_159_508, abs=400)
    assert 74e3 < found["ingested_bytes"] < 102e3


def test_a_whole_config_is_all_its_trained_parts():
    args = type("Args", (), {"config": "gpu24", "set": ["num_steps=9"]})
    parts = command.trained_parts(args)
    assert {config.num_steps for config in parts.values()} == {9}
    assert list(parts) == list(gpu24.PARTS)[-5:-1] == ["image", "video", "structure", "blur"]


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (["--config", "tiny:world", "--chips", "v5e:2x2"], "not trained; name one that is"),
        (["--config", "tiny:blur", "--chips", "v9:2x2"], "v9:2x2; accepted: a TPU (v4,"),
        (["--config", "tiny:blur", "--chips", "cpu:4"], "the peak of a CPU is not known"),
        (["--config", "tiny:blur", "--chips", "h100:0"], "h100:0; accepted"),
        (["--config", "tiny:blur", "--chips", "v5e:3"], "a multiple of 3"),
        (["--config", "tiny:blur", "--chips", "v5e:2x2", "--mfu", "2"], "--mfu is 2.0; 0.01 to 1"),
        (["--config", "tiny:blur", "--chips", "v5e:2x2", "--clips", "0"], "--clips is 0"),
    ],
)
def test_bad_input_ends_in_one_line(capsys, options, culprit):
    assert cli.main(["plan", "--no-compile", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert culprit in line
