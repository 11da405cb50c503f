#include "engine/quantize/calibration.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "core/base/sha256.h"
#include "core/base/status.h"
#include "engine/kv_cache.h"
#include "engine/model.h"
#include "engine/random.h"
#include "engine/sampler.h"
#include "engine/window_runner.h"

namespace quantloom {
namespace {

// Sequences sampled side by side: enough rows for one pass over the weights to be worth its
// bandwidth, few enough that each sequence gets some context.
constexpr uint32_t kSampledSequences = 32;

// Sums of squares per column, token by token in ascending order.
class ImportanceAccumulator {
 public:
  void Add(absl::Span<const std::string> linears, absl::Span<const float> inputs, size_t rows,
           size_t cols) {
    std::vector<double>& sums = sums_[linears[0]];
    sums.resize(cols);
    for (size_t row = 0; row < rows; ++row) {
      const float* x = inputs.data() + row * cols;
      for (size_t c = 0; c < cols; ++c) sums[c] += static_cast<double>(x[c]) * x[c];
    }
    if (sharing_.count(linears[0]) == 0) {
      sharing_[linears[0]].assign(linears.begin(), linears.end());
    }
  }

  void AddTokens(absl::Span<const int32_t> tokens) {
    tokens_ += tokens.size();
    digest_.Update({reinterpret_cast<const uint8_t*>(tokens.data()), tokens.size() * 4});
  }

  CalibrationStatistics Finish() {
    CalibrationStatistics statistics;
    for (const auto& [first, sums] : sums_) {
      std::vector<float> means(sums.size());
      for (size_t c = 0; c < sums.size(); ++c) {
        means[c] = static_cast<float>(sums[c] / static_cast<double>(tokens_));
      }
      for (const std::string& name : sharing_[first]) statistics.importance[name] = means;
    }
    statistics.tokens = tokens_;
    statistics.tokens_sha256 = digest_.Finish();
    return statistics;
  }

 private:
  std::map<std::string, std::vector<double>> sums_;  // by the first of those that share
  std::map<std::string, std::vector<std::string>> sharing_;
  uint64_t tokens_ = 0;
  Sha256 digest_;
};

// The first tokens of sampled sequence `index`: BOS where there is one, then one drawn from the
// vocabulary, so that sequences differ from their start.
std::vector<int32_t> SequenceStart(const LoadedModel& model, uint64_t seed, uint32_t index) {
  std::vector<int32_t> start;
  if (model.config().bos_token_id) start.push_back(*model.config().bos_token_id);
  // The samplers draw from the streams of seed, seed + 1, ...; this one is apart from them.
  auto token = static_cast<int32_t>(UniformDraw(~seed, index) *
                                    static_cast<double>(model.config().vocab_size));
  for (uint64_t tries = 0; model.tokenizer().IsSpecial(token); ++tries) {
    if (tries == model.config().vocab_size) break;  // a vocabulary of special tokens alone
    token = static_cast<int32_t>((static_cast<uint64_t>(token) + 1) % model.config().vocab_size);
  }
  start.push_back(token);
  return start;
}

}  // namespace

absl::StatusOr<CalibrationStatistics> CalibrateOnTokens(const LoadedModel& model,
                                                        absl::Span<const int32_t> tokens,
                                                        size_t window_tokens,
                                                        const CalibrationProgress& progress) {
  window_tokens = std::min<size_t>(window_tokens, model.config().max_position);
  QL_ASSIGN_OR_RETURN(
      std::unique_ptr<WindowRunner> runner,
      WindowRunner::Create(model.model(), std::min(window_tokens, tokens.size()), KvElement::kF32));
  ImportanceAccumulator accumulator;
  for (size_t begin = 0; begin < tokens.size(); begin += window_tokens) {
    QL_RETURN_IF_ERROR(progress(static_cast<double>(begin) / static_cast<double>(tokens.size())));
    const absl::Span<const int32_t> window = tokens.subspan(begin, window_tokens);
    accumulator.AddTokens(window);
    QL_RETURN_IF_ERROR(runner->Forward(
        window, [&](absl::Span<const std::string> linears, absl::Span<const float> inputs,
                    size_t rows, size_t cols) { accumulator.Add(linears, inputs, rows, cols); }));
  }
  QL_RETURN_IF_ERROR(progress(1.0));
  return accumulator.Finish();
}

absl::StatusOr<CalibrationStatistics> CalibrateOnSamples(const LoadedModel& model, uint32_t tokens,
                                                         uint64_t seed,
                                                         const CalibrationProgress& progress) {
  struct Sequence {
    std::vector<int32_t> next;  // tokens of the next step
    BlockTable blocks;
    std::unique_ptr<Sampler> sampler;
  };
  const uint32_t sequences = std::min(kSampledSequences, std::max(tokens / 8, 1u));
  const auto length = static_cast<uint32_t>(std::clamp<uint64_t>(
      tokens / sequences, 2, model.config().max_position));  // positions per sequence
  QL_ASSIGN_OR_RETURN(
      std::unique_ptr<KvCache> kv,
      KvCache::Create(model.model().backend(), model.config(),
                      uint64_t{sequences} * ((length + 15) / 16 * 16), 16, KvElement::kF32));
  auto workspace = model.model().CreateWorkspace(uint64_t{2} * sequences, sequences);

  std::vector<Sequence> running(sequences);
  for (uint32_t i = 0; i < sequences; ++i) {
    running[i].next = SequenceStart(model, seed, i);
    SamplingParams params;
    params.temperature = 1.0f;
    params.seed = seed + i;
    running[i].sampler = std::make_unique<Sampler>(params, running[i].next);
  }

  ImportanceAccumulator accumulator;
  RaggedBatch batch;
  std::vector<uint32_t> last_rows(sequences);
  for (uint32_t position = 0; position < length;) {
    QL_RETURN_IF_ERROR(progress(static_cast<double>(position) / length));
    batch.Clear();
    const auto step = static_cast<uint32_t>(running[0].next.size());  // the same for all
    for (uint32_t i = 0; i < sequences; ++i) {
      if (!kv->blocks().Cover(position + step, running[i].blocks)) {
        return absl::InternalError("calibration: KV cache too small for the sampled sequences");
      }
      batch.Add(running[i].next, position, running[i].blocks);
      accumulator.AddTokens(running[i].next);
      last_rows[i] = static_cast<uint32_t>(batch.size()) - 1;
    }
    model.model().Forward(
        batch, kv->storage(), *workspace,
        [&](absl::Span<const std::string> linears, absl::Span<const float> inputs, size_t rows,
            size_t cols) { accumulator.Add(linears, inputs, rows, cols); });
    position += step;
    const absl::Span<const float> logits = model.model().Logits(last_rows, *workspace);
    const size_t vocabulary = model.config().vocab_size;
    for (uint32_t i = 0; i < sequences; ++i) {
      running[i].next = {running[i].sampler->Sample(logits.subspan(i * vocabulary, vocabulary))};
    }
  }
  QL_RETURN_IF_ERROR(progress(1.0));
  return accumulator.Finish();
}

}  // namespace quantloom
