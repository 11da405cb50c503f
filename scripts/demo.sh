#!/usr/bin/env bash
# Quantloom from nothing to generated text, on Debian 12: installs what is missing, builds, fetches a small language
# model (SmolLM2-135M-Instruct), starts both services, quantizes the model at 4 and at 2 bits through the Quantize RPC,
# generates text through the Generate RPC, and prints what it cost and what it gives. Leaves nothing running.
#
#   scripts/demo.sh            a second run reuses what exists
#   scripts/demo.sh --again    quantizes anew
source "$(dirname "$0")/setup.sh"

again=
case ${1:-} in
  '') ;;
  --again) again=yes ;;
  -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0" && exit 0 ;;
  *) fail "usage: scripts/demo.sh [--again]" ;;
esac

install_packages "${BUILD_PACKAGES[@]}"
build release quantloom-quantizer quantloom-server quantloom
fetch_model

BIN=$ROOT/build/release/bin
DEMO=$CACHE/demo
TEXT=$ROOT/tests/data/prose.txt
[[ -n $again ]] && rm -rf "$DEMO"
mkdir -p "$DEMO/models" "$DEMO/state"

services=()
stop_services() {
  local pid
  for pid in "${services[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${services[@]}"; do wait "$pid" 2>/dev/null || true; done
}
trap stop_services EXIT

# start NAME FLAG...: starts a service on free ports and waits until it listens; prints its address.
start() {
  local name=$1
  shift
  rm -f "$DEMO/$name.port"
  "$BIN/quantloom-$name" --address=127.0.0.1:0 --metrics-address=127.0.0.1:0 --port-file="$DEMO/$name.port" "$@" \
    2>"$DEMO/$name.log" &
  services+=($!)
  for _ in {1..300}; do
    [[ -s $DEMO/$name.port ]] && return 0
    kill -0 $! 2>/dev/null || break
    sleep 0.1
  done
  cat "$DEMO/$name.log" >&2
  fail "quantloom-$name did not start"
}

say "Starting the quantizer and the server"
start quantizer --source-root="$(dirname "$QUANTLOOM_TEST_MODEL")" --model-root="$DEMO/models" --state-dir="$DEMO/state"
QUANTLOOM_QUANTIZER=127.0.0.1:$(<"$DEMO/quantizer.port")
start server --model-root="$DEMO/models"
QUANTLOOM_SERVER=127.0.0.1:$(<"$DEMO/server.port")
export QUANTLOOM_QUANTIZER QUANTLOOM_SERVER

for bits in 4 2; do
  name=smollm2-${bits}bit
  if [[ ! -e $DEMO/models/$name ]]; then
    say "Quantizing to $bits bits: $name"
    "$BIN/quantloom" quantize "$MODEL_FILE" "$name" --recipe "icquant:bits=$bits,outliers=0.05,inner=kmeans" \
      --evaluate "$TEXT"
  fi
done

row() { printf '%-16s %10s %10s %12s %12s %12s\n' "$@"; }
table=$(row model 'bits/weight' 'size (MB)' 'perplexity' 'KL (nats)' 'tokens/s')
first=yes
for bits in 4 2; do
  name=smollm2-${bits}bit
  "$BIN/quantloom" model load "$name" >/dev/null
  say "$name says:"
  "$BIN/quantloom" generate --model "$name" --chat --max-tokens 80 --json \
    "Why is the sky blue? Answer in two sentences." >"$DEMO/$name.json"
  read -r tokens_per_second < <(python3 - "$DEMO/$name.json" <<'PYTHON'
import json, sys
answer = json.load(open(sys.argv[1]))
print(answer["text"].strip(), file=sys.stderr)
print("%.1f" % answer["tokens_per_second"])
PYTHON
  )
  mapfile -t figures < <(python3 - "$DEMO/models/$name/quality.json" <<'PYTHON'
import json, sys
report = json.load(open(sys.argv[1]))
quality = report["quality"]
print("%.3f" % report["linear_bits_per_weight"])
print("%.1f" % (report["packed_bytes"] / 1e6))
print("%.2f" % quality["perplexity_packed"])
print("%.4f" % quality["kl_mean"])
print("%.2f" % quality["perplexity_source"])
PYTHON
  )
  if [[ -n $first ]]; then
    table+=$'\n'$(row 'source (Q4_1)' '5.0' "$(($(stat -c %s "$QUANTLOOM_TEST_MODEL") / 1000000)).0" "${figures[4]}" 0 -)
    first=
  fi
  table+=$'\n'$(row "$name" "${figures[0]}" "${figures[1]}" "${figures[2]}" "${figures[3]}" "$tokens_per_second")
done

printf '\n%s\n\n' "$table"
echo "Bits per weight: linear layers, everything stored. Perplexity and KL divergence: tests/data/prose.txt."
for bits in 4 2; do echo "Report: $DEMO/models/smollm2-${bits}bit/report.html"; done
