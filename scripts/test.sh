#!/usr/bin/env bash
# Builds and runs every check and test, from nothing, on Debian 12.
#
#   scripts/test.sh            everything: checks, release tests, AddressSanitizer and ThreadSanitizer tests
#   scripts/test.sh release    the checks and the release build's tests alone
#
# The sanitizer builds run the tests where they can find something the release build cannot: parsers of untrusted
# bytes and everything with threads. Installs what is missing; reuses what exists.
source "$(dirname "$0")/setup.sh"

case ${1:-all} in
  all | release) scope=${1:-all} ;;
  -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0" && exit 0 ;;
  *) fail "usage: scripts/test.sh [release]" ;;
esac

install_packages "${BUILD_PACKAGES[@]}" "${CHECK_PACKAGES[@]}"
python_environment "$ROOT/tests/requirements.txt"
fetch_model
build release
"$ROOT/scripts/check.sh"

if [[ $scope == all ]]; then
  for preset in asan tsan; do
    build "$preset" sanitizer_tests
    say "Testing ($preset)"
    (cd "$ROOT" && ctest --preset "$preset" -j "$JOBS" -L sanitize --no-tests=error)
  done
fi

say "Testing (release)"
cd "$ROOT" && ctest --preset release -j "$JOBS" --no-tests=error
