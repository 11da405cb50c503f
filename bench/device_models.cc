#include "bench/device_models.h"

#include <memory>
#include <numeric>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "bench/median.h"
#include "core/base/status.h"
#include "core/transform/incoherence.h"
#include "engine/cuda/cuda_transform.h"
#include "engine/kv_cache.h"
#include "engine/model.h"

namespace quantloom {
namespace {

constexpr uint32_t kBlockTokens = 16;
// A step's first run, and the one in which it is recorded.
constexpr uint32_t kUnrecordedSteps = 2;

constexpr char kHead[] = "lm_head.weight";

class RandomWeights final : public WeightSource {
 public:
  RandomWeights(const DeviceUnderTest& device, DeviceForm form)
      : device_(device),
        form_(std::move(form)),
        table_form_(form_.name == "fp16" ? form_
                                         : DeviceForm{"int8", cuda::ByteMatrixView(), false}),
        transforms_(device.context()) {}

  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Matrix(const std::string& name, uint64_t rows,
                                                       uint64_t cols) override {
    if (name == kHead) return Table(name, rows, cols);
    if (!form_.incoherent) return Make(form_, rows, cols, nullptr);
    const Incoherence incoherence(rows, cols, {.input_seed = 1, .output_seed = 2});
    return Make(form_, rows, cols, &incoherence);
  }
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Table(const std::string&, uint64_t rows,
                                                      uint64_t cols) override {
    return Make(table_form_, rows, cols, nullptr);
  }
  absl::StatusOr<std::unique_ptr<DeviceVector>> Vector(const std::string&, uint64_t size) override {
    return device_.backend().Vector(std::vector<float>(size, 1.0f));
  }

 private:
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Make(const DeviceForm& form, uint64_t rows,
                                                     uint64_t cols,
                                                     const Incoherence* incoherence) {
    QL_ASSIGN_OR_RETURN(
        CudaMatrix::Resident image,
        device_.matrices().Make(form, static_cast<uint32_t>(rows), static_cast<uint32_t>(cols)));
    return CudaMatrix::Create(std::move(image), incoherence, transforms_);
  }

  const DeviceUnderTest& device_;
  DeviceForm form_;
  DeviceForm table_form_;
  CudaTransforms transforms_;
};

// Multiplications and additions of a token's products.
double TokenOperations(const ModelConfig& config) {
  double weights = static_cast<double>(config.vocab_size) * config.hidden_size;  // the head
  for (const TensorSpec& tensor : ModelTensors(config)) {
    if (tensor.role != TensorSpec::Role::kLinear) continue;
    weights += static_cast<double>(tensor.shape[0]) * tensor.shape[1];
  }
  return 2 * weights;
}

struct StepTimes {
  std::vector<double> device, wall;
};

// One model and its cache, to take steps with.
class Steps {
 public:
  static absl::StatusOr<Steps> Create(const Model& model, uint32_t sequences, uint32_t tokens,
                                      uint32_t positions) {
    Steps steps(model, sequences);
    QL_ASSIGN_OR_RETURN(steps.kv_, KvCache::Create(model.backend(), model.config(),
                                                   uint64_t{sequences} * (positions + kBlockTokens),
                                                   kBlockTokens, KvElement::kF16));
    for (BlockTable& table : steps.tables_) steps.kv_->blocks().Cover(positions, table);
    steps.workspace_ = model.CreateWorkspace(size_t{sequences} * tokens, sequences);
    QL_RETURN_IF_ERROR(model.backend().status());
    return steps;
  }

  // A step in which every sequence adds `tokens` tokens at `position`, and a token is chosen after
  // the last.
  absl::Status Take(uint32_t tokens, uint32_t position, StepTimes* times) {
    const std::vector<int32_t> run(tokens, 1);
    RaggedBatch batch;
    std::vector<uint32_t> last;
    for (const BlockTable& table : tables_) {
      batch.Add(run, position, table);
      last.push_back(static_cast<uint32_t>(batch.size()) - 1);
    }
    const std::vector<TokenChoice> greedy(last.size());
    const absl::Time begun = absl::Now();
    model_->StartStep(batch, last, greedy, kv_->storage(), *workspace_);
    QL_RETURN_IF_ERROR(model_->FinishStep(/*logits=*/0, *workspace_).status());
    const absl::Duration wall = absl::Now() - begun;
    const absl::Duration device = model_->StepTime(*workspace_);
    if (times == nullptr) return absl::OkStatus();
    times->wall.push_back(absl::ToDoubleSeconds(wall));
    times->device.push_back(absl::ToDoubleSeconds(device));
    return absl::OkStatus();
  }

