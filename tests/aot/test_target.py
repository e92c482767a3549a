"""Tests `gen1 compile` on CPU devices: its report, and its answer if a program does not fit."""

import dataclasses
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import micro
import numpy as np
import pytest
from tiny_unet import quick_jit

from gen1_jax import cli
from gen1_jax.aot import search
from gen1_jax.aot import target as target_module
from gen1_jax.aot.target import Work, make_target, measure, read_out_of_memory
from gen1_jax.aot.training import train_work, works_beside
from gen1_jax.commands import compile_step
from gen1_jax.errors import UserError
from gen1_jax.hardware import CHIPS
from gen1_jax.models.remat import REMAT
from gen1_jax.weights.folder import module_from_config, param_template

CONFIG = f"{micro.__file__}"
KEYS = {
    *("settings", "parameters", "fits", "hbm_used_bytes", "hbm_available_bytes", "model_flops"),
    *("flops", "bytes", "collectives", "arithmetic_seconds", "memory_seconds"),
    *("interconnect_seconds", "mfu_bound", "notes"),
}


def test_the_command_ends_in_one_line_of_json():
    command = ["compile", "--config", f"{CONFIG}:prior", "--topology", "cpu:4", "--json"]
    code = "import sys; from gen1_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    # The command adds the four devices to these flags.
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    assert any(line.startswith("chips") and "4 as data 4 x fsdp 1" in line for line in table)
    report = json.loads(last)
    assert report.keys() >= KEYS
    count = bytes_of("prior") // 4
    assert report["parameters"] == count
    assert report["fits"] and report["hbm_used_bytes"] > 16 * count  # params, EMA, two moments
    assert report["settings"]["chips"] == 4 and report["mfu_bound"] is None  # a CPU's is unknown
    # The four devices sum their gradients. Queries have none: there is one token to attend to.
    assert report["collectives"]["all-reduce"]["bytes"] > 0.95 * 4 * count
    assert 0.6 < 4 * report["flops"] / report["model_flops"] < 1.1
    (preview,) = report["beside"].values()  # micro's parts measure no held-out loss
    assert any(line.startswith("preview ") and "fits: " in line for line in table)
    assert preview["settings"]["what"] == "preview" and preview["fits"]


def config_of(part: str, **changes):
    config = micro.get_config(part)
    config.update(changes)
    return config


def arguments(what: str, **options):
    return SimpleNamespace(
        **{"config": f"{CONFIG}:blur", "what": what, "images": False, "steps": 3}
        | {"batch_size": None, "workdir": None}
        | options
    )


def bytes_of(*parts: str) -> int:
    models = (module_from_config(config_of(part).model.to_dict()) for part in parts)
    return sum(4 * x.size for module in models for x in jax.tree.leaves(param_template(module)))


@pytest.fixture
def quick_compile(monkeypatch):
    """Compiles programs that never run without optimising their machine code."""
    monkeypatch.setattr(jax, "jit", quick_jit)


def test_encoding_costs_its_levels(quick_compile):
    """A second level costs as much as a third; frames are encoded once for any number of levels."""
    target = make_target("cpu:2", {"data": -1, "fsdp": 1})
    one, two, three = (
        compile_step.make_work(
            arguments("encode", config=f"{CONFIG}:encoded"),
            config_of("encoded", levels_per_clip=levels),
            target,
        )
        for levels in (1, 2, 3)
    )
    each = two.model_flops - one.model_flops
    assert 0 < each < one.model_flops and three.model_flops - two.model_flops == each
    assert one.settings["batch"]["frames"][0] == 2 * micro.BATCH
    assert one.parameters == bytes_of("autoencoder", "clip", "depth") / 4
    first, third = measure(one, target), measure(three, target)
    assert third.flops - first.flops == pytest.approx(2 * each / 2, rel=0.05)  # two devices


def test_sampling_costs_its_steps_and_no_collective(quick_compile):
    """Each device holds all guidance branches of its clips, so guidance sends nothing."""
    target = make_target("cpu:8", {"data": -1, "fsdp": 1})
    reports = [
        measure(
            compile_step.make_work(arguments("sample", steps=n), config_of("blur"), target), target
        )
        for n in (2, 4)
    ]
    assert reports[1].flops == pytest.approx(2 * reports[0].flops, rel=0.05)
    # An editor also holds its other models on every device.
    assert reports[0].hbm["beside"] == bytes_of("autoencoder", "clip", "depth", "prior")
    assert all(report.collectives == {} for report in reports)


