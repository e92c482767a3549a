#!/usr/bin/env bash
# Runs a gen1 command on N nodes, one process a node with all its GPUs:
#   sbatch --nodes N launch/slurm.sh gen1 train --config CONFIG:PART --workdir FOLDER
# Give the command in the clone's root: the job runs .venv/bin/gen1 there, or the gen1 of PATH. The
# script adds --processes and --no-progress. FOLDER is one that all nodes share. When SLURM preempts
# the job or its time ends, SLURM sends SIGTERM; the job saves and goes back to the queue, and so
# does a job that crashed, until GEN1_RESTARTS starts in a row (10) have made no new checkpoint.
# When it runs again it appends to the same log.
#SBATCH --job-name=gen1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
set -euo pipefail

if [[ $# -lt 2 || "$1" != gen1 || -z "${SLURM_JOB_NUM_NODES:-}" ]]; then
  echo "usage: sbatch --nodes N launch/slurm.sh gen1 train --config CONFIG:PART --workdir FOLDER" >&2
  exit 2
fi
if [[ ! "${SLURM_GPUS_ON_NODE:-}" =~ ^[1-9][0-9]*$ ]]; then
  echo "slurm.sh: the job has no GPUs; sbatch --gpus-per-node G is accepted" >&2
  exit 2
fi
gen1=$(command -v gen1 || echo "$PWD/.venv/bin/gen1")
if [[ ! -x "$gen1" ]]; then
  echo "slurm.sh: no gen1 on PATH and no $gen1; run sbatch in a clone after \`make install\`" >&2
  exit 2
fi

# Under SLURM jax assumes one task a GPU, so the only task of a node would use one GPU; the variable
# gives it all of them. One process a GPU would keep eight copies of the host's data, and each would
# need a number of CPUs that this script does not know.
JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
export JAX_LOCAL_DEVICE_IDS
export GEN1_START=${SLURM_RESTART_COUNT:-0}

# After SIGTERM the processes save and end with 75 one after the other, so the first to end must not
# make srun kill the rest (--kill-on-bad-exit=0). If a process ends in another way, the others wait
# for it in vain; srun ends them after a minute (--wait).
code=0
srun --export=ALL --kill-on-bad-exit=0 --wait=60 \
  "$gen1" "${@:2}" --processes "$SLURM_JOB_NUM_NODES" --no-progress || code=$?
case $code in
  # done; bad input; given up; no such program
  0 | 2 | 70 | 126 | 127) ;;
  *)
    echo "slurm.sh: the job ended with $code; back to the queue" >&2
    scontrol requeue "$SLURM_JOB_ID"
    ;;
esac
exit "$code"
