#include "services/common/call_deadline.h"

#include <chrono>

#include "absl/time/clock.h"

namespace quantloom {
namespace {

constexpr absl::Duration kLateness = absl::Milliseconds(100);

}  // namespace

absl::Time CallDeadline(const grpc::ServerContextBase& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

bool GivenUpForDeadline(absl::Time deadline) { return absl::Now() >= deadline - kLateness; }

absl::Status GivenUpStatus(absl::Time deadline) {
  if (GivenUpForDeadline(deadline)) return absl::DeadlineExceededError("the deadline is over");
  return absl::CancelledError("cancelled by the caller");
}

}  // namespace quantloom
