#include "bench/device_products.h"

#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

// Activation rows as a form's products read them, and room for the products.
struct Operands {
  CudaMemory x, prepared, y;
  cuda::Activations activations;
};

absl::StatusOr<Operands> MakeOperands(CudaContext& context, cuda::ActivationForm form,
                                      uint32_t tokens, uint32_t rows, uint32_t cols) {
  const cuda::KernelTable& kernels = context.kernels();
  Operands operands;
  const std::vector<float> values(size_t{tokens} * cols, 0.5f);
  QL_ASSIGN_OR_RETURN(operands.x, context.Upload({reinterpret_cast<const uint8_t*>(values.data()),
                                                  values.size() * sizeof(float)}));
  QL_ASSIGN_OR_RETURN(operands.prepared,
                      context.Allocate(kernels.activation_bytes(form, tokens, cols)));
  QL_ASSIGN_OR_RETURN(operands.y, context.Allocate(size_t{tokens} * rows * sizeof(float)));
  operands.activations = kernels.activations_at(form, tokens, cols, operands.prepared.as<void>());
  const char* const error = kernels.prepare_activations(operands.x.as<float>(), cols, cols,
                                                        operands.activations, context.stream());
  if (error != nullptr) return absl::InternalError(error);
  return operands;
}

}  // namespace

absl::StatusOr<std::vector<DeviceTiming>> MeasureSweeps(CudaContext& context,
                                                        const std::vector<uint64_t>& bytes,
                                                        const MeasureOptions& options) {
  std::vector<DeviceTiming> timings;
  for (const uint64_t size : bytes) {
    const uint64_t copies = RotatedCopies(options, size);
    QL_ASSIGN_OR_RETURN(const CudaMemory memory, context.Allocate(copies * size));
    std::vector<const void*> parts;
    for (uint64_t i = 0; i < copies; ++i) parts.push_back(memory.as<uint8_t>() + i * size);
    GraphTimer timer(context, options);
    QL_RETURN_IF_ERROR(timer.AddNothing());
    QL_RETURN_IF_ERROR(timer.AddSweep(parts, size));
    QL_ASSIGN_OR_RETURN(const std::vector<double> seconds, timer.Run());
    timings.push_back({.kind = "sweep",
                       .name = "read",
                       .shape = absl::StrCat(size >> 20, "MiB"),
                       .bytes = size,
                       .seconds = seconds[1],
                       .node_seconds = seconds[0]});
  }
  return timings;
}

absl::StatusOr<std::vector<DeviceTiming>> MeasureProducts(
    CudaContext& context, const RandomMatrices& matrices, const DeviceForm& form, uint32_t rows,
    uint32_t cols, const std::vector<uint32_t>& tokens, const MeasureOptions& options) {
  const uint64_t bytes = RandomMatrices::Bytes(form, rows, cols) / 16 * 16;
  const uint64_t copies = RotatedCopies(options, bytes);
  std::vector<CudaMatrix::Resident> matrix;
  std::vector<const void*> memory;
  for (uint64_t i = 0; i < copies; ++i) {
    QL_ASSIGN_OR_RETURN(CudaMatrix::Resident copy, matrices.Make(form, rows, cols));
    memory.push_back(copy.memory.as<void>());
    matrix.push_back(std::move(copy));
  }
  std::deque<Operands> operands;
  GraphTimer timer(context, options);
  QL_RETURN_IF_ERROR(timer.AddNothing());
  QL_RETURN_IF_ERROR(timer.AddSweep(memory, bytes));
  for (const uint32_t count : tokens) {
    QL_ASSIGN_OR_RETURN(Operands of_count, MakeOperands(context, cuda::ActivationFormOf(form.view),
                                                        count, rows, cols));
    operands.push_back(std::move(of_count));
    const Operands& x = operands.back();
    QL_RETURN_IF_ERROR(timer.Add([&](uint32_t node) {
      return context.kernels().multiply(matrix[node % copies].view, x.activations, x.y.as<float>(),
                                        rows, context.stream());
    }));
  }
  QL_ASSIGN_OR_RETURN(const std::vector<double> seconds, timer.Run());
  std::vector<DeviceTiming> timings;
  for (size_t i = 0; i < tokens.size(); ++i) {
    timings.push_back({.kind = "product",
                       .name = form.name,
                       .shape = absl::StrCat(rows, "x", cols),
                       .tokens = tokens[i],
                       .bytes = bytes,
                       .operations = 2.0 * rows * cols * tokens[i],
                       .seconds = seconds[i + 2],
                       .sweep_seconds = seconds[1],
                       .node_seconds = seconds[0]});
  }
  return timings;
}

}  // namespace quantloom
