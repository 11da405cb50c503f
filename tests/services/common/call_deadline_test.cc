#include "services/common/call_deadline.h"

#include <gtest/gtest.h>

#include "absl/time/clock.h"

namespace quantloom {
namespace {

TEST(CallDeadlineTest, GivenUp_AtTheDeadlineOrShortlyBeforeItIsForTheDeadline) {
  for (const absl::Duration left :
       {-absl::Seconds(1), absl::ZeroDuration(), absl::Milliseconds(50)}) {
    EXPECT_EQ(GivenUpStatus(absl::Now() + left).code(), absl::StatusCode::kDeadlineExceeded)
        << left;
  }
}

TEST(CallDeadlineTest, GivenUp_LongBeforeTheDeadlineOrWithoutOneIsACancellation) {
  EXPECT_EQ(GivenUpStatus(absl::Now() + absl::Minutes(1)).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(GivenUpStatus(absl::InfiniteFuture()).code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace quantloom
