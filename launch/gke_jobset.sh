#!/usr/bin/env bash
# Trains one part on TPU slices of a GKE cluster as a JobSet; Kubernetes restarts all hosts when one fails.
# The image holds the package with its extras [train,tpu], and this checkout as the working folder; CLAIM is a volume that all see.
#   IMAGE=... launch/gke_jobset.sh [--dry-run] CONFIG WORKDIR [--config.KEY=VALUE ...]
set -euo pipefail

IMAGE=${IMAGE:?container image}
NAME=${NAME:-cogvideo}
ACCELERATOR=${ACCELERATOR:-tpu-v5-lite-podslice} TOPOLOGY=${TOPOLOGY:-16x16} CHIPS=${CHIPS:-4} HOSTS=${HOSTS:-64}
CLAIM=${CLAIM:-cogvideo} # mounted at /data: WORKDIR, tokens, weights
RESTARTS=${RESTARTS:-10}
apply=(kubectl apply -f -)
[[ ${1:-} != --dry-run ]] || { apply=(cat) && shift; }
USAGE="usage: launch/gke_jobset.sh [--dry-run] CONFIG WORKDIR [--config.KEY=VALUE ...]"
CONFIG=${1:?$USAGE}
WORKDIR=${2:?$USAGE}
shift 2

"${apply[@]}" << YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata: {name: $NAME}
spec:
  failurePolicy: {maxRestarts: $RESTARTS}
  replicatedJobs:
  - name: hosts
    template:
      spec: {parallelism: $HOSTS, completions: $HOSTS, backoffLimit: 0, template: {spec: {
        restartPolicy: Never, nodeSelector: {cloud.google.com/gke-tpu-accelerator: $ACCELERATOR, cloud.google.com/gke-tpu-topology: $TOPOLOGY},
        volumes: [{name: data, persistentVolumeClaim: {claimName: $CLAIM}}],
        containers: [{name: train, image: $IMAGE, volumeMounts: [{name: data, mountPath: /data}], resources: {limits: {google.com/tpu: $CHIPS}},
          command: [cogvideo, train, --distributed, "--config=$CONFIG", "--workdir=$WORKDIR"$(printf ', "%s"' "$@")]}]}}}
YAML
