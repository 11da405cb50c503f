// Prompt and decode speed of one model directory or file, through the forward pass that the server
// uses, with batches of one sequence or more.
//
//   model_bench --threads=2 --prompt=512 --generate=128 packed-directory
//
// Prints tokens per second, milliseconds per step, and the bytes of weights that a step reads with
// the bandwidth which that makes.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "core/base/parallel.h"
#include "core/base/status.h"
#include "engine/device.h"
#include "engine/kv_cache.h"
#include "engine/loaded_model.h"
#include "engine/model.h"
#include "nlohmann/json.hpp"

namespace quantloom {
namespace {

struct Options {
  std::string model;
  std::string device = "cpu";
  int threads = 0;
  uint32_t prompt = 512;
  uint32_t generate = 128;
  uint32_t batch = 1;
  uint32_t chunk = 512;
  bool f32_kv = false;
  bool json = false;
};

struct Speeds {
  double prompt_seconds = 0;
  double generate_seconds = 0;
};

// One sequence's tokens so far stay in its cache; every step runs `count` tokens of each sequence.
class Batches {
 public:
  Batches(const Model& model, const Options& options)
      : model_(model),
        kv_(KvCache::Create(model.backend(), model.config(),
                            uint64_t{options.batch} * (options.prompt + options.generate + 64), 64,
                            options.f32_kv ? KvElement::kF32 : KvElement::kF16)
                .value()),
        workspace_(model.CreateWorkspace(uint64_t{options.batch} * options.chunk, options.batch)),
        blocks_(options.batch) {}

  void Reset() {
    position_ = 0;
    for (BlockTable& table : blocks_) kv_->blocks().Release(table);
  }
  void Step(uint32_t count, bool want_logits) {
    std::vector<int32_t> tokens(count);
    for (uint32_t i = 0; i < count; ++i)
      tokens[i] = static_cast<int32_t>((100 + position_ + i) % model_.config().vocab_size);
    RaggedBatch batch;
    std::vector<uint32_t> last_rows;
    for (BlockTable& table : blocks_) {
      kv_->blocks().Cover(position_ + count, table);
      batch.Add(tokens, position_, table);
      last_rows.push_back(static_cast<uint32_t>(batch.size()) - 1);
    }
    if (!want_logits) last_rows.clear();
    model_.Step(batch, last_rows, kv_->storage(), *workspace_).value();
    position_ += count;
  }

 private:
  const Model& model_;
  std::unique_ptr<KvCache> kv_;
  Model::WorkspacePtr workspace_;
  std::vector<BlockTable> blocks_;
  uint32_t position_ = 0;
};

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Speeds Measure(const Model& model, const Options& options) {
  Batches batches(model, options);
  batches.Step(1, true);  // first use of the weights
  batches.Reset();
  Speeds speeds;
  speeds.prompt_seconds = Seconds([&] {
    for (uint32_t done = 0; done < options.prompt; done += options.chunk) {
      const uint32_t count = std::min(options.chunk, options.prompt - done);
      batches.Step(count, done + count == options.prompt);
    }
  });
  speeds.generate_seconds = Seconds([&] {
    for (uint32_t i = 0; i < options.generate; ++i) batches.Step(1, true);
  });
  return speeds;
}

void Report(const Options& options, const LoadedModel& model, const Device& device, int threads,
            const Speeds& speeds) {
  const double prompt = options.batch * options.prompt / speeds.prompt_seconds;
  const double generated = options.batch * options.generate / speeds.generate_seconds;
  const double step = speeds.generate_seconds / options.generate;
  const double weights = static_cast<double>(model.weight_bytes());
  if (options.json) {
    const nlohmann::json result = {{"model", options.model},
                                   {"threads", threads},
                                   {"batch", options.batch},
                                   {"device", device.name()},
                                   {"processor", device.description()},
                                   {"prompt_tokens_per_second", prompt},
                                   {"generated_tokens_per_second", generated},
                                   {"step_milliseconds", step * 1e3},
                                   {"weight_bytes", model.weight_bytes()},
                                   {"weight_bytes_per_second", weights / step}};
    std::printf("%s\n", result.dump().c_str());
    return;
  }
  std::printf("%s: %s (%s), %d threads, batch %u\n", options.model.c_str(), device.name().c_str(),
              device.description().c_str(), threads, options.batch);
  std::printf("  prompt   %8.1f tokens/s (%u tokens)\n", prompt, options.prompt);
  std::printf("  generate %8.1f tokens/s (%u tokens, %.2f ms a step)\n", generated,
              options.generate, step * 1e3);
  std::printf("  weights  %8.1f MB a step, %.1f GB/s\n", weights / 1e6, weights / step / 1e9);
}

absl::Status Run(const Options& options) {
  ThreadTeam team(options.threads);
  const bool packed = std::filesystem::exists(std::filesystem::path(options.model) / kManifestFile);
  QL_ASSIGN_OR_RETURN(const DeviceChoice choice, ChooseDevice(options.device));
  if (!packed && choice.device->name() != "cpu") {
    return absl::UnimplementedError("source models run on the CPU alone");
  }
  auto model = packed
                   ? LoadedModel::LoadPacked(options.model, Verify::kHeader, *choice.device, team)
                   : LoadedModel::LoadSource(options.model, team);
  QL_RETURN_IF_ERROR(model.status());
  if (options.prompt + options.generate > (*model)->config().max_position) {
    return absl::InvalidArgumentError(absl::StrCat("--prompt and --generate exceed the context of ",
                                                   (*model)->config().max_position));
  }
  Report(options, **model, *choice.device, team.size(), Measure((*model)->model(), options));
  return absl::OkStatus();
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  quantloom::Options options;
  CLI::App app("Prompt and decode speed of a model");
  app.add_option("model", options.model, "packed directory, Hugging Face directory or GGUF file")
      ->required();
  app.add_option("--device", options.device, "auto, cpu, cuda or cuda:N");
  app.add_option("--threads", options.threads, "threads; 0: all that this process may use");
  app.add_option("--prompt", options.prompt, "prompt tokens")->check(CLI::PositiveNumber);
  app.add_option("--generate", options.generate, "generated tokens")->check(CLI::PositiveNumber);
  app.add_option("--batch", options.batch, "sequences side by side")->check(CLI::PositiveNumber);
  app.add_option("--chunk", options.chunk, "prompt tokens a step")->check(CLI::PositiveNumber);
  app.add_flag("--f32-kv", options.f32_kv, "KV cache in fp32");
  app.add_flag("--json", options.json, "one line of JSON");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = quantloom::Run(options);
  if (!status.ok()) std::fprintf(stderr, "model_bench: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
