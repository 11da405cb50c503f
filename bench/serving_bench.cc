// How soon requests get their first token from one engine:
//
//   - short prompts, one after the other, with nothing else to do, and while other streams keep
//     sending long prompts: the ratio says what long prompts cost short ones;
//   - a prompt that begins like an earlier one, against that earlier one: what the prefix cache
//     spares.
//
// Prompts are random tokens. Both halves of a ratio come from the same run, since absolute times
// say more about the machine. Prints percentiles in milliseconds; with --json one line of JSON.
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <iostream>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/parallel.h"
#include "engine/generation.h"
#include "engine/loaded_model.h"
#include "nlohmann/json.hpp"

namespace quantloom {
namespace {

struct Options {
  std::string model;
  int threads = 0;
  uint32_t short_prompt = 32;
  uint32_t long_prompt = 2000;
  uint32_t shared_prompt = 1000;
  uint32_t background = 4;  // streams that send long prompts
  uint32_t generate = 16;   // tokens of a short prompt's answer
  uint32_t requests = 50;   // short ones, in each half
  bool own_client = false;  // short prompts come from a client of their own
  GenerationEngine::Limits limits;
  bool json = false;
};

class RandomPrompts {
 public:
  explicit RandomPrompts(size_t vocab, uint32_t seed = 1) : vocab_(vocab), random_(seed) {}
  std::vector<int32_t> Next(size_t length) {
    std::vector<int32_t> tokens(length);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random_() % vocab_);
    return tokens;
  }

 private:
  size_t vocab_;
  std::mt19937 random_;
};

GenerationRequest Request(std::vector<int32_t> prompt, uint32_t tokens, std::string client) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = tokens;
  request.ignore_eos = true;
  request.standing.client = std::move(client);
  return request;
}

// Runs a request to its end; seconds to its first token.
double TimeToFirstToken(GenerationEngine& engine, const GenerationRequest& request) {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  absl::Time first = absl::InfiniteFuture();
  const absl::Time start = absl::Now();
  const auto stream = engine.Submit(request, [&](const GenerationEvent& event) {
    std::lock_guard<std::mutex> lock(mutex);
    if (event.token) first = std::min(first, absl::Now());
    done = event.last();
    changed.notify_all();
  });
  if (!stream.ok()) {
    std::cerr << stream.status() << "\n";
    std::exit(1);
  }
  std::unique_lock<std::mutex> lock(mutex);
  changed.wait(lock, [&] { return done; });
  return absl::ToDoubleSeconds(first - start);
}

// Streams that send a long prompt again and again, each when the one before has ended; until the
// destructor cancels them.
class Background {
 public:
  Background(GenerationEngine& engine, const Options& options, RandomPrompts& prompts)
      : engine_(engine), options_(options), prompts_(prompts), streams_(options.background) {
    for (size_t i = 0; i < streams_.size(); ++i) Send(i);
  }
  ~Background() {
    std::unique_lock<std::mutex> lock(mutex_);
    stopped_ = true;
    for (const auto& stream : streams_) stream->Cancel();
    changed_.wait(lock, [this] { return ended_ == streams_.size(); });
  }
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

 private:
  void Send(size_t i) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (stopped_) return End();
    auto stream = engine_.Submit(Request(prompts_.Next(options_.long_prompt), 64, "background"),
                                 [this, i](const GenerationEvent& event) {
                                   if (event.last()) Send(i);
                                 });
    if (!stream.ok()) {
      std::cerr << stream.status() << "\n";
      std::exit(1);
    }
    streams_[i] = *std::move(stream);
  }
  void End() {
    ++ended_;
    changed_.notify_all();
  }

  GenerationEngine& engine_;
  const Options& options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  RandomPrompts& prompts_;
  std::vector<std::shared_ptr<GenerationStream>> streams_;
  size_t ended_ = 0;
  bool stopped_ = false;
};

// Appends the times to the first token of `count` short prompts, one after the other.
void SendShort(GenerationEngine& engine, const Options& options, uint32_t count,
               RandomPrompts& prompts, std::vector<double>& seconds) {
  std::mt19937 random(2);
  for (uint32_t i = 0; i < count; ++i) {
    absl::SleepFor(absl::Milliseconds(random() % 200));  // at any moment of a step
    seconds.push_back(
        TimeToFirstToken(engine, Request(prompts.Next(options.short_prompt), options.generate,
                                         options.own_client ? "short" : "background")));
  }
}

double Percentile(const std::vector<double>& sorted, double share) {
  return sorted[std::min(sorted.size() - 1, static_cast<size_t>(share * sorted.size()))];
}

