#!/usr/bin/env bash
# Every host of a TPU VM slice:  TPU=NAME ZONE=ZONE PROCESSES=HOSTS launch/tpu_vm.sh CONFIG:PART RUN
# The project must be installed on the hosts (pip install gen1-jax[tpu]). RUN is a folder that all
# hosts share, mounted at the same place on each. Starts again what SIGTERM stopped; a slice that
# was taken away must be created again first, so this ends with 255 when it loses a host.
set -euo pipefail

if [[ $# -ne 2 || -z "${TPU:-}" || -z "${ZONE:-}" || -z "${PROCESSES:-}" ]]; then
  echo "usage: TPU=NAME ZONE=ZONE PROCESSES=HOSTS launch/tpu_vm.sh CONFIG:PART RUN" >&2
  exit 2
fi
config=$1
run=$2

# "exit $?" lets ssh tell a process that a signal ended from a lost connection, for both of which it
# would return 255, and gcloud run the command on that host again.
printf -v command 'gen1 train --config %q --workdir %q --processes %q --no-progress; exit $?' \
  "$config" "$run/${config#*:}" "$PROCESSES"
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
