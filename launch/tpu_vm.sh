#!/usr/bin/env bash
# Every host of a TPU VM slice:  TPU=NAME ZONE=ZONE PROCESSES=HOSTS launch/tpu_vm.sh CONFIG:PART RUN
# The project must be installed on the hosts (pip install gen1-jax[tpu]).
set -euo pipefail

if [[ $# -ne 2 || -z "${TPU:-}" || -z "${ZONE:-}" || -z "${PROCESSES:-}" ]]; then
  echo "usage: TPU=NAME ZONE=ZONE PROCESSES=HOSTS launch/tpu_vm.sh CONFIG:PART RUN" >&2
  exit 2
fi
config=$1
run=$2

printf -v command 'gen1 train --config %q --workdir %q --processes %q --no-progress' \
  "$config" "$run/${config#*:}" "$PROCESSES"
while true; do
  code=0
  gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "$command" || code=$?
  if [[ $code -ne 75 ]]; then
    exit "$code"
  fi
  echo "preempted and saved: starting again" >&2
  sleep 30
done
