#include "bench/model_speed.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/median.h"
#include "core/base/status.h"
#include "engine/kv_cache.h"
#include "engine/model.h"

namespace quantloom {
namespace {

constexpr uint32_t kBlockTokens = 64;
constexpr uint32_t kStepsPerLayersStep = 4;

// Sequences that grow together.
class Sequences {
 public:
  static absl::StatusOr<std::unique_ptr<Sequences>> Create(const Model& model,
                                                           const SpeedOptions& options) {
    std::unique_ptr<Sequences> sequences(new Sequences(model, options));
    const uint64_t tokens = uint64_t{options.prompt} + options.generate + 1 + kBlockTokens;
    QL_ASSIGN_OR_RETURN(sequences->kv_,
                        KvCache::Create(model.backend(), model.config(), options.batch * tokens,
                                        kBlockTokens, options.kv));
    return sequences;
  }

  void Restart() {
    position_ = 0;
    for (BlockTable& table : blocks_) kv_->blocks().Release(table);
  }
  // Runs the next `count` tokens of each sequence, with logits of the last if they are wanted. They
  // are run again by the next call unless they `stay`. Returns seconds.
  absl::StatusOr<double> Step(uint32_t count, bool logits, bool stay) {
    std::vector<int32_t> tokens(count);
    for (uint32_t i = 0; i < count; ++i) {
      tokens[i] = static_cast<int32_t>((100 + position_ + i) % model_.config().vocab_size);
    }
    RaggedBatch batch;
    std::vector<uint32_t> last_rows;
    for (BlockTable& table : blocks_) {
      kv_->blocks().Cover(position_ + count, table);
      batch.Add(tokens, position_, table);
      if (logits) last_rows.push_back(static_cast<uint32_t>(batch.size()) - 1);
    }
    const auto begin = std::chrono::steady_clock::now();
    QL_RETURN_IF_ERROR(model_.Step(batch, last_rows, kv_->storage(), *workspace_).status());
    if (stay) position_ += count;
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

 private:
  Sequences(const Model& model, const SpeedOptions& options)
      : model_(model),
        workspace_(model.CreateWorkspace(
            uint64_t{options.batch} * std::min(options.chunk, options.prompt), options.batch)),
        blocks_(options.batch) {}

  const Model& model_;
  std::unique_ptr<KvCache> kv_;
  Model::WorkspacePtr workspace_;
  std::vector<BlockTable> blocks_;
  uint32_t position_ = 0;
};

}  // namespace

absl::StatusOr<ModelSpeed> MeasureModelSpeed(const LoadedModel& model,
                                             const SpeedOptions& options) {
  const uint64_t context = model.config().max_position;
  if (uint64_t{options.prompt} + options.generate + 1 > context) {
    return absl::InvalidArgumentError(absl::StrCat(options.prompt, " prompt and ", options.generate,
                                                   " generated tokens exceed the context of ",
                                                   context));
  }
  QL_ASSIGN_OR_RETURN(const auto sequences, Sequences::Create(model.model(), options));
  QL_RETURN_IF_ERROR(sequences->Step(1, true, true).status());  // first use of the weights
  sequences->Restart();
  ModelSpeed speed;
  for (uint32_t done = 0; done < options.prompt;) {
    const uint32_t count = std::min(options.chunk, options.prompt - done);
    done += count;
    QL_ASSIGN_OR_RETURN(const double seconds, sequences->Step(count, done == options.prompt, true));
    speed.prompt_seconds += seconds;
  }
  if (options.generate == 0) return speed;
  const auto read_bandwidth = [&] {
    return options.read_bandwidth == nullptr ? 0.0 : options.read_bandwidth();
  };
  speed.read_bandwidth = read_bandwidth() / 2;
  std::vector<double> steps, heads;  // seconds; a head's are from two steps in a row
  for (uint32_t step = 0; step < options.generate; ++step) {
    QL_ASSIGN_OR_RETURN(const double seconds, sequences->Step(1, true, true));
    steps.push_back(seconds);
    if (step % kStepsPerLayersStep != 0) continue;
    QL_ASSIGN_OR_RETURN(const double without_head, sequences->Step(1, false, false));
    heads.push_back(seconds - without_head);
  }
  speed.read_bandwidth += read_bandwidth() / 2;
  speed.step_seconds = Median(steps);
  speed.layers_seconds = speed.step_seconds - std::max(Median(heads), 0.0);
  return speed;
}

WeightCounts CountWeights(const ModelConfig& config) {
  WeightCounts counts;
  counts.head = config.vocab_size * config.hidden_size;
  for (const TensorSpec& tensor : ModelTensors(config)) {
    if (tensor.role == TensorSpec::Role::kLinear) {
      counts.layers += tensor.shape[0] * tensor.shape[1];
    }
  }
  return counts;
}

}  // namespace quantloom
