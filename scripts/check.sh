#!/usr/bin/env bash
# Checks of the source that need no test: formatting, layer order, shell scripts; with --tidy also clang-tidy, which
# takes minutes the first time.
source "$(dirname "$0")/setup.sh"
cd "$ROOT"

case ${1:-} in
  '' | --tidy) ;;
  *) fail "usage: scripts/check.sh [--tidy]" ;;
esac

mapfile -t sources < <(git ls-files '*.cc' '*.h' '*.cu')

say "Checking formatting"
clang-format-14 --dry-run --Werror "${sources[@]}"

say "Checking layers"
# A layer may include itself and what is below it; the client may include the contract and what it shares with
# the services.
declare -A allowed=(
  [core]="core"
  [kernels]="core kernels"
  [engine]="core kernels engine"
  [command_line]="command_line"
  [access_token]="access_token"
  [services]="access_token command_line core kernels engine services google quantloom"
  [cli]="access_token cli command_line google quantloom"
)
violations=0
for layer in "${!allowed[@]}"; do
  while IFS=: read -r file line include; do
    target=$(sed -E 's/.*"([^"/]+)\/.*/\1/' <<<"$include")
    if [[ -d $target || $target == quantloom ]] && [[ " ${allowed[$layer]} " != *" $target "* ]]; then
      echo "$file:$line: $layer must not include $target: $include"
      violations=1
    fi
  done < <(git grep -nE '^#include "[a-z_]+/' -- "$layer/*.h" "$layer/*.cc")
done
((violations == 0)) || fail "a lower layer includes a higher one"

say "Checking shell scripts"
shellcheck --external-sources --source-path=scripts scripts/*.sh scripts/device_bundle/*.sh .ci/run

[[ ${1:-} == --tidy ]] || exit 0
# The product's files, each alone: the debug preset does not batch them.
build debug quantloom_proto_sources
say "Running clang-tidy"
# A file's result is kept under the digest of what the compiler sees, so a second run checks only what changed.
mkdir -p "$CACHE/tidy"
tidy() {
  local file=$1 command key
  command=$(python3 - "$file" <<'PYTHON'
import json, os, shlex, sys
for entry in json.load(open("build/debug/compile_commands.json")):
    if os.path.relpath(entry["file"]) == sys.argv[1]:
        words = shlex.split(entry["command"])
        if os.path.basename(words[0]) == "ccache":
            words = words[1:]
        print(shlex.join(words[:words.index("-o")] + ["-E", entry["file"]]))
        break
PYTHON
)
  [[ -n $command ]] || return 0 # not part of this build
  key=$({ cat .clang-tidy && (cd build/debug && eval "$command") | sed "s|$ROOT||g"; } | sha256sum | cut -d' ' -f1)
  [[ -e $CACHE/tidy/$key ]] && return 0
  echo "  $file"
  clang-tidy-14 -p build/debug --quiet "$file" 2>/dev/null || return 1
  touch "$CACHE/tidy/$key"
}
export -f tidy
export ROOT CACHE
git ls-files '*.cc' ':!tests' ':!bench' | xargs -P "$JOBS" -I{} bash -c 'tidy {}' || fail "clang-tidy found something"
