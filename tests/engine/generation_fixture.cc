#include "tests/engine/generation_fixture.h"

#include <algorithm>
#include <iterator>
#include <random>

#include "core/text/utf8.h"
#include "engine/quantize/quantize_model.h"
#include "engine/window_runner.h"
#include "tests/tiny_model.h"

namespace quantloom {

GenerationEngine::EventCallback Collector::callback() {
  return [this](const GenerationEvent& event) {
    std::lock_guard<std::mutex> lock(mutex_);
    EXPECT_FALSE(done_) << "an event after the last";
    EXPECT_TRUE(IsValidUtf8(event.text));
    outcome_.events.push_back(event);
    if (event.token) outcome_.tokens.push_back(*event.token);
    outcome_.text += event.text;
    if (event.last()) {
      outcome_.last = event;
      done_ = true;
    }
    changed_.notify_all();
  };
}

Outcome Collector::Wait() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return done_; });
  return outcome_;
}

void Collector::WaitForTokens(size_t count) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return done_ || outcome_.tokens.size() >= count; });
}

size_t Collector::tokens() {
  std::lock_guard<std::mutex> lock(mutex_);
  return outcome_.tokens.size();
}

PausedRequest::PausedRequest(GenerationEngine& engine, const GenerationRequest& request) {
  auto stream = engine.Submit(request, [this](const GenerationEvent& event) {
    if (!event.last() && !paused_) {
      paused_ = true;
      stream_.get_future().get()->SetPaused(true);
    }
    collector_.callback()(event);
  });
  EXPECT_TRUE(stream.ok()) << stream.status();
  handle_ = *stream;
  stream_.set_value(*stream);
  collector_.WaitForTokens(1);
}

std::vector<int32_t> Prompt(size_t length, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(length);
  for (int32_t& token : tokens) token = 1 + static_cast<int32_t>(random() % 256);
  return tokens;
}

GenerationRequest Request(size_t prompt_length, uint32_t seed, uint32_t max_tokens) {
  GenerationRequest request;
  request.prompt = Prompt(prompt_length, seed);
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  return request;
}

std::vector<GenerationRequest> MixedRequests() {
  std::vector<GenerationRequest> requests;
  const size_t lengths[] = {1, 37, 5, 90, 16, 17, 64, 2};
  for (size_t i = 0; i < std::size(lengths); ++i)
    requests.push_back(
        Request(lengths[i], static_cast<uint32_t>(i), 12 + 5 * static_cast<uint32_t>(i)));
  return requests;
}

namespace {

class Models {
 public:
  static const Models& Get() {
    static const Models* models = new Models();
    return *models;
  }
  std::shared_ptr<const LoadedModel> Load(bool packed, ThreadTeam& team) const {
    auto loaded = packed
                      ? LoadedModel::LoadPacked(directory_.path() / "packed", Verify::kFull, team)
                      : LoadedModel::LoadSource(directory_.path() / "source", team);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *loaded;
  }

 private:
  Models() {
    testing::WriteTinyModel(directory_.path() / "source", 42);
    QuantizeOptions options;
    options.source = directory_.path() / "source";
    options.recipe = "icquant:bits=4";
    options.calibration_tokens = 0;
    ThreadTeam team(2);
    const auto result = QuantizeModel(
        options, directory_.path() / "packed", team, [](const auto&) {}, [] { return false; });
    EXPECT_TRUE(result.ok()) << result.status();
  }
  testing::TemporaryDirectory directory_;
};

}  // namespace

std::shared_ptr<const LoadedModel> LoadTinyModel(bool packed, ThreadTeam& team) {
  return Models::Get().Load(packed, team);
}

std::unique_ptr<GenerationEngine> Generation::Create(const GenerationEngine::Limits& limits) {
  auto engine = GenerationEngine::Create(model_, limits);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

Outcome Generation::Run(GenerationEngine& engine, const GenerationRequest& request) {
  Collector collector;
  const auto stream = engine.Submit(request, collector.callback());
  EXPECT_TRUE(stream.ok()) << stream.status();
  return collector.Wait();
}

std::vector<Outcome> Generation::RunTogether(GenerationEngine& engine,
                                             const std::vector<GenerationRequest>& requests) {
  std::vector<Collector> collectors(requests.size());
  // The first event waits, and with it the engine, until all are submitted.
  std::promise<void> submitted;
  const std::shared_future<void> all_submitted = submitted.get_future().share();
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto stream = engine.Submit(
        requests[i], [all_submitted, collect = collectors[i].callback()](const auto& event) {
          all_submitted.wait();
          collect(event);
        });
    EXPECT_TRUE(stream.ok()) << stream.status();
  }
  submitted.set_value();
  std::vector<Outcome> outcomes;
  for (Collector& collector : collectors) outcomes.push_back(collector.Wait());
  return outcomes;
}

std::vector<int32_t> Generation::GreedyByRecomputation(std::vector<int32_t> tokens,
                                                       size_t count) const {
  auto runner =
      WindowRunner::Create(model_->model(), tokens.size() + count, KvElement::kF16).value();
  const size_t prompt = tokens.size();
  while (tokens.size() < prompt + count) {
    EXPECT_TRUE(runner->Forward(tokens).ok());
    const absl::Status visited = runner->VisitLogits(
        tokens.size() - 1, tokens.size(), [&](size_t, absl::Span<const float> x) {
          tokens.push_back(static_cast<int32_t>(std::max_element(x.begin(), x.end()) - x.begin()));
        });
    EXPECT_TRUE(visited.ok()) << visited;
  }
  return {tokens.begin() + static_cast<std::ptrdiff_t>(prompt), tokens.end()};
}

}  // namespace quantloom
