#include "services/common/client_limiter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/rpc_status.h"

namespace quantloom {
namespace {

using Refusal = ClientLimiter::Refusal;

class ClientLimiterTest : public ::testing::Test {
 protected:
  // Acquires and gives back at once; the refusal and the delay of it.
  Refusal Try(const std::string& client, const ClientLimits& limits) {
    Refusal refusal;
    const auto permit = limiter_.Acquire(client, limits, now_, refusal);
    EXPECT_EQ(permit.ok(), refusal == Refusal::kNone);
    delay_ = RetryDelay(permit.status()).value_or(absl::ZeroDuration());
    return refusal;
  }

  absl::Time now_ = absl::UnixEpoch();
  absl::Duration delay_;
  ClientLimiter limiter_{4};
};

TEST_F(ClientLimiterTest, Rate_AllowsABurstAndThenTheAverage) {
  const ClientLimits limits{.requests_per_second = 2, .burst = 3};
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Try("a", limits), Refusal::kNone) << i;
  EXPECT_EQ(Try("a", limits), Refusal::kRate);
  EXPECT_EQ(delay_, absl::Milliseconds(500));
  now_ += absl::Milliseconds(200);
  EXPECT_EQ(Try("a", limits), Refusal::kRate);
  EXPECT_NEAR(absl::ToDoubleSeconds(delay_), 0.3, 1e-9);
  now_ += absl::Milliseconds(301);
  EXPECT_EQ(Try("a", limits), Refusal::kNone);
  EXPECT_EQ(Try("a", limits), Refusal::kRate);
}

TEST_F(ClientLimiterTest, Rate_OverAnHourIsTheAverage) {
  const ClientLimits limits{.requests_per_second = 2, .burst = 3};
  int admitted = 0;
  for (int i = 0; i < 36000; ++i, now_ += absl::Milliseconds(100)) {
    if (Try("a", limits) == Refusal::kNone) ++admitted;
  }
  EXPECT_NEAR(admitted, 7200, 4);
}

TEST_F(ClientLimiterTest, Rate_DoesNotSaveMoreThanABurst) {
  const ClientLimits limits{.requests_per_second = 2, .burst = 3};
  EXPECT_EQ(Try("a", limits), Refusal::kNone);
  now_ += absl::Hours(1);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Try("a", limits), Refusal::kNone) << i;
  EXPECT_EQ(Try("a", limits), Refusal::kRate);
}

TEST_F(ClientLimiterTest, Rate_BelowOneASecondStillAllowsACall) {
  const ClientLimits limits{.requests_per_second = 0.1};
  EXPECT_EQ(Try("a", limits), Refusal::kNone);
  EXPECT_EQ(Try("a", limits), Refusal::kRate);
  EXPECT_EQ(delay_, absl::Seconds(10));
}

TEST_F(ClientLimiterTest, Clients_DoNotShareLimits) {
  const ClientLimits limits{.requests_per_second = 1};
  EXPECT_EQ(Try("a", limits), Refusal::kNone);
  EXPECT_EQ(Try("b", limits), Refusal::kNone);
  EXPECT_EQ(Try("a", limits), Refusal::kRate);
}

TEST_F(ClientLimiterTest, Concurrency_CountsPermitsUntilTheyAreGone) {
  const ClientLimits limits{.concurrent_requests = 2};
  Refusal refusal;
  auto first = limiter_.Acquire("a", limits, now_, refusal);
  auto second = limiter_.Acquire("a", limits, now_, refusal);
  EXPECT_EQ(Try("a", limits), Refusal::kConcurrency);
  EXPECT_GT(delay_, absl::ZeroDuration());
  ClientLimiter::Permit moved = *std::move(first);
  EXPECT_EQ(Try("a", limits), Refusal::kConcurrency);
  moved = ClientLimiter::Permit();
  EXPECT_EQ(Try("a", limits), Refusal::kNone);
}

TEST_F(ClientLimiterTest, Concurrency_RefusalsCostNothingOfTheRate) {
  const ClientLimits limits{.requests_per_second = 1, .burst = 2, .concurrent_requests = 1};
  Refusal refusal;
  {
    auto running = limiter_.Acquire("a", limits, now_, refusal);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(Try("a", limits), Refusal::kConcurrency);
  }
  EXPECT_EQ(Try("a", limits), Refusal::kNone);
}

TEST_F(ClientLimiterTest, Memory_IsBoundedAndTheSilentAreForgotten) {
  const ClientLimits limits{.requests_per_second = 1};
  EXPECT_EQ(Try("steady", limits), Refusal::kNone);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(Try(absl::StrCat("visitor", i), limits), Refusal::kNone);
    EXPECT_EQ(Try("steady", limits), Refusal::kRate) << "who keeps coming is not forgotten";
    EXPECT_LE(limiter_.clients(), 4U);
  }
}

TEST_F(ClientLimiterTest, Memory_IsBoundedWhenEveryClientIsActive) {
  const ClientLimits limits{.concurrent_requests = 1};
  std::vector<ClientLimiter::Permit> permits;
  for (int i = 0; i < 4; ++i) {
    Refusal refusal;
    auto permit = limiter_.Acquire(absl::StrCat("client", i), limits, now_, refusal);
    ASSERT_TRUE(permit.ok());
    permits.push_back(*std::move(permit));
  }
  EXPECT_EQ(Try("another", limits), Refusal::kClients);
  EXPECT_GT(delay_, absl::ZeroDuration());
  permits.clear();
  EXPECT_EQ(Try("another", limits), Refusal::kNone);
  EXPECT_LE(limiter_.clients(), 4U);
}

TEST_F(ClientLimiterTest, WithoutLimits_NobodyIsRemembered) {
  EXPECT_EQ(Try("a", {}), Refusal::kNone);
  EXPECT_EQ(limiter_.clients(), 0U);
}

TEST_F(ClientLimiterTest, Threads_NeverExceedTheLimit) {
  const ClientLimits limits{.concurrent_requests = 3};
  std::atomic<int> running{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        Refusal refusal;
        const auto permit = limiter_.Acquire("a", limits, absl::UnixEpoch(), refusal);
        if (!permit.ok()) continue;
        EXPECT_LE(++running, 3);
        --running;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Try("a", limits), Refusal::kNone);
}

}  // namespace
}  // namespace quantloom
