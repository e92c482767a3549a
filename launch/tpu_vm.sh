#!/usr/bin/env bash
# Runs a gen1 command on every host of a TPU VM slice:
#   TPU=NAME ZONE=ZONE PROCESSES=HOSTS launch/tpu_vm.sh \
#     gen1 train --config CONFIG:PART --workdir FOLDER
# The project must be installed on every host, with its extra `tpu` (docs/installing.md). GEN1=PATH
# names the program there, for example GEN1=gen1-jax/.venv/bin/gen1; without it, it is the `gen1` of
# the hosts' PATH. The script adds --processes and --no-progress. FOLDER is one that all hosts share,
# mounted at the same place on each. The script restarts a job that SIGTERM or a crash ended, until
# GEN1_RESTARTS starts in a row (10) have made no new checkpoint. It ends with 255 when it loses a
# host, because somebody must create a preempted slice again first.
set -euo pipefail

if [[ $# -lt 2 || "$1" != gen1 || -z "${TPU:-}" || -z "${ZONE:-}" || -z "${PROCESSES:-}" ]]; then
  echo "usage: TPU=NAME ZONE=ZONE PROCESSES=HOSTS launch/tpu_vm.sh gen1 train --config CONFIG:PART" \
    "--workdir FOLDER" >&2
  exit 2
fi

printf -v command ' %q' "${GEN1:-gen1}" "${@:2}" --processes "$PROCESSES" --no-progress
start=0
quick=0
while true; do
  code=0
  began=$SECONDS
  # ssh returns 255 both for a lost connection and for a command that a signal ended, and gcloud then
  # runs the command again. "exit $?" makes the shell return the code of a killed process instead.
  gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command \
    "GEN1_START=$start GEN1_RESTARTS=${GEN1_RESTARTS:-10}$command; exit \$?" || code=$?
  case $code in
    # done; bad input; given up; no such program
    0 | 2 | 70 | 126 | 127) exit "$code" ;;
    255)
      echo "tpu_vm.sh: lost a host of $TPU, where the job may still run. Look at the slice" \
        "(gcloud compute tpus tpu-vm describe $TPU --zone $ZONE), create it again if it is" \
        "PREEMPTED, and give the same command: it goes on from the last checkpoint" >&2
      exit "$code"
      ;;
  esac
  # A wrong name of the slice, an expired login or a broken installation end at once, uncounted.
  quick=$((SECONDS - began < 60 ? quick + 1 : 0))
  if ((quick > ${GEN1_RESTARTS:-10})); then
    echo "tpu_vm.sh: given up, because $quick starts in a row ended within a minute" >&2
    exit 70
  fi
  echo "tpu_vm.sh: the job ended with $code; starting it again" >&2
  start=$((start + 1))
  sleep 30
done
