"""Tests the launch scripts: what they pass to a cluster's commands, and how they end a job.

`srun`, `scontrol` and `gcloud` are stand-ins that do only what the scripts need; jax is real.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from gen1_jax.commands.restarts import RESTARTS, START

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
PREEMPTED, BAD_INPUT, GIVEN_UP, KILLED = 75, 2, 70, 137
FINAL = (0, BAD_INPUT, GIVEN_UP, 127)  # 127: there is no such program

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the scripts are for bash")

# Starts the command as two tasks on two "nodes", with the variables that srun sets.
SRUN = """#!/usr/bin/env bash
echo "srun $*" >> "$CALLS"
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_LOCALID=0
SLURM_PROCID=0 "$@" & first=$!
SLURM_PROCID=1 "$@" & second=$!
code=0
wait $first || code=$?
wait $second || code=$?
exit $code
"""
# Joins the processes in the way of gen1, then ends with the given code.
GEN1 = """#!{python}
import json, os, sys

if os.environ.get("JOIN"):
    import jax
    from gen1_jax.joining import join_processes

    join_processes(int(sys.argv[sys.argv.index("--processes") + 1]), 60)
    number, seen = jax.process_index(), jax.config.read("jax_cuda_visible_devices")
    with open(os.environ["CALLS"] + f".gpus{{number}}", "w") as file:
        json.dump({{"gpus": seen, "processes": jax.process_count()}}, file)
sys.exit(int(os.environ["CODE"]))
"""
SCONTROL = '#!/usr/bin/env bash\necho "scontrol $*" >> "$CALLS"\n'
# Each call ends with the next code of CODES. Without CODES it runs the command in a shell, as ssh
# does, and ends with 255 if a signal ended the shell.
GCLOUD = """#!{python}
import os, subprocess, sys

with open(os.environ["CALLS"], "a+") as file:
    file.write("gcloud " + " ".join(sys.argv[1:]) + "\\n")
    file.seek(0)
    calls = len(file.readlines())
if os.environ.get("CODES"):
    sys.exit(int(os.environ["CODES"].split()[calls - 1]))
code = subprocess.run(["bash", "-c", sys.argv[-1]]).returncode
sys.exit(255 if code < 0 else code)
"""


@pytest.fixture
def run(tmp_path):
    """Runs a script of launch/ with stand-ins first on PATH → (the process, lines of calls)."""
    commands = {"srun": SRUN, "scontrol": SCONTROL, "sleep": "#!/bin/sh\n"}
    commands["gen1"] = GEN1.format(python=sys.executable)
    commands["gcloud"] = GCLOUD.format(python=sys.executable)
    (tmp_path / "bin").mkdir()
    for name, text in commands.items():
        path = tmp_path / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()

    def run(script: str, *arguments: str, cwd: Path | None = None, **settings: str):
        environment = os.environ | {
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(LAUNCH.parent),
            "CALLS": str(calls),
            "JAX_PLATFORMS": "cpu",
        }
        done = subprocess.run(
            ["bash", LAUNCH / script, *arguments],
            cwd=cwd,
            env=environment | settings,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, calls.read_text().splitlines()

    return run


def slurm(run, code: int, **settings: str):
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    command = "gen1", "train", "--config", "paper:blur", "--workdir", "/shared/runs/blur"
    return run("slurm.sh", *command, **job | settings, CODE=str(code))


def test_slurm_gives_each_node_all_its_gpus(run, tmp_path):
    """By default jax gives a task of SLURM the one GPU of the task's number on the node."""
    done, calls = slurm(run, 0, JOIN="1")
    assert done.returncode == 0, done.stderr[-3000:]
    for number in range(2):
        seen = json.loads((tmp_path / f"calls.gpus{number}").read_text())
        assert seen == {"gpus": "0,1,2,3,4,5,6,7", "processes": 2}
    (call,) = calls
    assert "gen1 train --config paper:blur --workdir /shared/runs/blur --processes 2" in call


@pytest.mark.parametrize("code", [PREEMPTED, KILLED, 1, *FINAL])
def test_slurm_requeues_what_a_new_start_may_cure(run, code):
    done, calls = slurm(run, code)
    assert done.returncode == code
    assert calls[1:] == ([] if code in FINAL else ["scontrol requeue 7"])
    assert done.stderr.count("\n") == (code not in FINAL)


