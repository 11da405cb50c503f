// Runs a piece of a test on every SIMD target that this machine has, the emulated one included.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "gtest/gtest.h"
#include "hwy/highway.h"

namespace quantloom {

// body(name) with each target forced; afterwards the best is in use again.
inline void OnEverySimdTarget(absl::FunctionRef<void(const char* target)> body) {
  hwy::SetSupportedTargetsForTest(0);
  const int64_t usable =
      (hwy::SupportedTargets() | HWY_STATIC_TARGET | HWY_SCALAR | HWY_EMU128) & (HWY_TARGETS);
  for (int64_t left = usable; left != 0; left &= left - 1) {
    const int64_t target = left & -left;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().DeInit();
    SCOPED_TRACE(hwy::TargetName(target));
    body(hwy::TargetName(target));
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
}

}  // namespace quantloom
