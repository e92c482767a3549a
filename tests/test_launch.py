"""The launch scripts: what they hand to a cluster's commands, and what they make of how a job ends.

`srun`, `scontrol` and `gcloud` are stand-ins here, as small as the script sees of them; jax is not.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
PREEMPTED, BAD_INPUT, KILLED = 75, 2, 137

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the scripts are for bash")

# Starts two tasks on two "nodes", as srun does with what it was given and no more.
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
# What gen1 does first, in earnest; then it ends as it is told.
GEN1 = """#!{python}
import json, os, sys
import jax
from gen1_jax.distributed import join_processes

if os.environ.get("JOIN"):
    join_processes(int(sys.argv[sys.argv.index("--processes") + 1]), 60)
    number, seen = jax.process_index(), jax.config.read("jax_cuda_visible_devices")
    with open(os.environ["CALLS"] + f".gpus{{number}}", "w") as file:
        json.dump({{"gpus": seen, "processes": jax.process_count()}}, file)
sys.exit(int(os.environ["CODE"]))
"""
SCONTROL = '#!/usr/bin/env bash\necho "scontrol $*" >> "$CALLS"\n'
# Ends with the codes in CODES, one a call; or runs the command as ssh does, in a shell, with 255 if
# a signal ended it.
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

    def run(script: str, *arguments: str, **settings: str):
        environment = os.environ | {
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(LAUNCH.parent),
            "CALLS": str(calls),
            "JAX_PLATFORMS": "cpu",
        }
        done = subprocess.run(
            ["bash", LAUNCH / script, *arguments],
            env=environment | settings,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, calls.read_text().splitlines()

    return run


def slurm(run, code: int, **settings: str):
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    return run("slurm.sh", "paper:blur", "/shared/runs", **job | settings, CODE=str(code))


def test_slurm_gives_each_node_all_its_gpus(run, tmp_path):
    """Of a task under SLURM jax would take one GPU alone, that of its number on the node."""
    done, calls = slurm(run, 0, JOIN="1")
    assert done.returncode == 0, done.stderr[-3000:]
    for number in range(2):
        seen = json.loads((tmp_path / f"calls.gpus{number}").read_text())
        assert seen == {"gpus": "0,1,2,3,4,5,6,7", "processes": 2}
    (call,) = calls
    assert "--workdir /shared/runs/blur --processes 2" in call


@pytest.mark.parametrize("code", [PREEMPTED, BAD_INPUT, KILLED, 0])
def test_slurm_requeues_what_was_saved_and_nothing_else(run, code):
    done, calls = slurm(run, code)
    assert done.returncode == code
    assert calls[1:] == (["scontrol requeue 7"] if code == PREEMPTED else [])


def test_slurm_lets_every_process_save(run):
    """Also where the cluster's own default is to end a step with its first bad exit."""
    _, (call,) = slurm(run, 0)
    assert "--kill-on-bad-exit=0 --wait=60" in call  # and yet ends what waits for a dead one
    assert "#SBATCH --open-mode=append" in (LAUNCH / "slurm.sh").read_text().splitlines()


@pytest.mark.parametrize("gpus", ["", "0"])
def test_slurm_refuses_a_job_without_gpus(run, gpus):
    done, calls = slurm(run, 0, SLURM_GPUS_ON_NODE=gpus)
    assert (done.returncode, calls) == (2, [])
    assert done.stderr == "slurm.sh: the job has no GPUs; sbatch --gpus-per-node G is accepted\n"


def tpu_vm(run, *arguments: str, **settings: str):
    slice_ = {"TPU": "my-slice", "ZONE": "us-east5-a", "PROCESSES": "16"}
    return run("tpu_vm.sh", *(arguments or ("paper:blur", "/shared/runs")), **slice_ | settings)


@pytest.mark.parametrize("last", [0, BAD_INPUT, KILLED])
def test_tpu_vm_starts_again_what_was_saved_and_nothing_else(run, last):
    done, calls = tpu_vm(run, CODES=f"75 75 {last}")
    assert done.returncode == last and len(calls) == 3
    assert done.stderr == "tpu_vm.sh: stopped and saved; starting again\n" * 2


def test_tpu_vm_says_that_a_host_was_lost(run):
    done, calls = tpu_vm(run, CODES="255")
    assert done.returncode == 255 and len(calls) == 1
    assert done.stderr.startswith("tpu_vm.sh: lost a host of my-slice, where training may still")


def test_tpu_vm_tells_a_killed_process_from_a_lost_connection(run, tmp_path):
    """ssh would return 255 for both, and gcloud then run the command once more."""
    gen1 = tmp_path / "bin" / "gen1"
    gen1.write_text('#!/usr/bin/env bash\necho "$@"\nkill -KILL $$\n')
    done, _ = tpu_vm(run, "my config.py:blur", "/shared/my runs")
    assert done.returncode == KILLED
    assert "--config my config.py:blur --workdir /shared/my runs/blur" in done.stdout


def test_gke_manifest_agrees_with_itself():
    """Its fields were validated against the published schemas; here, what ties them together."""
    spec = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())["spec"]
    (group,) = spec["replicatedJobs"]
    job = group["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    hosts = group["replicas"] * job["completions"]
    assert job["parallelism"] == job["completions"]
    assert f"--processes={hosts}" in container["command"]
    # Bad input ends the pod, its job and the set, each by the rule above it.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [BAD_INPUT]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert pod["restartPolicy"] == "Never"  # or Kubernetes refuses the rule
    (rule,) = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    # The work folder is on the volume.
    (mount,) = container["volumeMounts"]
    assert mount["name"] in [volume["name"] for volume in pod["volumes"]]
    (workdir,) = (a for a in container["command"] if a.startswith("--workdir="))
    assert workdir.removeprefix("--workdir=").startswith(mount["mountPath"] + "/")
