#!/usr/bin/env bash
# Trains on N nodes, one process a node with all its GPUs:
#   sbatch --nodes N launch/slurm.sh CONFIG:PART RUN
# Give the command in the clone's root: the job runs .venv/bin/gen1 there, or the gen1 of PATH.
# RUN is a folder that all nodes share. When SLURM preempts the job or its time ends, SLURM sends
# SIGTERM; the job saves and goes back to the queue. When it runs again it appends to the same log.
#SBATCH --job-name=gen1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
set -euo pipefail

if [[ $# -ne 2 || -z "${SLURM_JOB_NUM_NODES:-}" ]]; then
  echo "usage: sbatch --nodes N launch/slurm.sh CONFIG:PART RUN" >&2
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
config=$1
run=$2

# Under SLURM jax assumes one task a GPU, so the only task of a node would use one GPU; the variable
# gives it all of them. One process a GPU would keep eight copies of the host's data, and each would
# need a number of CPUs that this script does not know.
JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
export JAX_LOCAL_DEVICE_IDS

# After SIGTERM the processes save and end with 75 one after the other, so the first to end must not
# make srun kill the rest (--kill-on-bad-exit=0). If a process ends in another way, the others wait
# for it in vain; srun ends them after a minute (--wait).
code=0
srun --export=ALL --kill-on-bad-exit=0 --wait=60 \
  "$gen1" train --config "$config" --workdir "$run/${config#*:}" \
  --processes "$SLURM_JOB_NUM_NODES" --no-progress || code=$?
if [[ $code -eq 75 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