def test_what_a_run_does_beside_its_steps_counts_all_that_lies_on_a_chip(quick_compile):
    """A preview gathers what is sharded; both leave the state and the encoders where they are."""
    target = make_target("cpu:4", {"data": 2, "fsdp": 2})
    config = config_of("autoencoder", eval_every=1, split_from=64)
    reports = {
        name: measure(work, chips)
        for name, work, chips in works_beside(config, {}, target, images=True)
    }
    assert reports.keys() == {"preview", "held-out loss"}
    parameters = bytes_of("autoencoder")
    state = train_work(config, {}, target, images=True).state_bytes  # with a gradient
    preview, held_out = reports["preview"].hbm, reports["held-out loss"].hbm
    lies_there = [hbm["arguments"] + hbm["beside"] for hbm in (preview, held_out)]
    assert 4 * parameters / 2 < state * 4 / 5 < lies_there[1] < 4 * parameters
    assert parameters / 2 < lies_there[0] - state * 4 / 5 < 2 * parameters
    settings = reports["preview"].settings
    assert settings["batch"]["frames"][0] == 8 and settings["chips"] == 1
    assert reports["held-out loss"].collectives["all-gather"]["bytes"] > parameters / 2


def test_known_peaks_bound_the_share_of_them(quick_compile):
    target = make_target("cpu:2", {"data": -1, "fsdp": 1})._replace(chip=CHIPS["v5e"])
    work = train_work(config_of("clip"), {}, target, images=False)
    report = measure(work, target)
    longest = max(report.arithmetic_seconds, report.memory_seconds, report.interconnect_seconds)
    assert report.hbm_available_bytes == int(15.75 * 2**30)
    assert report.memory_seconds == report.bytes / CHIPS["v5e"].bandwidth
    assert report.mfu_bound == pytest.approx(
        report.model_flops / 2 / (CHIPS["v5e"].flops * longest)
    )
    assert "MFU" in compile_step.table(report) and report.mfu_bound <= 1
    assert compile_step.fits(report).startswith("yes, and 15.")
    on_cpu = dataclasses.replace(report, hbm_available_bytes=None)
    assert compile_step.fits(on_cpu).startswith("not known")
    assert "unknown" not in compile_step.table(on_cpu)


def test_no_program_reaches_more_than_the_peak():
    """XLA writes a product with a short side as a sum, which is not among the compiled FLOPs."""
    target = make_target("cpu:2", {"data": -1, "fsdp": 1})._replace(chip=CHIPS["v5e"])
    x = jax.ShapeDtypeStruct((8, 8), np.float32)

    def lower():
        return jax.jit(lambda x: x @ x).lower(x)

    report = measure(Work(lower, {"what": "train"}, 1, model_flops=10**15), target)
    assert report.flops < 10**15 / 2 and report.mfu_bound == pytest.approx(1)


def test_a_program_that_does_not_fit_is_an_answer(quick_compile):
    target = make_target("cpu:2", {"data": -1, "fsdp": 1})
    small = target._replace(chip=CHIPS["v5e"]._replace(memory=1e5))
    report = measure(train_work(config_of("clip"), {}, small, images=False), small)
    assert not report.fits
    assert "does not fit" in compile_step.table(report)
    assert compile_step.fits(report).startswith("no, it needs ")
    assert "--microbatches" in compile_step.table(report)
    assert "--remat" not in compile_step.table(report)  # only the UNet's stages have it
    settings = {"what": "train", "objective": "diffusion"}
    of_unet = dataclasses.replace(report, settings=settings)
    assert "--remat layer" in compile_step.advice(of_unet)
    assert "more chips" in compile_step.advice(of_unet, searched=True)
    assert "--" not in compile_step.advice(of_unet, searched=True).replace("(--set)", "")


REFUSED = "the compiler refused the program: it has no mind to"


