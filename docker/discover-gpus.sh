#!/usr/bin/env bash
# Tells Spark which GPUs this process can use, as org.apache.spark.resource.ResourceDiscoveryScriptPlugin reads it:
#   {"name": "gpu", "addresses": ["0", "1"]}
#
# An address is CUDA's own number, what torch calls cuda:0, cuda:1, … in a process that inherits this environment.
# nvidia-smi knows nothing of CUDA_VISIBLE_DEVICES. Where that is set, CUDA counts its entries from 0, and so do we.
# (CUDA may order unlike GPUs otherwise than nvidia-smi does. The numbers are the same, so each task still has one of its own.)
#
# Spark runs this only where somebody has asked for GPUs. So no GPU is an error that says why, not an empty list: of an
# empty list Spark would say only that it is shorter than what was asked for.
#
# Not supported, and refused: GPUs cut into instances (MIG). CUDA uses one instance a process, whatever its number.
set -euo pipefail

fail() {
  echo "discover-gpus.sh: $1" >&2
  echo "discover-gpus.sh: $1" # of a script that fails, Spark shows stdout
  exit 1
}

command -v nvidia-smi >/dev/null || fail "no nvidia-smi on PATH; it comes with the driver, and into a container with a GPU"
# One line a GPU: "0, GPU-8932f937-d72c-4106-c12f-20bd9faed9f6, Disabled", or [N/A] where it can't be cut.
gpus=$(nvidia-smi --query-gpu=index,uuid,mig.mode.current --format=csv,noheader 2>&1) || fail "nvidia-smi failed: $gpus"
[[ -n $gpus ]] || fail "nvidia-smi lists no GPU"
while IFS= read -r gpu; do
  [[ $gpu =~ ^[0-9]+,\ GPU-[0-9a-f-]+,\  ]] || fail "nvidia-smi listed '$gpu'; expected 'INDEX, GPU-UUID, MIG MODE'"
  [[ $gpu != *", Enabled" ]] || fail "GPU ${gpu%%,*} is in MIG mode, which is not supported"
done <<<"$gpus"

if [[ -v CUDA_VISIBLE_DEVICES ]]; then
  IFS=, read -ra visible <<<"$CUDA_VISIBLE_DEVICES"
  [[ ${#visible[@]} -gt 0 ]] || fail "CUDA_VISIBLE_DEVICES is empty: it hides every GPU"
  for gpu in "${visible[@]}"; do
    # A number, or a UUID, of which the beginning is enough. At an entry that it does not know, CUDA stops without a word.
    if [[ ! $gpu =~ ^([0-9]+|GPU-[0-9a-f-]+)$ ]] || ! grep -qE "^$gpu,|, $gpu" <<<"$gpus"; then
      fail "CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES: there is no GPU '$gpu' here; nvidia-smi lists: ${gpus//$'\n'/; }"
    fi
  done
  count=${#visible[@]}
else
  count=$(wc -l <<<"$gpus")
fi

addresses=$(seq -s '", "' 0 $((count - 1)))
echo "{\"name\": \"gpu\", \"addresses\": [\"$addresses\"]}"
