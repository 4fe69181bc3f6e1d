#!/usr/bin/env bash
# Print the GPUs that this process can use, in the format of Spark's ResourceDiscoveryScriptPlugin:
#   {"name": "gpu", "addresses": ["0", "1"]}
#
# An address is the CUDA device number: cuda:0, cuda:1, … in torch, in a process that inherits this environment.
# nvidia-smi ignores CUDA_VISIBLE_DEVICES. If it is set, CUDA numbers its entries from 0, and so does this script.
# (CUDA and nvidia-smi may order GPUs of different models differently. The numbers are the same, so each task still
# has its own GPU.)
#
# Spark runs this only if GPUs are configured. A machine without a GPU is therefore an error that gives the reason; for an
# empty list, Spark would only report that it is shorter than requested.
#
# GPUs in MIG mode are rejected: a CUDA process can use only one MIG instance.
set -euo pipefail

fail() {
  echo "discover-gpus.sh: $1" >&2
  echo "discover-gpus.sh: $1" # Spark shows only stdout of a failed script
  exit 1
}

command -v nvidia-smi >/dev/null || fail "nvidia-smi is not on PATH; it is part of the NVIDIA driver"
# One line per GPU: "0, GPU-8932f937-d72c-4106-c12f-20bd9faed9f6, Disabled", or [N/A] without MIG support.
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
    # A number, a UUID or a prefix of one. CUDA silently ignores an unknown entry and all entries after it.
    if [[ ! $gpu =~ ^([0-9]+|GPU-[0-9a-f-]+)$ ]] || ! grep -qE "^$gpu,|, $gpu" <<<"$gpus"; then
      fail "CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES: GPU '$gpu' does not exist; nvidia-smi lists: ${gpus//$'\n'/; }"
    fi
  done
  count=${#visible[@]}
else
  count=$(wc -l <<<"$gpus")
fi

addresses=$(seq -s '", "' 0 $((count - 1)))
echo "{\"name\": \"gpu\", \"addresses\": [\"$addresses\"]}"