# With four clips a chip: microbatches → (seconds of arithmetic, seconds of memory), None if the
# program does not fit, or the compiler's refusal.
@pytest.mark.parametrize(
    ("seconds", "tried", "best"),
    [
        # Arithmetic takes longest and nothing is recomputed: the search ends.
        ({1: (2, 1), 2: (2, 1), 4: (2, 1)}, [("none", 1)], ("none", 1)),
        ({1: None, 2: (2, 1), 4: (2, 1)}, [("none", 1), ("none", 2)], ("none", 2)),
        # After a refusal the search tries the next.
        ({1: REFUSED, 2: (2, 1), 4: (2, 1)}, [("none", 1), ("none", 2)], ("none", 2)),
        # Memory takes longest: more microbatches or another remat may take less.
        ({1: (2, 4), 2: (2, 1), 4: (2, 1)}, [("none", 1), ("none", 2)], ("none", 2)),
        (
            {1: (2, 5), 2: (2, 4), 4: (2, 3)},
            [(remat, count) for remat in REMAT for count in (1, 2, 4)],
            ("none", 4),
        ),
        (
            {1: None, 2: None, 4: None},
            [(remat, count) for remat in REMAT for count in (1, 2, 4)],
            None,
        ),
    ],
)
def test_a_search_ends_where_nothing_can_be_better(monkeypatch, capsys, seconds, tried, best):
    def measure(work, target):
        settings = work.settings | {"topology": "v5e:1x2", "chips": 2, "mesh": {"data": 2}}
        found = seconds[settings["microbatches"]]
        if found == REFUSED:
            raise UserError(REFUSED)
        report = target_module.Report(settings, 1, found is not None, 2**33, 2**34, 1)
        if found is None:
            return report
        arithmetic, memory = (x + (settings["remat"] != "none") for x in found)
        return dataclasses.replace(
            report,
            **{"flops": 1.0, "bytes": 1.0, "mfu_bound": 0.9 / max(arithmetic, memory)},
            **{"arithmetic_seconds": arithmetic, "memory_seconds": memory},
            interconnect_seconds=0.0,
        )

    monkeypatch.setattr(search, "measure", measure)
    options = ["--topology", "cpu:2", "--search", "--json", "--set", "data.batch_size=8"]
    assert cli.main(["compile", "--config", f"{CONFIG}:blur", *options]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)

    def name(report):
        return report["settings"]["remat"], report["settings"]["microbatches"]

    assert [name(report) for report in found["search"]] == tried
    assert (found["best"] and name(found["best"])) == best
    refused = [report["refused"] for report in found["search"]]
    assert (
        refused.count(REFUSED)
        == list(seconds.values()).count(REFUSED)
        == len([line for line in table if REFUSED in line])
    )
    assert any(line.startswith("best" if best else "does not fit") for line in table)


# Messages of the TPU's compiler.
OF_HBM = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 20.45G of 15.75G hbm. Exceeded hbm capacity by 4.70G.",
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
    "required for HLO temporaries (20.45G) exceeds available HBM (15.75G). HLO module: jit_f.",
)
OF_VMEM = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space vmem. "
    "Used 16.69M of 16.00M vmem. Exceeded vmem capacity by 704.0K.\n  Program vmem requirement"
)


@pytest.mark.parametrize("message", OF_HBM)
def test_out_of_memory_is_read_from_the_compiler_s_message(message):
    assert read_out_of_memory(message) == (int(20.45 * 2**30), int(15.75 * 2**30))
    assert read_out_of_memory("Ran out of memory on HBM: no numbers here") == (None, None)


@pytest.mark.parametrize("message", [OF_VMEM, "INTERNAL: Mosaic failed\nand so on"])
def test_a_program_that_no_smaller_batch_helps_is_refused(message):
    with pytest.raises(UserError, match="refused the program") as refusal:
        read_out_of_memory(message)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("message", OF_HBM)
