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

namespace quantloom {
namespace {

// Sequences sampled side by side: enough rows for one pass over the weights to be worth its
// bandwidth, few enough that each sequence gets some context.
constexpr uint32_t kSampledSequences = 32;

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

uint64_t CalibrationText::tokens() const {
  uint64_t count = 0;
  for (const std::vector<int32_t>& window : windows) count += window.size();
  return count;
}

std::string CalibrationText::Digest() const {
  Sha256 digest;
  for (const std::vector<int32_t>& window : windows) {
    digest.Update({reinterpret_cast<const uint8_t*>(window.data()), window.size() * 4});
  }
  return digest.Finish();
}

CalibrationText CutIntoWindows(absl::Span<const int32_t> tokens, size_t window_tokens) {
  CalibrationText text;
  for (size_t begin = 0; begin < tokens.size(); begin += window_tokens) {
    const absl::Span<const int32_t> window = tokens.subspan(begin, window_tokens);
    text.windows.emplace_back(window.begin(), window.end());
  }
  return text;
}

absl::StatusOr<CalibrationText> SampleCalibrationText(
    const LoadedModel& model, uint32_t tokens, uint64_t seed,
    const std::function<absl::Status(double fraction)>& progress) {
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

  CalibrationText text;
  text.windows.resize(sequences);
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
      text.windows[i].insert(text.windows[i].end(), running[i].next.begin(), running[i].next.end());
      last_rows[i] = static_cast<uint32_t>(batch.size()) - 1;
    }
    QL_ASSIGN_OR_RETURN(const absl::Span<const float> logits,
                        model.model().Step(batch, last_rows, kv->storage(), *workspace));
    position += step;
    const size_t vocabulary = model.config().vocab_size;
    for (uint32_t i = 0; i < sequences; ++i) {
      running[i].next = {running[i].sampler->Sample(logits.subspan(i * vocabulary, vocabulary))};
    }
  }
  QL_RETURN_IF_ERROR(progress(1.0));
  return text;
}

}  // namespace quantloom
