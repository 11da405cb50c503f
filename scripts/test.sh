#!/usr/bin/env bash
# Builds and runs every check and test, from nothing, on Debian 12.
#
#   scripts/test.sh                 the checks of the source, clang-tidy among them; core, kernels and engine on 64-bit Arm, the
#                                   kernels in a build without SIMD, the engine on AVX2; and every test in the release build
#   scripts/test.sh --sanitizers    the same after the tests under AddressSanitizer and under ThreadSanitizer
#
# Installs what is missing; reuses what exists.
source "$(dirname "$0")/setup.sh"

sanitizers=
case ${1:-} in
  '') ;;
  --sanitizers) sanitizers=yes ;;
  -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0" && exit 0 ;;
  *) fail "usage: scripts/test.sh [--sanitizers]" ;;
esac

# Device code for one GPU, and as PTX: that all of it compiles is known then.
export QUANTLOOM_CUDA_ARCHITECTURES=${QUANTLOOM_CUDA_ARCHITECTURES:-90}
install_packages "${BUILD_PACKAGES[@]}" "${CHECK_PACKAGES[@]}"
python_environment "$ROOT/tests/requirements.txt"
fetch_model
build release
"$ROOT/scripts/check.sh" --tidy

if [[ -n $sanitizers ]]; then
  for preset in asan tsan; do
    build "$preset" sanitizer_tests
    say "Testing ($preset)"
    (cd "$ROOT" && ctest --preset "$preset" -j "$JOBS" -L sanitize --no-tests=error)
  done
fi

# What the machine's best SIMD target does below.
if grep -qw avx512f /proc/cpuinfo; then
  say "Testing (release, AVX2)"
  QUANTLOOM_SIMD=AVX2 ctest --test-dir "$ROOT/build/release/tests/engine" --output-on-failure -j "$JOBS" --no-tests=error
fi

build scalar tests/kernels/all
say "Testing (scalar)"
ctest --test-dir "$ROOT/build/scalar/tests/kernels" --output-on-failure -j "$JOBS" --no-tests=error

"$ROOT/scripts/aarch64.sh"

say "Testing (release)"
cd "$ROOT" && ctest --preset release -j "$JOBS" --no-tests=error