// First and second request with one system prompt, medians over several.
std::pair<double, double> SharedPrefix(GenerationEngine& engine, const Options& options,
                                       RandomPrompts& prompts) {
  std::vector<double> first;
  std::vector<double> second;
  for (int i = 0; i < 5; ++i) {
    const std::vector<int32_t> system = prompts.Next(options.shared_prompt);
    for (std::vector<double>* times : {&first, &second}) {
      std::vector<int32_t> prompt = system;
      const std::vector<int32_t> user = prompts.Next(options.short_prompt);
      prompt.insert(prompt.end(), user.begin(), user.end());
      times->push_back(TimeToFirstToken(engine, Request(prompt, 2, "")));
    }
  }
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  return {Percentile(first, 0.5), Percentile(second, 0.5)};
}

int Benchmark(const Options& options) {
  ThreadTeam team(options.threads != 0 ? options.threads
                                       : static_cast<int>(std::thread::hardware_concurrency()));
  const auto model = LoadedModel::LoadPacked(options.model, Verify::kHeader, team);
  if (!model.ok()) {
    std::cerr << model.status() << "\n";
    return 1;
  }
  const auto engine = GenerationEngine::Create(*model, options.limits);
  if (!engine.ok()) {
    std::cerr << engine.status() << "\n";
    return 1;
  }
  RandomPrompts prompts((*model)->config().vocab_size);
  // In turns, so that what else the machine does meets both alike.
  std::vector<double> alone;
  std::vector<double> loaded;
  uint64_t prompt_tokens = 0;
  absl::Duration elapsed;
  constexpr uint32_t kTurn = 10;
  for (uint32_t sent = 0; sent < options.requests; sent += kTurn) {
    const uint32_t count = std::min(kTurn, options.requests - sent);
    SendShort(**engine, options, count, prompts, alone);
    RandomPrompts background_prompts((*model)->config().vocab_size, /*seed=*/100 + sent);
    const Background background(**engine, options, background_prompts);
    absl::SleepFor(absl::Seconds(1));
    const uint64_t before = (*engine)->stats().prompt_tokens;
    const absl::Time start = absl::Now();
    SendShort(**engine, options, count, prompts, loaded);
    elapsed += absl::Now() - start;
    prompt_tokens += (*engine)->stats().prompt_tokens - before;
  }
  std::sort(alone.begin(), alone.end());
  std::sort(loaded.begin(), loaded.end());

  const auto fresh = GenerationEngine::Create(*model, options.limits);
  const auto [first, second] = SharedPrefix(**fresh, options, prompts);
  const nlohmann::ordered_json result = {
      {"prefill_chunk", options.limits.prefill_chunk},
      {"alone_p50_ms", 1e3 * Percentile(alone, 0.5)},
      {"alone_p99_ms", 1e3 * Percentile(alone, 0.99)},
      {"loaded_p50_ms", 1e3 * Percentile(loaded, 0.5)},
      {"loaded_p99_ms", 1e3 * Percentile(loaded, 0.99)},
      {"p50_ratio", Percentile(loaded, 0.5) / Percentile(alone, 0.5)},
      {"p99_ratio", Percentile(loaded, 0.99) / Percentile(alone, 0.99)},
      {"loaded_prompt_tokens_per_second",
       static_cast<double>(prompt_tokens) / absl::ToDoubleSeconds(elapsed)},
      {"shared_prefix_first_ms", 1e3 * first},
      {"shared_prefix_second_ms", 1e3 * second},
      {"shared_prefix_ratio", second / first}};
  if (options.json) {
    std::cout << result.dump() << "\n";
    return 0;
  }
  for (const auto& [name, value] : result.items()) {
    std::printf("%-36s %.2f\n", name.c_str(), value.get<double>());
  }
  return 0;
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  quantloom::Options options;
  CLI::App app(
      "Time to the first token of short prompts beside long ones, and with a shared prefix");
  app.add_option("model", options.model, "packed directory")->required();
  app.add_option("--threads", options.threads, "threads; 0: all");
  app.add_option("--short", options.short_prompt, "tokens of a short prompt");
  app.add_option("--long", options.long_prompt, "tokens of a long prompt");
  app.add_option("--shared", options.shared_prompt, "tokens of the shared prefix");
  app.add_option("--background", options.background, "streams that send long prompts");
  app.add_option("--generate", options.generate, "tokens of a short prompt's answer");
  app.add_option("--requests", options.requests, "short prompts in each half");
  app.add_flag("--own-client", options.own_client, "short prompts come from another client");
  app.add_option("--prefill-chunk", options.limits.prefill_chunk, "prompt tokens in one step");
  app.add_flag("--json", options.json, "one line of JSON");
  CLI11_PARSE(app, argc, argv);
  return quantloom::Benchmark(options);
}
