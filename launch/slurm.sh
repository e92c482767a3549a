#!/usr/bin/env bash
# One process a node, with all its GPUs:  sbatch --nodes N launch/slurm.sh CONFIG:PART RUN
# RUN is a folder that all nodes share. SLURM's preemption and time limit send SIGTERM; the job
# saves, and is put back in the queue, where it goes on with the same log.
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
config=$1
run=$2

# Under SLURM jax takes a task for a GPU, and would leave a node's others idle: here a task is a
# node, and is told all of them. A process a GPU would have eight copies of what each keeps on its
# host, and would need a number of CPUs for each, which no script knows; one may use all there are.
JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
export JAX_LOCAL_DEVICE_IDS

# Processes that have saved end with 75 one after the other, so the first must not end the rest
# (--kill-on-bad-exit=0): srun would return the signal it sent them. They leave together otherwise;
# where one is gone for a minute (--wait) the others wait for it in vain, and are ended.
code=0
srun --export=ALL --kill-on-bad-exit=0 --wait=60 \
  gen1 train --config "$config" --workdir "$run/${config#*:}" \
  --processes "$SLURM_JOB_NUM_NODES" --no-progress || code=$?
if [[ $code -eq 75 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
