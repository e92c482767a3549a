#!/usr/bin/env bash
# Trains on every host of a TPU VM slice:
#   TPU=NAME ZONE=ZONE PROCESSES=HOSTS launch/tpu_vm.sh CONFIG:PART RUN
# The project must be installed on every host, with its extra `tpu` (docs/installing.md). GEN1=PATH
# names the program there, for example GEN1=gen1-jax/.venv/bin/gen1; without it, it is the `gen1` of
# the hosts' PATH. RUN is a folder that all hosts share, mounted at the same place on each.
# The script restarts a job that SIGTERM stopped. It ends with 255 when it loses a host, because
# somebody must create a preempted slice again first.
set -euo pipefail

if [[ $# -ne 2 || -z "${TPU:-}" || -z "${ZONE:-}" || -z "${PROCESSES:-}" ]]; then
  echo "usage: TPU=NAME ZONE=ZONE PROCESSES=HOSTS launch/tpu_vm.sh CONFIG:PART RUN" >&2
  exit 2
fi
config=$1
run=$2

# ssh returns 255 both for a lost connection and for a command that a signal ended, and gcloud then
# runs the command again. "exit $?" makes the shell return the code of a killed process instead.
printf -v command '%q train --config %q --workdir %q --processes %q --no-progress; exit $?' \
  "${GEN1:-gen1}" "$config" "$run/${config#*:}" "$PROCESSES"
while true; do
  code=0
  gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "$command" || code=$?
  case $code in
    75) echo "tpu_vm.sh: stopped and saved; starting again" >&2 ;;
    255)
      echo "tpu_vm.sh: lost a host of $TPU, where training may still run. Look at the slice" \
        "(gcloud compute tpus tpu-vm describe $TPU --zone $ZONE), create it again if it is" \
        "PREEMPTED, and give the same command: it goes on from the last checkpoint" >&2
      exit "$code"
      ;;
    *) exit "$code" ;;
  esac
  sleep 30
done
