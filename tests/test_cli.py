"""The command line: help, configs, `gen1 train`. Bad input is one line and leaves no files."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from command_line import contents, gen1, refused

from gen1_jax import cli, machine

CONFIG = Path(__file__).parent / "micro.py"


def test_help_is_for_all_and_for_each(capsys):
    assert cli.main([]) == 2
    assert "edit a video with a prompt" in capsys.readouterr().out
    for command in ((), *((name,) for name in cli.COMMANDS)):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*command, "--help"])
        assert stopped.value.code == 0
        assert f"usage: {' '.join(('gen1', *command))}" in capsys.readouterr().out


# ---- flags


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("tran", "gen1 has no command 'tran'; did you mean train? accepted: edit, train, "),
        ("guess", "gen1 has no command 'guess'; accepted: edit, train, "),
        ("--verson", "gen1 has no flag --verson; did you mean --version?"),
        ("edit a.mp4 --promt ball", "gen1 edit has no flag --promt; did you mean --prompt?"),
        ("edit a.mp4 --promt=a\xa0ball", "gen1 edit has no flag --promt; did you mean --prompt?"),
        (
            "edit a.mp4 -prompt ball",
            "gen1 edit has no flag -prompt; did you mean --prompt or --prompts?",
        ),
        (
            "edit a.mp4 --prompt b --struct 3",
            "did you mean --structure-level or --structure or --structure-map or --structure-k",
        ),
        ("edit a.mp4 --prompt b --structure_level 3", "did you mean --structure-level?"),
        ("edit a.mp4 --prompt b --zzz", "gen1 edit has no flag --zzz; see gen1 edit --help"),
        ("edit a.mp4 --prompt b --steps abc", "--steps abc: a whole number is accepted"),
        ("edit a.mp4 --prompt b --steps 2.5", "--steps 2.5: a whole number is accepted"),
        ("edit a.mp4 --prompt b --temporal-scale x", "--temporal-scale x: a number is accepted"),
        ("edit a.mp4 --prompt b --steps", "--steps: expected one argument; see gen1 edit --help"),
        ("edit a.mp4", "give --prompt or --image, which the content is taken from"),
        ("edit a.mp4 --prompt blue ball", "not understood: ball; .* quotes; see gen1 edit --help"),
        ("train --config tiny:video", "the following .* required: --workdir; see"),
        ("compile --what trian", "--what trian; did you mean train? accepted: train, sample"),
        ("evaluate --structure-level 0 --structure-level 7", "--structure-level is given twice"),
        ("evaluate --structure-level 0 x", "--structure-level x: a whole number is accepted"),
        (
            "ingest clps SRC",
            "gen1 ingest has no command 'clps'; did you mean clips? accepted: clips, images",
        ),
        ("ingest clips SRC --out d --sizes 1x1", "gen1 ingest clips has no flag --sizes; did you"),
        ("ingest clips SRC --out d --size 5", "--size: '5' is no size; accepted: HxW"),
        ("completion fishy", "shell fishy; did you mean fish? accepted: bash, zsh"),
    ],
)
def test_wrong_flags_end_in_one_line_with_a_guess(capsys, monkeypatch, tmp_path, command, line):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("\xa0", " ") for word in command.split(" ")]
    refused(capsys, *words, culprit=line.replace("?", r"\?"))
    assert not contents(tmp_path)


def test_flags_are_taken_as_they_are_written():
    parser = cli.make_parser()
    words = ["edit", "a.mp4", "--prompt=a ball -- blue", "-oout.mp4", "--guidance-scale", "-1"]
    args = parser.parse_args(words)
    assert (str(args.output), args.guidance_scale) == ("out.mp4", -1)
    assert args.prompt == ["a ball -- blue"]
    words = ["ingest", "clips", "SRC", "--out", "d", "--beam", "--project=mine", "--out", "e"]
    assert parser.parse_args(words).beam == ["--project=mine", "--out", "e"]


# ---- platforms


@pytest.mark.parametrize(
    ("platforms", "culprit"),
    [
        ("cuda", "JAX_PLATFORMS=cuda: jax is installed without cuda; accepted here: cpu; .*cuda13"),
        ("cuda,cpu", "JAX_PLATFORMS=cuda,cpu: jax is installed without cuda"),
        ("tpu", r"JAX_PLATFORMS=tpu: .* accepted here: cpu; pip install -e '.\[tpu\]'"),
        ("cpuu", "JAX_PLATFORMS=cpuu: no platform 'cpuu'; accepted here: cpu"),
    ],
)
def test_a_platform_that_is_not_installed_is_refused(
    capsys, monkeypatch, tmp_path, platforms, culprit
):
    monkeypatch.setattr(machine, "_has_plugin", "cpu".__eq__)
    monkeypatch.setattr(machine, "_other_plugins", lambda: False)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    workdir = ("--workdir", tmp_path / "w")
    for command in (
        ("train", "--config", "tiny:autoencoder", *workdir),
        ("all", "--config", "tiny", *workdir),
        ("edit", "a.mp4", "--prompt", "b", "-o", tmp_path / "w" / "out.mp4"),
    ):
        refused(capsys, *command, culprit=culprit)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "culprit"),
    [
        (RuntimeError("Unable to initialize backend 'tpu': no chip\nhere"), "no chip here; acc"),
        (AssertionError(), "JAX_PLATFORMS=cuda: no such device is there; accepted: .*doctor"),
    ],
)
def test_a_device_that_jax_cannot_start_is_one_line(capsys, monkeypatch, error, culprit):
    """jax raises these errors where its package is installed and the device is not there."""

    def fail(*arguments):
        raise error

    monkeypatch.setattr(machine, "_has_plugin", lambda name: True)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setattr("gen1_jax.commands.edit.run", fail)
    refused(capsys, "edit", "a.mp4", "--prompt", "b", culprit=culprit)


@pytest.mark.parametrize("platforms", ["cuda", "cuda,cpu"])
def test_a_plugin_that_cannot_start_is_one_line(capsys, monkeypatch, platforms):
    """Where jax logs a traceback; it then ends, or goes on with the CPU."""

    def log(*arguments):
        try:
            raise OSError("no CUDA\nhere")
        except OSError:
            logging.getLogger("jax._src.xla_bridge").exception("a plugin's error")
        if platforms == "cuda":
            raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(machine, "_has_plugin", lambda name: True)
    monkeypatch.setattr(machine._plugin_errors, "reasons", [])
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr("gen1_jax.commands.edit.run", log)
    if platforms == "cuda":
        refused(capsys, "edit", "a.mp4", "--prompt", "b", culprit="=cuda: no CUDA here; accepted")
    else:
        code, _, err = gen1(capsys, "edit", "a.mp4", "--prompt", "b")
        assert code == 0 and err == "gen1: note: jax cannot use an accelerator: no CUDA here\n"


def test_other_errors_keep_their_traceback(monkeypatch):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("gen1_jax.commands.edit.run", fail)
    for error in (RuntimeError("a fault of ours"), AssertionError("a fault"), AssertionError()):
        with pytest.raises(type(error)):
            cli.main(["edit", "a.mp4", "--prompt", "b"])


# ---- the doctor


def test_the_doctor_reports_on_one_screen(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    code, out, _ = gen1(capsys, "doctor")
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert code == 0 and len(out.splitlines()) <= 24 and "secret" not in out
    assert "jax " in lines["libraries"] and "8 x cpu" in lines["devices"]
    assert "free" in lines["memory"] and "JAX_PLATFORMS=cpu" in lines["environment"]
    assert "h264" in lines["codecs"] and "no libx264" not in lines["codecs"]


def test_the_doctor_outlives_what_is_broken(capsys, monkeypatch):
    """A jax that cannot start, a missing module, a refused release: each is a line."""

    def fail(*arguments, **options):
        raise ImportError("no such\nlibrary")

    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    monkeypatch.setattr(machine, "_codecs", fail)
    monkeypatch.setattr(machine, "_version", lambda name: {"jax": "0.10.2"}.get(name))
    code, out, _ = gen1(capsys, "doctor")
    assert code == 0 and "not found out: jax ended with 1: RuntimeError: Unable" in out
    assert "ImportError: no such library" in out and "jaxlib missing" in out
    assert "jax 0.10.2; accepted: " in out
    monkeypatch.setattr(machine, "_devices", dict)
    code, out, _ = gen1(capsys, "doctor", "--json")
    found = json.loads(out)
    assert code == 0 and found["codecs"] == {"error": "ImportError: no such library"}


def test_a_gpu_that_jax_cannot_use_is_named(monkeypatch):
    monkeypatch.setattr(machine, "_has_plugin", "cpu".__eq__)
    monkeypatch.setattr(machine.glob, "glob", lambda pattern: ["x"] if "nvidia" in pattern else [])
    (note,) = machine.missing_support()
    assert "NVIDIA GPU" in note and "cuda13" in note


# ---- completion


@pytest.fixture(scope="module")
def bash_script() -> str:
    return process("completion", "bash").stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="it is bash that completes")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("gen1 tr", {"train"}),
        ("gen1 edit --struct", {"--structure-level"}),
        ("gen1 compile --what s", {"sample"}),
        ("gen1 ingest cl", {"clips"}),
        ("gen1 all --config de", {"demo"}),
        ("gen1 edit mine", {"mine.mp4"}),
    ],
)
def test_bash_completes(bash_script, tmp_path, words, expected):
    (tmp_path / "mine.mp4").touch()
    words = words.split(" ")
    ask = (
        f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_gen1; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", f"{bash_script}\n{ask}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert set(done.stdout.split()) >= expected, done.stderr
    assert all(word.startswith(words[-1]) for word in done.stdout.split())


@pytest.mark.parametrize("shell", ["zsh", "fish", "tcsh"])
def test_other_shells_have_a_script(capsys, shell):
    code, out, _ = gen1(capsys, "completion", shell)
    assert code == 0 and "structure-level" in out


# ---- configs


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["train", "--config", "huge:video"], "'huge'; accepted: demo, .*, tiny"),
        (["train", "--config", "base:video"], "base"),
        (["train", "--config", "nowhere.py:video"], "nowhere.py"),
        (["train", "--config", f"{__file__}:video"], "test_cli.py"),
        (["train", "--config", "tiny:vidoe"], "'vidoe'; known: all, world"),
        (["train", "--config", "tiny"], "--config tiny"),
        (["train", "--config", "tiny:world"], "--config tiny:world"),
        (["precompute", "--config", "tiny:video"], "--config tiny:video"),
        (["all", "--config", "tiny:video"], "--config tiny:video"),
        (["all", "--config", "tiny", "--parts", "video", "vidoe"], "vidoe"),
        (["train", "--config", "tiny:video", "--set", "num_step=3"], "num_step=3.*num_steps"),
        (
            ["train", "--config", "tiny:video", "--set", "loss.kl=3"],
            "loss.kl=3.*accepted: .*loss.latents_drawn",
        ),
        (
            ["train", "--config", "tiny:video", "--set", "num_steps=many"],
            "--set num_steps is 'many'",
        ),
        (["train", "--config", "tiny:video", "--set", "num_steps=1.5"], "--set num_steps is 1.5"),
        (["train", "--config", "tiny:video", "--set", "num_steps"], "--set num_steps"),
        (["train", "--config", "tiny:video", "--set", "num_steps=0"], "num_steps is 0"),
        (["train", "--config", "tiny:video"], "no model folder .*/model"),
        (["train", "--config", "tiny:autoencoder"], "moving-shapes"),
        (["world", "--builder", "vast"], "'vast'"),
    ],
)
def test_wrong_configs_are_refused(capsys, monkeypatch, tmp_path, arguments, culprit):
    monkeypatch.chdir(tmp_path)
    arguments = [*arguments[:1], "--workdir", "w", *arguments[1:], "--no-progress"]
    refused(capsys, *arguments, culprit=culprit)
    assert not contents(tmp_path)


def test_a_config_that_cannot_be_loaded_is_refused(capsys, tmp_path):
    (tmp_path / "mine.py").write_text("def get_config(:\n")
    command = ("train", "--workdir", tmp_path / "w", "--config")
    refused(capsys, *command, f"{tmp_path}/mine.py:a", culprit="mine.py.*SyntaxError")


def test_a_workdir_that_is_a_file_is_refused(capsys, tmp_path):
    (tmp_path / "w").write_text("mine")
    for part in ("world", "all"):
        command = (part, "--workdir", tmp_path / "w")
        command += ("--builder", "test") if part == "world" else ("--config", CONFIG)
        refused(capsys, *command, "--no-progress", culprit="/w")
    assert (tmp_path / "w").read_text() == "mine"


def test_a_stage_by_its_command(capsys, micro_run, quick, tmp_path):
    """`gen1 train` from the model of the stage before, to a model folder; a second time at once."""
    folder = micro_run / "video_again"
    command = ("train", "--config", f"{CONFIG}:video", "--workdir", folder, "--no-progress")
    # Its program is that of tests/training/test_golden.py.
    command += ("--set", "sample_every=0", "data.image_fraction=0.0", "data.batch_size=2")
    code, out, err = gen1(capsys, *command)
    assert code == 0, err
    assert "temporal" in out and f"video: 2 steps; {folder / 'model'} (" in out
    assert f"to watch: tensorboard --logdir {folder / 'logs'}" in out and not err
    assert (folder / "model" / "config.json").exists()
    assert {p.name for p in folder.iterdir()} == {
        *("config.json", "checkpoints", "logs", "model", "finished.json", "made_from.json"),
    }
    assert json.loads((folder / "made_from.json").read_text())["models"].keys() == {"vae", "clip"}
    before = contents(folder)
    for changes, said in (
        ((), f"video: finished before, with 2 steps; {folder / 'model'} ("),
        (("seed=3",), "left as it is, although seed was 0, is 3. A larger num_steps continues"),
    ):
        code, out, err = gen1(capsys, *command, *changes)
        assert (code, err) == (0, "") and said in out and out.count("\n") == 1
        assert contents(folder) == before
    command = (*command, "block_out_channels=1")
    refused(capsys, *command, culprit="block_out_channels")
    refused(
        capsys,
        *command[:-1],
        "num_steps=9",
        "model.layers_per_block=2",
        culprit="another model",
    )


@pytest.mark.parametrize("variable", ["GEN1_PROCESSES", "SLURM_STEP_NUM_TASKS"])
@pytest.mark.parametrize("command", ["train --config tiny:video", "all --config tiny"])
def test_several_processes_do_not_run_alone(capsys, tmp_path, monkeypatch, variable, command):
    monkeypatch.setenv(variable, "4")
    command = [*command.split(), "--workdir", tmp_path / "run"]
    refused(capsys, *command, culprit="4 processes.*--processes 4")
    assert not any(tmp_path.iterdir())


# ---- processes


def process(*arguments, cwd=None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "gen1_jax", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_help_is_light():
    code = (
        "import sys; from gen1_jax import cli\n"
        "try: cli.main(['edit', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'torch', 'transformers', 'flax', 'grain', 'tensorflow_datasets'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bad_input_of_a_process(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    before = contents(tmp_path)
    for culprit, *arguments in (
        ("--prompt", "edit", "text.mp4", "--prompt", ""),
        ("tiny", "train", "--config", "tiny:x", "--workdir", "w"),
    ):
        done = process(*arguments, cwd=tmp_path)
        assert done.returncode == 2 and not done.stdout
        assert done.stderr.count("\n") == 1 and culprit in done.stderr
    assert contents(tmp_path) == before


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    command = f"{sys.executable} -m gen1_jax.cli edit --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr and done.stdout


def test_a_work_folder_that_is_an_address_is_refused(capsys, tmp_path, monkeypatch):
    train = ["train", "--config", "tiny:video", "--workdir"]
    monkeypatch.chdir(tmp_path)
    for command in ([*train, "https://host/video"], ["world", "--workdir", "gs://bucket/world"]):
        refused(capsys, *command, culprit=f"workdir {command[-1]} is an address")
    assert not any(tmp_path.iterdir())


def test_ctrl_c_ends_in_one_line(capsys, monkeypatch):
    from gen1_jax.commands import doctor

    def stop(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", stop)
    assert gen1(capsys, "doctor") == (130, "", "gen1: stopped\n")
