"""Tests `gen1 plan`: what it counts, and what it refuses, without a compiler."""

import json

import micro
import pytest

from gen1_jax import cli
from gen1_jax.aot import plan as aot_plan
from gen1_jax.aot.target import Report, Work, describe_target
from gen1_jax.commands import plan as command
from gen1_jax.configs import gpu24

STAGES = ("image", "video", "structure", "blur")
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


@pytest.fixture
def compiled(tmp_path, monkeypatch) -> list[str]:
    """Puts a fake in place of the compiler; returns the list of what it compiled."""
    done = []
    work = Work(lambda: None, {"batch": {"latents": [8, 8, 2, 2, 4]}}, parameters=10,
                model_flops=int(4 * 197e12))  # a second at the peak  # fmt: skip

    def measure(work, target):
        done.append(target.topology)
        times = {"arithmetic_seconds": 1.0, "memory_seconds": 5.0, "interconnect_seconds": 0.5}
        return Report({}, 10, True, 2**33, 2**34, work.model_flops, notes=("a note",), **times)

    monkeypatch.setattr(aot_plan, "train_work", lambda *_: work)
    monkeypatch.setattr(aot_plan, "has_compiler", lambda topology: True)
    monkeypatch.setattr(aot_plan, "make_target", describe_target)
    monkeypatch.setattr(aot_plan, "measure", measure)
    monkeypatch.setattr(aot_plan, "_code", lambda: "code")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return done


def compile_plan(capsys, *options: str) -> tuple[str, str]:
    options = ["--chips", "v5e:2x2", "--set", "data.image_fraction=0", "num_steps=3600", *options]
    assert cli.main(["plan", "--config", f"{CONFIG}:video", *options]) == 0
    return capsys.readouterr()


def test_the_compiler_s_figures_are_kept_as_long_as_they_hold(compiled, capsys, monkeypatch):
    out, err = compile_plan(capsys)
    (line,) = err.splitlines()
    assert line.startswith("video: compiling the step of clips for v5e:2x2 (5 to 15 minutes")
    # Memory takes longest, longer than arithmetic at 30 % of the peak.
    (row,) = (line for line in out.splitlines() if line.startswith("video"))
    assert "8.0 of 15.8 GiB" in row and row.split()[-5:] == ["yes", "5.0", "h", "5.0", "h"]
    # What the program does not depend on compiles nothing again.
    assert compile_plan(capsys) == (out, "")
    _, err = compile_plan(capsys, "optimizer.learning_rate=1e-5")
    assert err == "" and len(compiled) == 1
    for option in (
        *("microbatches=2", "data.batch_size=16", "mesh.fsdp=2", "remat='layer'"),
        "reduce_once=float32",
    ):
        compile_plan(capsys, option)
    assert len(compiled) == 6
    compile_plan(capsys, "--chips", "v5e:4x4")
    assert compiled.pop() == "v5e:4x4"
    monkeypatch.setattr(aot_plan, "_versions", lambda: {"jax": "1.0"})
    compile_plan(capsys)
    monkeypatch.setattr(aot_plan, "_code", lambda: "other code")
    compile_plan(capsys)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--some")
    compile_plan(capsys)
    assert len(compiled) == 9


def test_figures_that_cannot_be_read_or_kept_do_not_end_a_plan(compiled, capsys, tmp_path):
    out, _ = compile_plan(capsys)
    (path,) = (tmp_path / "gen1_jax" / "plans").iterdir()
    for damaged in ("{", "[]", '{"other": 1}'):
        path.write_text(damaged)
        assert compile_plan(capsys)[0] == out
    assert len(compiled) == 4
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("not a folder")
    found, err = compile_plan(capsys)
    assert found == out and "video: figures are not kept in" in err.splitlines()[-1]


def test_the_prior_s_data_take_bytes_too():
    from gen1_jax.config import load_config

    spec = f"{CONFIG}:prior"
    assert command.example_bytes(spec, load_config(spec), "images")["encoded_bytes"] > 0


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
    assert list(parts) == list(gpu24.PARTS)[-6:-1] == ["prior", *STAGES]


def test_an_imported_prior_is_not_planned(capsys, tmp_path):
    command_line = ("--config", "gpu24:prior", "--chips", "rtx4090:1", "--workdir", str(tmp_path))
    (tmp_path / "import.json").write_text("{}")
    assert cli.main(["plan", "--no-compile", *command_line]) == 2
    assert f"the model in {tmp_path} is imported, not trained" in capsys.readouterr().err


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