 private:
  Steps(const Model& model, uint32_t sequences) : model_(&model), tables_(sequences) {}

  const Model* model_;
  std::unique_ptr<KvCache> kv_;
  std::vector<BlockTable> tables_;
  Model::WorkspacePtr workspace_;
};

absl::StatusOr<StepTimes> Decode(const Model& model, uint32_t batch, const ModelCases& cases) {
  const uint32_t positions = cases.context + kUnrecordedSteps + cases.rounds;
  QL_ASSIGN_OR_RETURN(Steps steps, Steps::Create(model, batch, 1, positions));
  StepTimes times;
  for (uint32_t i = 0; i < kUnrecordedSteps + cases.rounds; ++i) {
    QL_RETURN_IF_ERROR(steps.Take(1, cases.context + i, i < kUnrecordedSteps ? nullptr : &times));
  }
  return times;
}

absl::StatusOr<StepTimes> Prefill(const Model& model, const ModelCases& cases) {
  QL_ASSIGN_OR_RETURN(Steps steps, Steps::Create(model, 1, cases.prompt, cases.prompt));
  StepTimes times;
  for (uint32_t i = 0; i < 1 + cases.rounds / 4 + 1; ++i) {
    QL_RETURN_IF_ERROR(steps.Take(cases.prompt, 0, i == 0 ? nullptr : &times));
  }
  return times;
}

}  // namespace

std::vector<NamedConfig> LlamaShapes() {
  ModelConfig llama;
  llama.architecture = "LlamaForCausalLM";
  llama.model_type = "llama";
  llama.vocab_size = 128256;
  llama.hidden_size = 4096;
  llama.intermediate_size = 14336;
  llama.num_layers = 32;
  llama.num_heads = 32;
  llama.num_kv_heads = 8;
  llama.head_dim = 128;
  llama.max_position = 8192;
  llama.rope_theta = 500000;

  ModelConfig small = llama;
  small.hidden_size = 2048;
  small.intermediate_size = 8192;
  small.num_layers = 16;
  small.head_dim = 64;
  small.tie_word_embeddings = true;

  ModelConfig second = llama;
  second.vocab_size = 32000;
  second.intermediate_size = 11008;
  second.num_kv_heads = 32;
  second.max_position = 4096;
  second.rope_theta = 10000;

  ModelConfig large = llama;
  large.hidden_size = 8192;
  large.intermediate_size = 28672;
  large.num_layers = 80;
  large.num_heads = 64;
  return {{"llama-3.2-1b", small},
          {"llama-3-8b", llama},
          {"llama-2-7b", second},
          {"llama-3-70b", large}};
}

absl::StatusOr<std::vector<DeviceTiming>> MeasureModel(const DeviceUnderTest& device,
                                                       const NamedConfig& model_shape,
                                                       const DeviceForm& form,
                                                       double bytes_per_second,
                                                       const ModelCases& cases) {
  RandomWeights weights(device, form);
  QL_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                      Model::Create(model_shape.config, weights, device.backend()));
  QL_RETURN_IF_ERROR(device.backend().status());
  const uint64_t bytes = model->layer_weight_bytes() + model->head_weight_bytes();
  const auto timing = [&](const char* kind, uint32_t tokens, const StepTimes& times) {
    return DeviceTiming{.kind = kind,
                        .name = form.name,
                        .shape = model_shape.name,
                        .tokens = tokens,
                        .bytes = bytes,
                        .operations = TokenOperations(model_shape.config) * tokens,
                        .seconds = Median(times.device),
                        .sweep_seconds = static_cast<double>(bytes) / bytes_per_second,
                        .wall_seconds = Median(times.wall)};
  };
  std::vector<DeviceTiming> timings;
  for (const uint32_t batch : cases.batches) {
    QL_ASSIGN_OR_RETURN(const StepTimes times, Decode(*model, batch, cases));
    timings.push_back(timing("decode", batch, times));
  }
  if (cases.prompt == 0) return timings;
  QL_ASSIGN_OR_RETURN(const StepTimes times, Prefill(*model, cases));
  timings.push_back(timing("prefill", cases.prompt, times));
  return timings;
}

}  // namespace quantloom