def test_memory_beside_the_program_counts_if_the_compiler_finds_too_little(message):
    """Memory beside the program is added to the compiler's figure, as it is to our own."""

    def fail(compiler_options=None):
        raise jax.errors.JaxRuntimeError(message)

    target = make_target("cpu:2", {"data": -1, "fsdp": 1})._replace(chip=CHIPS["v5e"])
    lowered = SimpleNamespace(compile=fail)
    report = measure(Work(lambda: lowered, {"what": "sample"}, 1, 1, beside=2**30), target)
    assert not report.fits and report.hbm_used_bytes == int(20.45 * 2**30) + 2**30
    assert report.hbm_available_bytes == int(15.75 * 2**30)


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (["--topology", "v9:2x2"], "v9:2x2"),
        (["--topology", "h100:2x2"], "h100:2x2"),
        (["--topology", "v5e:two"], "v5e:two"),
        (["--topology", "v5e:0x2"], "v5e:0x2"),
        (["--topology", "cpu:0"], "cpu:0"),
        (["--topology", "cpu:8", "--set", "dtype=float99"], "float99"),
        (["--topology", "cpu:8", "--set", "data.batch_size=0"], "data.batch_size"),
        (["--topology", "cpu:8", "--set", "data.num_frames=0"], "data.num_frames"),
        (["--topology", "cpu:8", "--set", 'data.fields=("foo",)'], "foo"),
        (["--topology", "cpu:8", "--set", "data.fields=()"], "data.fields"),
        (["--topology", "cpu:8", "--set", "data.buckets=(3,)"], "data.buckets"),
        (["--topology", "cpu:8", "--set", "mesh.frames=3"], "frames=3"),
        (["--topology", "cpu:8", "--set", "mesh.frames=8", "data.num_frames=4"], "mesh.frames=8"),
        (["--topology", "cpu:8", "--batch-size", "8"], "--batch-size"),
        (["--topology", "cpu:8", "--steps", "0"], "--steps"),
        (["--topology", "cpu:99"], "cpu:99"),
        (["--topology", "cpu:3"], "3 devices"),
        (["--topology", "cpu:8", "--remat", "some"], "some"),
        (["--topology", "cpu:8", "--microbatches", "0"], "microbatches"),
        (["--topology", "cpu:8", "--what", "sample", "--images"], "--images"),
        (["--topology", "cpu:8", "--search", "--remat", "none"], "--search"),
        (["--topology", "cpu:8", "--search", "--set", "mesh.frames=2"], "--search goes with"),
        (["--topology", "cpu:8", "--set", "mesh.frames=4"], "needs microbatches=4, and"),
        (["--topology", "cpu:8", "--what", "sample", "--steps", "0"], "--steps"),
    ],
)
def test_bad_input_ends_in_one_line(capsys, options, culprit):
    assert cli.main(["compile", "--config", f"{CONFIG}:blur", *options]) == 2
    assert_one_line(capsys, culprit)


def assert_one_line(capsys, culprit: str) -> None:
    """Checks that the error is one line that names the culprit."""
    error = capsys.readouterr().err
    assert culprit in error and len(error.strip().splitlines()) == 1, error


@pytest.mark.parametrize(
    ("change", "culprit"),
    [("dtype=float99", "float99"), ("batch_size=0", "batch_size"), ("levels_per_clip=9", "9")],
)
def test_bad_settings_of_encoding_end_in_one_line(capsys, change, culprit):
    options = ["--topology", "cpu:8", "--what", "encode", "--set", change]
    assert cli.main(["compile", "--config", f"{CONFIG}:encoded", *options]) == 2
    assert_one_line(capsys, culprit)


@pytest.mark.parametrize(
    ("part", "what"), [("world", "train"), ("clip", "sample"), ("blur", "encode")]
)
def test_a_part_of_another_kind_is_refused(capsys, part, what):
    command = ["compile", "--config", f"{CONFIG}:{part}", "--topology", "cpu:8", "--what", what]
    assert cli.main(command) == 2
    assert_one_line(capsys, f":{part}")


def test_without_the_tpu_s_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(target_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '.\[compile\]'"):
        make_target("v5p:2x2x1", {"data": -1, "fsdp": 1})


def test_a_program_that_jaxlib_cannot_read_names_the_compiler():
    class Compiled:
        def as_text(self):
            raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: Unknown opcode: mulhi")

    with pytest.raises(UserError, match=r"cannot read .* opcode: mulhi.*'.\[compile\]'` brings"):
        target_module._read_text(Compiled())


def test_sharded_parameters_are_sent_and_activations_are_not(quick_compile):
    """Devices that hold shards of the parameters send no more for a larger batch."""
    target = make_target("cpu:8", {"data": 2, "fsdp": 4})
    sent = []
    for batch_size in (16, 32):
        config = config_of("image", microbatches=2)
        config.model.block_out_channels = (64,)
        config.data.image_batch_size = batch_size
        report = measure(train_work(config, {}, target, images=True), target)
        assert report.collectives["all-gather"]["bytes"] > 0.7 * 4 * report.parameters
        sent.append(sum(each["bytes"] for each in report.collectives.values()))
    assert sent[1] == pytest.approx(sent[0], rel=0.02)
