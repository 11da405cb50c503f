// Two hundred streams, of which half are given up at random moments.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/client_callback.h>

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/services/server/server_fixture.h"
#include "tests/services/server/stream_client_process.h"

namespace quantloom::testing {
namespace {

constexpr int kSurvivors = 100;
constexpr int kCancelled = 80;
constexpr int kKillers = 2;
constexpr int kKilledEach = 10;
constexpr uint32_t kSurvivorTokens = 16;
constexpr uint32_t kDoomedTokens = 3000;  // more than nearly all of them live to see
constexpr absl::Duration kLongestLife = absl::Seconds(1);

// Survivors and cancelled ones share prefixes.
std::string ManyStreamsPrompt(int i) {
  std::string prompt = "Tell me more.";
  for (int word = 0; word < 7 * (i % 5); ++word) absl::StrAppend(&prompt, " ", word + i % 3);
  return absl::StrCat(prompt, " Number ", i);
}

// A stream that reads all it gets; the client's threads are gRPC's.
class AsyncStream final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  // Gives up after `most_responses` responses, where that is positive.
  AsyncStream(v1::GenerationService::Stub& stub, v1::GenerateRequest request, int most_responses)
      : request_(std::move(request)), most_responses_(most_responses) {
    stub.async()->Generate(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }

  void Cancel() { context_.TryCancel(); }

  grpc::StatusCode Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
    return code_;
  }
  // After Wait.
  const std::string& text() const { return text_; }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;
    text_ += response_.text();
    if (++responses_ == most_responses_) context_.TryCancel();
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override {
    const std::lock_guard lock(mutex_);
    code_ = status.error_code();
    done_ = true;
    changed_.notify_all();
  }

  const v1::GenerateRequest request_;
  const int most_responses_;
  grpc::ClientContext context_;
  v1::GenerateResponse response_;
  int responses_ = 0;
  std::string text_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  grpc::StatusCode code_ = grpc::StatusCode::UNKNOWN;
};

using ManyStreamsTest = ServerTest;

TEST_F(ManyStreamsTest, HalfGivenUpAtRandomMoments_LeavesTheOthersAndNoBlocks) {
  options_.engine.max_running = 16;
  options_.engine.max_waiting = 256;
  options_.engine.kv_tokens = 4096;  // far fewer than all want: doomed ones are preempted
  StartServer();
  std::vector<std::string> alone;
  for (int i = 0; i < kSurvivors; ++i) {
    const Generated generated = Generate(Request(ManyStreamsPrompt(i), kSurvivorTokens));
    ASSERT_TRUE(generated.status.ok()) << generated.status;
    alone.push_back(generated.text);
  }

  std::mt19937 random(1);
  std::vector<std::unique_ptr<AsyncStream>> survivors;
  std::vector<std::unique_ptr<AsyncStream>> doomed;
  std::vector<std::pair<absl::Time, AsyncStream*>> ends;  // of those that have a time of death
  const absl::Time start = absl::Now();
  std::vector<std::thread> killers;
  for (int i = 0; i < kKillers; ++i) {
    const absl::Duration pause = kLongestLife * std::uniform_real_distribution<>(0, 1)(random);
    killers.emplace_back(
        [this, pause] { StreamClient(server_->port(), kKilledEach).KillMidway(pause); });
  }
  for (int i = 0; i < kSurvivors; ++i) {
    survivors.push_back(std::make_unique<AsyncStream>(
        *generation_, Request(ManyStreamsPrompt(i), kSurvivorTokens), 0));
    if (i >= kCancelled) continue;
    // Every other one after some of its answer, the rest at some time: queued, in its prompt, ...
    const int most_responses = i % 2 == 0 ? 1 + static_cast<int>(random() % 10) : 0;
    doomed.push_back(std::make_unique<AsyncStream>(
        *generation_, Request(ManyStreamsPrompt(i), kDoomedTokens), most_responses));
    if (most_responses == 0) {
      ends.emplace_back(start + kLongestLife * std::uniform_real_distribution<>(0, 1)(random),
                        doomed.back().get());
    }
  }
  std::sort(ends.begin(), ends.end());
  for (const auto& [time, stream] : ends) {
    absl::SleepFor(time - absl::Now());
    stream->Cancel();
  }
  int cancelled = 0;
  for (auto& stream : doomed) {
    const grpc::StatusCode code = stream->Wait();
    // On a fast machine one may be through before its time.
    EXPECT_TRUE(code == grpc::StatusCode::CANCELLED || code == grpc::StatusCode::OK) << code;
    if (code == grpc::StatusCode::CANCELLED) ++cancelled;
  }
  EXPECT_GE(cancelled, kCancelled / 2);
  for (std::thread& killer : killers) killer.join();
  for (int i = 0; i < kSurvivors; ++i) {
    EXPECT_EQ(survivors[i]->Wait(), grpc::StatusCode::OK) << i;
    EXPECT_EQ(survivors[i]->text(), alone[i]) << i;
  }
  ExpectIdle();
  EXPECT_EQ(Stats().kv_blocks_used, 0u);
}

}  // namespace
}  // namespace quantloom::testing