def test_slurm_counts_the_starts(run, tmp_path):
    (tmp_path / "bin" / "gen1").write_text("#!/usr/bin/env bash\nexit $((3 + GEN1_START))\n")
    assert slurm(run, 0)[0].returncode == 3
    assert slurm(run, 0, SLURM_RESTART_COUNT="4")[0].returncode == 7


def test_slurm_takes_a_gen1_command_alone(run):
    done, calls = run("slurm.sh", "paper:blur", "/shared/runs", SLURM_JOB_NUM_NODES="2")
    assert (done.returncode, calls) == (BAD_INPUT, []) and "usage: sbatch" in done.stderr


def test_slurm_lets_every_process_save(run):
    """The first process to end must not end the others, whatever the cluster's default is."""
    _, (call,) = slurm(run, 0)
    assert "--kill-on-bad-exit=0 --wait=60" in call  # but those that wait for a dead one end
    assert "#SBATCH --open-mode=append" in (LAUNCH / "slurm.sh").read_text().splitlines()


@pytest.mark.parametrize("gpus", ["", "0"])
def test_slurm_refuses_a_job_without_gpus(run, gpus):
    done, calls = slurm(run, 0, SLURM_GPUS_ON_NODE=gpus)
    assert (done.returncode, calls) == (2, [])
    assert "GPUs" in done.stderr and done.stderr.count("\n") == 1


def test_slurm_takes_the_clone_s_gen1_where_none_is_on_path(run, tmp_path):
    (tmp_path / "clone" / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "bin" / "gen1").rename(tmp_path / "clone" / ".venv" / "bin" / "gen1")
    path = f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
    done, (call,) = slurm(run, 0, PATH=path, cwd=tmp_path / "clone")
    assert done.returncode == 0 and f"{tmp_path}/clone/.venv/bin/gen1 train" in call
    done, _ = slurm(run, 0, PATH=path, cwd=tmp_path)
    assert done.returncode == BAD_INPUT and "no gen1 on PATH" in done.stderr
    assert done.stderr.count("\n") == 1


def tpu_vm(run, *arguments: str, **settings: str):
    slice_ = {"TPU": "my-slice", "ZONE": "us-east5-a", "PROCESSES": "16"}
    command = arguments or ("--config", "paper:blur", "--workdir", "/shared/runs/blur")
    return run("tpu_vm.sh", "gen1", "train", *command, **slice_ | settings)


@pytest.mark.parametrize("last", FINAL)
def test_tpu_vm_starts_a_job_again_that_a_new_start_may_cure(run, last):
    done, calls = tpu_vm(run, CODES=f"75 {KILLED} 1 {last}", GEN1_RESTARTS="7")
    assert done.returncode == last
    counts = [call.partition("--command ")[2].split()[:2] for call in calls]
    assert counts == [[f"GEN1_START={i}", "GEN1_RESTARTS=7"] for i in range(4)]
    assert done.stderr.count("\n") == 3


def test_tpu_vm_says_that_a_host_was_lost(run):
    done, calls = tpu_vm(run, CODES="255")
    assert done.returncode == 255 and len(calls) == 1
    assert "my-slice" in done.stderr


def test_tpu_vm_tells_a_killed_process_from_a_lost_connection(run, tmp_path):
    """ssh returns 255 for both, and gcloud would then run the command again."""
    gen1 = tmp_path / "bin" / "gen1"
    gen1.write_text(
        '#!/usr/bin/env bash\n(( GEN1_START )) && exit 2\nprintf "%s|" "$@"\nkill -KILL $$\n'
    )
    done, _ = tpu_vm(run, "--config", "my config.py:blur", "--workdir", "/shared/my runs")
    assert done.returncode == BAD_INPUT and f"ended with {KILLED}" in done.stderr
    assert "|--config|my config.py:blur|--workdir|/shared/my runs|" in done.stdout


def test_tpu_vm_runs_the_program_that_it_is_told(run):
    _, (call,) = tpu_vm(run, CODES="0", GEN1="clone/.venv/bin/gen1")
    assert " clone/.venv/bin/gen1 train --config" in call


