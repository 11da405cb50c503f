#!/usr/bin/env bash
# Records additions to proto/quantloom/v1 in the baseline that the contract is compared with. Refuses changes that
# would break clients.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${1:-build/release}
cmake --build "$build" --target quantloom_descriptors descriptor_baseline_test
"$build/bin/descriptor_baseline_test" --gtest_filter='*BreaksNothing*' --gtest_brief=1
cp "$build/proto/quantloom.v1.binpb" tests/services/descriptor_baseline.binpb
