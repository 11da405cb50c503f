#include "cli/job_follower.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "tests/cli/job_events.h"
#include "tests/cli/scripted_services.h"

namespace quantloom::cli {
namespace {

using ::testing::ElementsAre;
using Writer = grpc::ServerWriter<v1::QuantizeEvent>;

// Follows a scripted job and keeps what it was told.
class Follow {
 public:
  explicit Follow(const std::string& address, int retries = 0)
      : connection_(
            {.quantizer = address, .retries = retries}, *LoadSecurity({}), [](auto) {},
            [this](const absl::Status&, absl::Duration) { ++retries_; }),
        follower_(connection_, {.on_event =
                                    [this](const v1::QuantizeEvent& event) {
                                      sequences.push_back(event.sequence());
                                      seen = sequences.size();
                                      return sequences.size() < stop_after;
                                    },
                                .on_lost =
                                    [this](const absl::Status& status, absl::Duration) {
                                      lost.push_back(status.code());
                                      if (cancel_when_lost) connection_.cancellation().Cancel();
                                    }}) {}

  absl::StatusOr<v1::Job> Quantize() {
    v1::QuantizeRequest request;
    request.set_request_id("r1");
    return follower_.Quantize(request);
  }
  absl::StatusOr<v1::Job> Watch(uint64_t from) { return follower_.Watch(kJobName, from); }
  int retries() const { return retries_; }

  std::vector<uint64_t> sequences;
  std::atomic<size_t> seen = 0;  // its size, for other threads
  std::vector<absl::StatusCode> lost;
  size_t stop_after = 1000;
  bool cancel_when_lost = false;

