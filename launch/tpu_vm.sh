#!/usr/bin/env bash
# Train on a Cloud TPU slice without a cluster: request, install, start on all hosts, watch, stop, delete.
#
#   export NAME=pvs ZONE=us-west4-a TYPE=v5litepod-16 BUCKET=my-bucket     # SPOT=1: cheaper, may be taken away
#   launch/tpu_vm.sh request          # a queued resource; then wait for ACTIVE in: launch/tpu_vm.sh state
#   launch/tpu_vm.sh install          # the committed tree and a Python environment on every host, the bucket mounted
#   launch/tpu_vm.sh start train --config configs/mednet_pvs_t2w.py --config.data=bucket/prepared --workdir bucket/t2w
#   launch/tpu_vm.sh log              # follows host 0; all hosts, last lines: launch/tpu_vm.sh log all
#   launch/tpu_vm.sh stop             # saves a checkpoint and ends; start with the same arguments continues
#   launch/tpu_vm.sh delete
#
# The hosts of a slice share no disk: data and --workdir lie in the bucket, which every host mounts at ~/mednext/bucket.
# RUNTIME is the TPU software version (default: by TYPE). The run goes on when this terminal closes.
# shellcheck disable=SC2016  # what stands in single quotes is expanded on the hosts
set -euo pipefail

usage() {
  sed -n '2,/^# shellcheck/{/^# shellcheck/d;s/^# \{0,1\}//;p}' "$0" >&2
  exit 2
}

on_workers() { # WHICH COMMAND: run COMMAND on worker WHICH, or on all
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker="$1" --command="$2"
}

[ $# -ge 1 ] || usage
: "${NAME:?the name of the TPU slice}" "${ZONE:?its zone, for example us-west4-a}"
action=$1
shift

case $action in
  request)
    : "${TYPE:?the accelerator type, for example v5litepod-16}"
    case $TYPE in
      v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
      v5p-*) runtime=v2-alpha-tpuv5 ;;
      v6e-*) runtime=v2-alpha-tpuv6e ;;
      *) runtime=tpu-ubuntu2204-base ;;
    esac
    gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" \
      --accelerator-type="$TYPE" --runtime-version="${RUNTIME:-$runtime}" ${SPOT:+--spot}
    ;;
  state)
    gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" --format='value(state.state)'
    ;;
  install)
    : "${BUCKET:?the Cloud Storage bucket for data and results}"
    archive=$(mktemp -d)/mednext.tar.gz
    git -C "$(dirname "$0")/.." archive --format=tar.gz --output="$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$NAME:mednext.tar.gz" --zone="$ZONE" --worker=all
    # The images bring an older Python than the package needs: uv fetches its own.
    on_workers all 'set -e
      mkdir -p ~/mednext/bucket && cd ~/mednext && tar -xzf ~/mednext.tar.gz
      python3 -m pip install --quiet --user uv
      python3 -m uv venv --quiet --allow-existing --python 3.12 venv
      python3 -m uv pip install --quiet --python venv/bin/python ".[tpu]"
      if ! command -v gcsfuse >/dev/null; then
        key=/usr/share/keyrings/cloud.google.asc
        curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
        echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
          sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
        sudo apt-get -q update && sudo apt-get -qy install gcsfuse
      fi
      mountpoint -q bucket || gcsfuse --implicit-dirs '"$(printf %q "$BUCKET")"' bucket'
    ;;
  start)
    [ $# -ge 1 ] || usage
    printf -v command '%q ' venv/bin/mednext-jax "$@"
    # Free of the terminal (setsid), so that a lost connection ends nothing; exec: the pid is the program's own.
    on_workers all "cd ~/mednext
      if [ -f run.pid ] && kill -0 \"\$(cat run.pid)\" 2>/dev/null; then echo 'a run is going on here' >&2; exit 1; fi
      setsid nohup bash -c $(printf %q "echo \$\$ > run.pid; exec $command") >>run.log 2>&1 </dev/null &"
    ;;
  log)
    if [ "${1:-0}" = all ]; then
      on_workers all 'echo "== $(hostname)"; tail -n 20 ~/mednext/run.log'
    else
      on_workers "${1:-0}" 'tail -n 50 -F ~/mednext/run.log'
    fi
    ;;
  stop)
    # One host is enough: JAX tells the others, and all save the same step.
    on_workers 0 'kill -TERM "$(cat ~/mednext/run.pid)"'
    ;;
  delete)
    gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force
    ;;
  *) usage ;;
esac
