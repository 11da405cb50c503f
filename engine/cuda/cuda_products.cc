#include "engine/cuda/cuda_products.h"

#include <algorithm>
#include <utility>

#include "absl/container/inlined_vector.h"

namespace quantloom {

void CudaProducts::Transform(const CudaTransform& transform, const float* x, uint32_t x_stride,
                             size_t n, float* out, uint32_t out_stride) {
  if (!context_.ok()) return;
  context_.Note(context_.kernels().transform_rows(
      transform.view, x, x_stride, static_cast<uint32_t>(n), out, out_stride, context_.stream()));
}

const float* CudaProducts::TransformInput(const CudaMatrix& matrix, size_t n, CudaBuffer& x,
                                          size_t index) {
  if (matrix.input() == nullptr) return context_.ok() ? x.data() : nullptr;
  CudaMemory& transformed = x.form(index).transformed;
  if (transformed.empty()) {
    transformed = context_.OrNote(context_.Allocate(CudaBuffer::Bytes(x.max_rows(), x.cols())));
  }
  Transform(*matrix.input(), x.data(), x.stride(), n, transformed.as<float>(), x.stride());
  return context_.ok() ? transformed.as<float>() : nullptr;
}

void* CudaProducts::Prepared(CudaBuffer& x, size_t index) {
  CudaMemory& prepared = x.form(index).prepared;
  const auto max_rows = static_cast<uint32_t>(x.max_rows());
  if (prepared.empty()) {
    prepared = context_.OrNote(context_.Allocate(std::max(
        context_.kernels().activation_bytes(cuda::ActivationForm::kHalf, max_rows, x.stride()),
        context_.kernels().activation_bytes(cuda::ActivationForm::kInt8, max_rows, x.stride()))));
  }
  return prepared.as<void>();
}

cuda::Activations CudaProducts::Prepare(const CudaMatrix& matrix, size_t n, CudaBuffer& x,
                                        size_t index) {
  void* const prepared = Prepared(x, index);
  if (!context_.ok()) return {};
  const cuda::Activations activations = context_.kernels().activations_at(
      cuda::ActivationFormOf(matrix.view()), static_cast<uint32_t>(n), x.stride(), prepared);
  if (CudaRowChains::Takes(x.cols())) {
    chains_.Prepare(x, n, matrix.input(), activations);
    return activations;
  }
  chains_.Settle();
  if (const float* const from = TransformInput(matrix, n, x, index)) {
    context_.Note(context_.kernels().prepare_activations(from, x.stride(), x.stride(), activations,
                                                         context_.stream()));
  }
  return activations;
}

void CudaProducts::Multiply(absl::Span<const DeviceMatrix* const> weights, size_t n,
                            DeviceBuffer& x, float* y, uint32_t stride) {
  if (dense_.takes(n)) return MultiplyDense(weights, n, x, y, stride);
  // What the matrices before have read.
  struct Input {
    const CudaMatrix* reader;
    cuda::Activations activations;
  };
  absl::InlinedVector<Input, 4> inputs;
  for (const DeviceMatrix* weight : weights) {
    const CudaMatrix& matrix = Cuda(*weight);
    auto input = std::find_if(inputs.begin(), inputs.end(), [&](const Input& candidate) {
      return candidate.reader->input() == matrix.input() &&
             candidate.activations.form == cuda::ActivationFormOf(matrix.view());
    });
    if (input == inputs.end()) {
      input = inputs.insert(input, {&matrix, Prepare(matrix, n, Cuda(x), inputs.size())});
    }
    if (!context_.ok()) return;
    context_.Note(context_.kernels().multiply(matrix.view(), input->activations, y, stride,
                                              context_.stream()));
    y += matrix.rows();
  }
}

void CudaProducts::MultiplyDense(absl::Span<const DeviceMatrix* const> weights, size_t n,
                                 DeviceBuffer& x, float* y, uint32_t stride) {
  chains_.Settle();
  absl::InlinedVector<const CudaMatrix*, 4> readers;  // whose inputs have been made
  const auto rows = static_cast<uint32_t>(n);
  const uint32_t cols = Cuda(x).stride();
  for (const DeviceMatrix* weight : weights) {
    const CudaMatrix& matrix = Cuda(*weight);
    const auto reader = std::find_if(readers.begin(), readers.end(), [&](const CudaMatrix* other) {
      return other->input() == matrix.input();
    });
    const auto index = static_cast<size_t>(reader - readers.begin());
    void* const prepared = Prepared(Cuda(x), index);
    if (reader == readers.end()) {
      readers.push_back(&matrix);
      const float* const from = TransformInput(matrix, n, Cuda(x), index);
      if (from == nullptr) return;
      dense_.Prepare(from, rows, cols, prepared);
    }
    dense_.Multiply(matrix.view(), static_cast<uint32_t>(matrix.rows()), rows, cols, prepared, y,
                    stride);
    y += matrix.rows();
  }
}

void CudaProducts::FinishOutputs(absl::Span<const DeviceMatrix* const> weights,
                                 absl::Span<const DeviceVector* const> biases, size_t n, float* y,
                                 uint32_t stride) {
  const auto rows = static_cast<uint32_t>(n);
  cuda::OutputParts parts;
  const auto finish = [&] {
    if (context_.ok() && parts.count > 0) {
      context_.Note(context_.kernels().finish_outputs(parts, y, stride, rows, context_.stream()));
    }
    parts = {};
  };
  uint32_t first = 0;
  for (size_t m = 0; m < weights.size() && context_.ok(); ++m) {
    const CudaTransform* const output = Cuda(*weights[m]).output();
    const float* const bias = biases.empty() || biases[m] == nullptr ? nullptr : Data(*biases[m]);
    const auto cols = static_cast<uint32_t>(weights[m]->rows());
    const uint32_t column = std::exchange(first, first + cols);
    if (output == nullptr && bias == nullptr) continue;
    if (CudaRowChains::Takes(cols)) {
      parts.parts[parts.count++] = {
          .first = column,
          .cols = cols,
          .transform = output == nullptr ? cuda::HadamardView{} : output->view,
          .bias = bias};
      if (parts.count == cuda::kMostOutputParts) finish();
      continue;
    }
    float* const part = y + column;
    if (output != nullptr) Transform(*output, part, stride, n, part, stride);
    if (context_.ok() && bias != nullptr) {
      context_.Note(context_.kernels().add(part, stride, bias, 0, rows, cols, context_.stream()));
    }
  }
  finish();
}

}  // namespace quantloom