 private:
  int retries_ = 0;
  Connection connection_;
  JobFollower follower_;
};

void Write(Writer& writer, uint64_t first, uint64_t last) {
  for (uint64_t sequence = first; sequence <= last; ++sequence)
    writer.Write(EncodingEvent(sequence));
}

TEST(JobFollowerTest, Quantize_DeliversEveryEventToTheEnd) {
  ScriptedServer server({.quantize = [](auto&, const auto&, Writer& writer) {
    Write(writer, 1, 5);
    writer.Write(EventIn(v1::JOB_STATE_SUCCEEDED, 6));
    return grpc::Status::OK;
  }});
  Follow follow(server.address());
  const auto job = follow.Quantize();
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(follow.sequences, ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_TRUE(follow.lost.empty());
}

TEST(JobFollowerTest, Quantize_GoesOnAfterTheLastEventSeenWhenTheServerIsReplaced) {
  auto first = std::make_unique<ScriptedServer>(
      Script{.quantize = [&](auto& context, const auto&, Writer& writer) {
        Write(writer, 1, 3);
        AwaitCancellation(context);
        return grpc::Status::CANCELLED;
      }});
  const std::string address = first->address();
  Follow follow(address);
  std::optional<ScriptedServer> second;
  std::atomic<uint64_t> asked_from = 0;
  std::thread replace([&] {
    while (follow.seen < 3) std::this_thread::yield();
    first.reset();
    second.emplace(Script{.watch_job =
                              [&](auto&, const auto& request, Writer& writer) {
                                asked_from = request.from_sequence();
                                EXPECT_EQ(request.name(), kJobName);
                                Write(writer, request.from_sequence(), 6);
                                writer.Write(EventIn(v1::JOB_STATE_SUCCEEDED, 7));
                                return grpc::Status::OK;
                              }},
                   address);
  });
  const auto job = follow.Quantize();
  replace.join();
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(asked_from, 4u);
  EXPECT_THAT(follow.sequences, ElementsAre(1, 2, 3, 4, 5, 6, 7));
  EXPECT_FALSE(follow.lost.empty());
}

TEST(JobFollowerTest, Quantize_SkipsEventsThatItHasSeen) {
  ScriptedServer server({.quantize =
                             [](auto&, const auto&, Writer& writer) {
                               Write(writer, 1, 3);
                               return grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining");
                             },
                         .watch_job =
                             [](auto&, const auto&, Writer& writer) {
                               Write(writer, 2, 3);
                               writer.Write(EncodingEvent(9));  // thinned out: 4 .. 8 are gone
                               writer.Write(EventIn(v1::JOB_STATE_FAILED, 10));
                               return grpc::Status::OK;
                             }});
  Follow follow(server.address());
  const auto job = follow.Quantize();
  ASSERT_TRUE(job.ok());
  EXPECT_EQ(job->state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(follow.sequences, ElementsAre(1, 2, 3, 9, 10));
  EXPECT_THAT(follow.lost, ElementsAre(absl::StatusCode::kUnavailable));
}

TEST(JobFollowerTest, Watch_TreatsAStreamThatEndsBeforeTheJobAsLost) {
  std::atomic<int> calls = 0;
  ScriptedServer server({.watch_job = [&](auto&, const auto& request, Writer& writer) {
    if (++calls == 1) {
      Write(writer, request.from_sequence(), 6);
    } else {
      EXPECT_EQ(request.from_sequence(), 7u);
      writer.Write(EventIn(v1::JOB_STATE_CANCELLED, 7));
    }
    return grpc::Status::OK;
  }});
  Follow follow(server.address());
  const auto job = follow.Watch(5);
  ASSERT_TRUE(job.ok());
  EXPECT_EQ(job->state(), v1::JOB_STATE_CANCELLED);
  EXPECT_THAT(follow.sequences, ElementsAre(5, 6, 7));
}

TEST(JobFollowerTest, Quantize_GivesUpOnAnErrorThatAnotherTryWouldNotCure) {
  ScriptedServer server({.quantize =
                             [](auto&, const auto&, Writer& writer) {
                               Write(writer, 1, 1);
                               return grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining");
                             },
                         .watch_job =
                             [](auto&, const auto&, Writer&) {
                               return grpc::Status(grpc::StatusCode::NOT_FOUND, "no such job");
                             }});
  Follow follow(server.address());
  EXPECT_EQ(follow.Quantize().status().code(), absl::StatusCode::kNotFound);
}

TEST(JobFollowerTest, Quantize_DoesNotTryAgainBeforeTheFirstEventUnlessAsked) {
  std::atomic<int> calls = 0;
  ScriptedServer server({.quantize = [&](auto&, const auto&, Writer& writer) {
    if (++calls < 3) return RetryAfter(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue is full", 20);
    writer.Write(EventIn(v1::JOB_STATE_SUCCEEDED, 1));
    return grpc::Status::OK;
  }});
  Follow once(server.address());
  EXPECT_EQ(once.Quantize().status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(calls, 1);
  Follow patient(server.address(), /*retries=*/5);
  EXPECT_TRUE(patient.Quantize().ok());
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(patient.retries(), 1);
}

TEST(JobFollowerTest, Quantize_StopsWhenTheHookSaysSo) {
  ScriptedServer server({.quantize = [](auto& context, const auto&, Writer& writer) {
    Write(writer, 1, 3);
    AwaitCancellation(context);
    return grpc::Status::CANCELLED;
  }});
  Follow follow(server.address());
  follow.stop_after = 2;
  const auto job = follow.Quantize();
  ASSERT_TRUE(job.ok());
  EXPECT_FALSE(HasEnded(*job));
  EXPECT_THAT(follow.sequences, ElementsAre(1, 2));
}

TEST(JobFollowerTest, Quantize_StopsInThePauseBetweenTries) {
  ScriptedServer server({.quantize = [](auto&, const auto&, Writer& writer) {
    Write(writer, 1, 1);
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining");
  }});
  Follow follow(server.address());
  follow.cancel_when_lost = true;
  const auto job = follow.Quantize();
  ASSERT_TRUE(job.ok());
  EXPECT_EQ(job->name(), kJobName);
  EXPECT_EQ(follow.lost.size(), 1u);
}

TEST(BackoffTest, Backoff_GrowsAndStaysBounded) {
  for (int attempt = 0; attempt < 40; ++attempt) {
    const absl::Duration pause = Backoff(attempt);
    const absl::Duration whole =
        std::min(absl::Milliseconds(250) * (1 << std::min(attempt, 10)), absl::Seconds(10));
    EXPECT_LE(pause, whole);
    EXPECT_GE(pause, whole * 0.74);
  }
}

}  // namespace
}  // namespace quantloom::cli
