#!/usr/bin/env bash
# Runs a bundle of scripts/package_device.sh on this machine: the kernels' tests, then device_bench, then server and
# client end to end, each model's answers on the device beside those on the CPU, and the quantizer, whose bytes must be
# those of the CPU. Ends with status 1 when something failed.
#
#   run.sh [--device cuda|cpu] [--output DIRECTORY] [-- OPTION...]
#
# Options after -- are device_bench's. With --device cpu tests and measurements are left out, and the CPU is compared with
# itself: what a machine without a GPU can prove of the bundle.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

device=cuda
output=$here/output
while (($#)); do
  case $1 in
    --device) device=$2 && shift 2 ;;
    --output) output=$2 && shift 2 ;;
    --) shift && break ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
done
mkdir -p "$output"
failed=0
begin() { printf '== %s\n' "$*"; }
note() {
  printf 'FAILED: %s\n' "$*"
  failed=1
}

# cuBLAS may lie where the loader does not look: in Python packages, say.
if [[ $device != cpu ]] && ! ldconfig -p 2>/dev/null | grep -q 'libcublas\.so\.1[23]'; then
  cublas=$(find /usr/local /opt /usr/lib -name 'libcublas.so.1[23]' -print -quit 2>/dev/null)
  [[ -n $cublas ]] && export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}${cublas%/*}"
fi

if [[ $device != cpu ]]; then
  begin "Tests of the kernels"
  "$here/bin/cuda_device_tests" --gtest_brief=1 2>&1 | tee "$output/tests.log"
  case ${PIPESTATUS[0]} in
    0) ;;
    77) # skipped: there is no device, so that all that follows would fail
      echo "FAILED: there is no GPU to use; --device cpu does what needs none"
      exit 1
      ;;
    *) note "cuda_device_tests" ;;
  esac
  begin "Measurements"
  "$here/bin/device_bench" --seconds 420 --table "$output/device_bench.tsv" "$@" >"$output/device_bench.log" 2>&1 ||
    note "device_bench: $(tail -1 "$output/device_bench.log")"
  grep '^#' "$output/device_bench.tsv"
fi

service=
end_service() {
  [[ -n $service ]] || return 0
  kill "$service" 2>/dev/null
  wait "$service"
  service=
}
trap end_service EXIT

# start DIRECTORY NAME FLAG...: starts a service on a free port, which is then in DIRECTORY/NAME.port.
start() {
  local log=$1/$2.log port=$1/$2.port program=$here/bin/quantloom-$2
  shift 2
  rm -f "$port"
  "$program" --address=127.0.0.1:0 --metrics-address= --port-file="$port" "$@" 2>"$log" &
  service=$!
  for _ in {1..600}; do
    [[ -s $port ]] && return 0
    kill -0 "$service" 2>/dev/null || break
    sleep 0.1
  done
  note "$(basename "$program"): $(tail -1 "$log")"
  end_service
  return 1
}

# answers DEVICE: what every model of the bundle says on it, into $output/DEVICE/MODEL.N.json.
answers() {
  local on=$1 model prompt number
  rm -rf "${output:?}/$on" && mkdir -p "$output/$on"
  start "$output/$on" server --device="$on" --model-root="$here/models" || return
  local client=("$here/bin/quantloom" --server "127.0.0.1:$(<"$output/$on/server.port")" --timeout 120s)
  for model in "$here"/models/*/; do
    model=$(basename "$model")
    "${client[@]}" model load "$model" >/dev/null || note "model load: $model on $on"
    number=0
    while IFS= read -r prompt; do
      number=$((number + 1))
      "${client[@]}" generate --json --model "$model" --logprobs 20 --ignore-eos --no-prefix-cache -n 16 "$prompt" \
        >"$output/$on/$model.$number.json" ||
        note "generate: $model on $on"
      kill -0 "$service" 2>/dev/null || { note "quantloom-server: $(tail -1 "$output/$on/server.log")" && break 2; }
    done <<'PROMPTS'
Why is the sky blue?
The three primary colours are
Once upon a time there was a weaver who lived at the edge of a forest, and every evening she
0 1 1 2 3 5 8 13 21 34 55 89
int main() { return
A loom is a device used to weave cloth. The basic purpose of any loom is to hold the warp threads under tension.
PROMPTS
  done
  end_service
}

begin "End to end on the CPU"
answers cpu
begin "End to end on $device"
mkdir -p "$output/first" && cp "$output"/cpu/*.json "$output/first/"
answers "$device"
begin "Answers on $device beside those on the CPU"
if command -v python3 >/dev/null; then
  python3 "$here/compare_devices.py" "$output/first" "$output/$device" || note "answers differ"
else
  note "python3 is missing: compare_devices.py has not compared $output/first with $output/$device"
fi

begin "Quantizing on $device"
rm -rf "$output/quantized" && mkdir -p "$output/quantized/models" "$output/quantized/state"
if start "$output/quantized" quantizer --device="$device" --source-root="$here/sources" \
  --model-root="$output/quantized/models" --state-dir="$output/quantized/state"; then
  "$here/bin/quantloom" --quantizer "127.0.0.1:$(<"$output/quantized/quantizer.port")" quantize random qtip-2 \
    --recipe qtip:bits=2 >"$output/quantized/events" || note "quantize"
  end_service
  if cmp "$here/models/qtip-2/model-00001-of-00001.safetensors" \
    "$output/quantized/models/qtip-2/model-00001-of-00001.safetensors"; then
    echo "the bytes are the CPU's"
  else
    note "quantized bytes differ from the CPU's"
  fi
fi

if ((failed)); then echo "FAILED"; else echo "PASSED"; fi
exit "$failed"
