#!/usr/bin/env bash
# One process a node, with all its GPUs:  sbatch --nodes N launch/slurm.sh CONFIG:PART RUN
# SLURM's preemption and time limit send SIGTERM; the job saves, and is put back in the queue.
#SBATCH --job-name=gen1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%j.log
set -euo pipefail

if [[ $# -ne 2 || -z "${SLURM_JOB_NUM_NODES:-}" ]]; then
  echo "usage: sbatch --nodes N launch/slurm.sh CONFIG:PART RUN" >&2
  exit 2
fi
config=$1
run=$2

code=0
srun --kill-on-bad-exit=1 gen1 train --config "$config" --workdir "$run/${config#*:}" \
  --processes "$SLURM_JOB_NUM_NODES" --no-progress || code=$?
if [[ $code -eq 75 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
