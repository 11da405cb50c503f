#include "bench/device_operators.h"

#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "engine/cuda/cuda_transform.h"
#include "engine/ragged_batch.h"

namespace quantloom {
namespace {

constexpr uint32_t kBlockTokens = 16;

AttentionParameters AttentionOf(const ModelConfig& config) {
  return {.heads = static_cast<uint32_t>(config.num_heads),
          .kv_heads = static_cast<uint32_t>(config.num_kv_heads),
          .head_dim = static_cast<uint32_t>(config.head_dim)};
}

// `sequences` runs of `tokens` tokens that end at position `context` - 1, and their cache blocks.
struct Batch {
  Batch(uint32_t sequences, uint32_t tokens, uint32_t context) {
    const uint32_t blocks = (context + kBlockTokens - 1) / kBlockTokens;
    table.resize(size_t{sequences} * blocks);
    std::iota(table.begin(), table.end(), 0);
    const std::vector<int32_t> run(tokens, 0);
    for (uint32_t i = 0; i < sequences; ++i) {
      ragged.Add(run, context - tokens, absl::MakeConstSpan(table).subspan(i * blocks, blocks));
    }
  }
  uint32_t rows() const { return static_cast<uint32_t>(ragged.size()); }

  std::vector<int32_t> table;
  RaggedBatch ragged;
};

absl::StatusOr<DeviceTiming> MeasureAttend(const DeviceUnderTest& device, const ModelConfig& config,
                                           const Batch& batch, uint32_t context,
                                           const MeasureOptions& options) {
  Backend& backend = device.backend();
  const AttentionParameters attention = AttentionOf(config);
  KvShape shape = {.blocks = static_cast<uint32_t>(batch.table.size()),
                   .block_tokens = kBlockTokens,
                   .kv_heads = attention.kv_heads,
                   .head_dim = attention.head_dim};
  shape.layers = 1;
  const uint64_t bytes = shape.blocks * shape.block_bytes();
  shape.layers = static_cast<uint32_t>(RotatedCopies(options, bytes));
  QL_ASSIGN_OR_RETURN(const auto kv, backend.AllocateKv(shape));
  QL_ASSIGN_OR_RETURN(const CudaMemory swept, device.context().Allocate(shape.layers * bytes));
  std::vector<const void*> parts;
  for (uint32_t i = 0; i < shape.layers; ++i) parts.push_back(swept.as<uint8_t>() + i * bytes);

  const size_t rows = batch.rows();
  const auto on_device = backend.Batch(rows, 0);
  const auto qkv =
      backend.Buffer(rows, size_t{attention.heads + 2 * attention.kv_heads} * attention.head_dim);
  const auto out = backend.Buffer(rows, size_t{attention.heads} * attention.head_dim);
  backend.SetBatch(batch.ragged, *on_device);
  const auto attend = [&](uint32_t layer) {
    backend.Attend(*on_device, attention, layer, *qkv, *kv, *out);
  };
  attend(0);  // makes what it keeps
  GraphTimer timer(device.context(), options);
  QL_RETURN_IF_ERROR(timer.AddNothing());
  QL_RETURN_IF_ERROR(timer.AddSweep(parts, bytes));
  QL_RETURN_IF_ERROR(timer.Add([&](uint32_t node) -> const char* {
    attend(node % shape.layers);
    return nullptr;
  }));
  QL_RETURN_IF_ERROR(backend.status());
  QL_ASSIGN_OR_RETURN(const std::vector<double> seconds, timer.Run());
  double attended = 0;  // positions, over all rows
  for (const uint32_t position : batch.ragged.positions()) attended += position + 1;
  return DeviceTiming{.kind = "operator",
                      .name = "attention",
                      .shape = absl::StrCat(attention.heads, "/", attention.kv_heads, "x",
                                            attention.head_dim, "@", context),
                      .tokens = batch.rows(),
                      .bytes = bytes,
                      .operations = 4.0 * attention.heads * attention.head_dim * attended,
                      .seconds = seconds[2],
                      .sweep_seconds = seconds[1],
                      .node_seconds = seconds[0]};
}

// An operator on `rows` rows, as the device's kernels or the backend have it.
struct RowOperator {
  std::string name;
  uint64_t cols;
  std::function<const char*()> run;
};

}  // namespace

absl::StatusOr<std::vector<DeviceTiming>> MeasureAttention(const DeviceUnderTest& device,
                                                           const ModelConfig& config,
                                                           const AttentionCases& cases,
                                                           const MeasureOptions& options) {
  std::vector<DeviceTiming> timings;
  for (const uint32_t context : cases.contexts) {
    for (const uint32_t sequences : cases.batches) {
      QL_ASSIGN_OR_RETURN(
          DeviceTiming timing,
          MeasureAttend(device, config, Batch(sequences, 1, context), context, options));
      timings.push_back(std::move(timing));
    }
  }
  if (cases.prompt == 0) return timings;
  QL_ASSIGN_OR_RETURN(
      DeviceTiming timing,
      MeasureAttend(device, config, Batch(1, cases.prompt, cases.prompt), cases.prompt, options));
  timings.push_back(std::move(timing));
  return timings;
}

absl::StatusOr<std::vector<DeviceTiming>> MeasureRowOperators(const DeviceUnderTest& device,
                                                              const ModelConfig& config,
                                                              const std::vector<uint32_t>& rows,
                                                              const MeasureOptions& options) {
  CudaContext& context = device.context();
  Backend& backend = device.backend();
  const cuda::KernelTable& kernels = context.kernels();
  const cuda::Stream stream = context.stream();
  const auto hidden = static_cast<uint32_t>(config.hidden_size);
  const auto inner = static_cast<uint32_t>(config.intermediate_size);
  const AttentionParameters attention = AttentionOf(config);
  const uint32_t qkv_cols = (attention.heads + 2 * attention.kv_heads) * attention.head_dim;

  CudaTransforms transforms(context);
  QL_ASSIGN_OR_RETURN(const auto of_hidden, transforms.Get(hidden, HadamardBlocks::kFull,
                                                           /*seed=*/1, Direction::kForward));
  QL_ASSIGN_OR_RETURN(const auto of_inner, transforms.Get(inner, HadamardBlocks::kFull, /*seed=*/1,
                                                          Direction::kForward));
  const DeviceForm table_form = {"int8", cuda::ByteMatrixView(), false};
  const auto vocab = static_cast<uint32_t>(config.vocab_size);
  QL_ASSIGN_OR_RETURN(CudaMatrix::Resident resident,
                      device.matrices().Make(table_form, vocab, hidden));
  QL_ASSIGN_OR_RETURN(const auto table,
                      CudaMatrix::Create(std::move(resident), nullptr, transforms));
  const auto weight = backend.Vector(std::vector<float>(hidden, 1.0f));

  std::vector<DeviceTiming> timings;
  for (const uint32_t n : rows) {
    const Batch batch(1, n, n);
    const auto on_device = backend.Batch(n, 0);
    backend.SetBatch(batch.ragged, *on_device);
    QL_ASSIGN_OR_RETURN(const auto kv,
                        backend.AllocateKv({.layers = 1,
                                            .blocks = static_cast<uint32_t>(batch.table.size()),
                                            .block_tokens = kBlockTokens,
                                            .kv_heads = attention.kv_heads,
                                            .head_dim = attention.head_dim}));
    const auto x = backend.Buffer(n, hidden);
    const auto out = backend.Buffer(n, hidden);
    const auto angles = backend.Buffer(n, attention.head_dim);
    const auto qkv = backend.Buffer(n, qkv_cols);
    const std::vector<float> zeros(size_t{n} * 2 * inner, 0.0f);
    const auto bytes = [](const std::vector<float>& values) {
      return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()),
                                 values.size() * sizeof(float));
    };
    QL_ASSIGN_OR_RETURN(const CudaMemory wide, context.Upload(bytes(zeros)));
    QL_ASSIGN_OR_RETURN(const CudaMemory other, context.Upload(bytes(zeros)));
    float* const from = wide.as<float>();
    float* const to = other.as<float>();
    std::vector<RowOperator> operators = {
        {"norm", hidden,
         [&]() -> const char* {
           backend.Norm(*x, n, *weight, 1e-5f, *out);
           return nullptr;
         }},
        {"embed", hidden,
         [&]() -> const char* {
           backend.Embed(*table, *on_device, *x);
           return nullptr;
         }},
        {"rotate and store", qkv_cols,
         [&]() -> const char* {
           backend.RotateAndStore(*on_device, attention, 0, *angles, *qkv, *kv);
           return nullptr;
         }},
        {"add", hidden, [&] { return kernels.add(to, hidden, from, hidden, n, hidden, stream); }},
        {"swiglu", inner, [&] { return kernels.swiglu(from, n, inner, to, stream); }},
        {"hadamard", hidden,
         [&] {
           return kernels.transform_rows(of_hidden->view, from, hidden, n, to, hidden, stream);
         }},
        {"hadamard", inner,
         [&] { return kernels.transform_rows(of_inner->view, from, inner, n, to, inner, stream); }},
    };
    QL_ASSIGN_OR_RETURN(const CudaMemory prepared, context.Allocate(kernels.activation_bytes(
                                                       cuda::ActivationForm::kHalf, n, hidden)));
    for (const auto form : {cuda::ActivationForm::kInt8, cuda::ActivationForm::kHalf}) {
      const cuda::Activations activations =
          kernels.activations_at(form, n, hidden, prepared.as<void>());
      operators.push_back({form == cuda::ActivationForm::kInt8 ? "to int8" : "to fp16", hidden,
                           [&kernels, activations, from, hidden, stream] {
                             return kernels.prepare_activations(from, hidden, hidden, activations,
                                                                stream);
                           }});
    }
    GraphTimer timer(context, options);
    QL_RETURN_IF_ERROR(timer.AddNothing());
    for (const RowOperator& row_operator : operators) {
      QL_RETURN_IF_ERROR(timer.Add([&](uint32_t) { return row_operator.run(); }));
    }
    QL_RETURN_IF_ERROR(backend.status());
    QL_ASSIGN_OR_RETURN(const std::vector<double> seconds, timer.Run());
    for (size_t i = 0; i < operators.size(); ++i) {
      timings.push_back({.kind = "operator",
                         .name = operators[i].name,
                         .shape = absl::StrCat(operators[i].cols),
                         .tokens = n,
                         .seconds = seconds[i + 1],
                         .node_seconds = seconds[0]});
    }
  }
  return timings;
}

}  // namespace quantloom