def local(tmp_path, *command: str, **settings: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, LAUNCH / "local.py", "--processes", "2", "--", *command],
        cwd=tmp_path,
        env=os.environ | {"PATH": "/usr/bin:/bin"} | settings,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_local_needs_no_gen1_on_path(tmp_path):
    done = local(tmp_path, "gen1", "--version")
    assert done.returncode == 0 and "[0] gen1-jax" in done.stdout and "[1] gen1" in done.stdout


@pytest.mark.parametrize(("start", "last"), [(2, GIVEN_UP), (0, BAD_INPUT)])
def test_local_starts_a_job_again_that_a_new_start_may_cure(tmp_path, start, last):
    """One process may say that a new start cures it, while another crashes."""
    gen1 = tmp_path / "gen1"
    gen1.write_text(
        f"#!/bin/sh\n[ $GEN1_START = {start} ] && exit {last}\n"
        '[ "$GEN1_START $GEN1_PROCESS" = "0 0" ] && exit 75\n'
        "echo start $GEN1_START of $GEN1_RESTARTS; kill -KILL $$\n"
    )
    gen1.chmod(0o755)
    done = local(tmp_path, str(gen1), GEN1_RESTARTS="5")
    assert done.returncode == last
    said = [f"local.py: the job ended with {code}; starting it again" for code in (75, KILLED)]
    assert done.stderr.splitlines() == said[:start]
    assert done.stdout.count("] start 1 of 5") == start


def test_local_starts_no_other_command_again(tmp_path):
    done = local(tmp_path, "sh", "-c", "exit 75")
    assert done.returncode == PREEMPTED and not done.stderr


def test_local_refuses_a_command_that_is_not_there(tmp_path):
    done = local(tmp_path, "gen2", "--version")
    assert done.returncode == BAD_INPUT and "no command gen2 here" in done.stderr


def test_the_image_copies_what_the_package_is_made_of():
    """Each path is there and passes .dockerignore; each extra is one of pyproject.toml."""
    root = LAUNCH.parent
    text = (root / "Dockerfile").read_text()
    project = tomllib.loads((root / "pyproject.toml").read_text())
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert copied and all((root / name).exists() for name in copied)
    ignore = (root / ".dockerignore").read_text().splitlines()
    assert ignore[0] == "*"
    assert {line[1:] for line in ignore if line[0] == "!"} == {name.strip("/") for name in copied}
    folders = project["tool"]["setuptools"]["package-dir"].values()
    needed = {folder.split("/")[0] for folder in folders} | {"pyproject.toml"}
    needed |= {project["project"]["readme"], *project["project"]["license-files"]}
    assert needed <= {name.strip("/") for name in copied}
    installed = {word for line in lines if line.startswith("RUN ") for word in line.split()}
    assert {word for word in installed if word.endswith(".lock")} <= set(copied)
    extras = ",".join(re.findall(r"EXTRAS=([\w,]+)", text)).split(",")
    assert {"cuda12", "tpu"} <= set(extras) <= project["project"]["optional-dependencies"].keys()
    (entry,) = (line for line in lines if line.startswith("ENTRYPOINT "))
    assert json.loads(entry.removeprefix("ENTRYPOINT "))[0] in project["project"]["scripts"]


def test_gke_manifest_agrees_with_itself():
    """The fields were validated against the published schemas; this checks how they agree."""
    spec = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())["spec"]
    (group,) = spec["replicatedJobs"]
    job = group["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    hosts = group["replicas"] * job["completions"]
    assert job["parallelism"] == job["completions"]
    assert f"--processes={hosts}" in container["command"]
    # Bad input ends the pod, then by one rule its job, and by another the whole set.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [BAD_INPUT, GIVEN_UP]
    variables = {variable["name"]: variable for variable in container["env"]}
    assert {START, RESTARTS} == variables.keys()  # the starts are counted
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert pod["restartPolicy"] == "Never"  # or Kubernetes refuses the rule
    (rule,) = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    # The work folder is on the volume.
    (mount,) = container["volumeMounts"]
    assert mount["name"] in [volume["name"] for volume in pod["volumes"]]
    (workdir,) = (a for a in container["command"] if a.startswith("--workdir="))
    assert workdir.removeprefix("--workdir=").startswith(mount["mountPath"] + "/")
