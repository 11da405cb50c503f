#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/cpu/linear.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/targets.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

int64_t CompiledTarget() { return HWY_TARGET; }

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <cstdlib>

namespace quantloom::cpu {

HWY_EXPORT(CompiledTarget);

namespace {

// The target that QUANTLOOM_SIMD names; empty when it is unset or empty.
absl::string_view TargetOfEnvironment() {
  const char* name = std::getenv("QUANTLOOM_SIMD");
  return name == nullptr ? "" : name;
}

// Applies QUANTLOOM_SIMD once; what it said when it could not be obeyed.
const absl::Status& EnvironmentStatus() {
  static const absl::Status* const status = [] {
    if (TargetOfEnvironment().empty()) return new absl::Status();
    const absl::Status forced = ForceTarget(TargetOfEnvironment());
    return new absl::Status(forced.ok()
                                ? forced
                                : absl::InvalidArgumentError(absl::StrCat(
                                      "environment variable QUANTLOOM_SIMD: ", forced.message())));
  }();
  return *status;
}

}  // namespace

const char* ActiveTarget() { return hwy::TargetName(HWY_DYNAMIC_DISPATCH(CompiledTarget)()); }

std::vector<const char*> AvailableTargets() {
  static const int64_t machine = hwy::SupportedTargets();  // before any target was forced
  std::vector<const char*> names;
  // Better targets have lower bits; any machine runs the base and the emulated one.
  constexpr int64_t kAnywhere = HWY_STATIC_TARGET | HWY_SCALAR | HWY_EMU128;
  for (int64_t left = (machine | kAnywhere) & (HWY_TARGETS); left != 0; left &= left - 1) {
    names.push_back(hwy::TargetName(left & -left));
  }
  return names;
}

absl::Status ForceTarget(absl::string_view name) {
  const std::vector<const char*> available = AvailableTargets();
  for (int64_t left = HWY_TARGETS; left != 0; left &= left - 1) {
    const int64_t target = left & -left;
    if (name != hwy::TargetName(target)) continue;
    for (const char* usable : available) {
      if (name != usable) continue;
      hwy::SetSupportedTargetsForTest(target);
      hwy::GetChosenTarget().DeInit();
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("SIMD target '", name, "' is not one of ", absl::StrJoin(available, ", ")));
}

absl::Status RequireSupportedCpu() {
  if (!EnvironmentStatus().ok()) return EnvironmentStatus();
  if (!TargetOfEnvironment().empty()) return absl::OkStatus();  // an explicit choice
#if HWY_ARCH_X86 && HWY_TARGETS != HWY_STATIC_TARGET
  if (AvailableTargets().front() == absl::string_view(hwy::TargetName(HWY_STATIC_TARGET))) {
    return absl::FailedPreconditionError(
        "this CPU has none of the instruction sets that the kernels are built for: AVX2 with FMA "
        "and F16C, or AVX-512, is needed");
  }
#endif
  return absl::OkStatus();
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
