#include "bench/device_products.h"

#include <algorithm>
#include <deque>
#include <string>
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

namespace {

// Copies of a matrix that together leave the L2 cache no chance.
struct Rotation {
  std::vector<CudaMatrix::Resident> copies;
  std::vector<const void*> memory;
  uint64_t bytes = 0;  // of a copy that a sweep reads

  const CudaMatrix::Resident& at(uint32_t node) const { return copies[node % copies.size()]; }
};

absl::StatusOr<Rotation> Rotate(const RandomMatrices& matrices, const DeviceForm& form,
                                uint32_t rows, uint32_t cols, const MeasureOptions& options) {
  Rotation rotation;
  rotation.bytes = RandomMatrices::Bytes(form, rows, cols) / 16 * 16;
  const uint64_t copies = RotatedCopies(options, rotation.bytes);
  for (uint64_t i = 0; i < copies; ++i) {
    QL_ASSIGN_OR_RETURN(CudaMatrix::Resident copy, matrices.Make(form, rows, cols));
    rotation.memory.push_back(copy.memory.as<void>());
    rotation.copies.push_back(std::move(copy));
  }
  return rotation;
}

// Times the products that `timer` has after an empty node and a sweep.
absl::StatusOr<std::vector<DeviceTiming>> RunProducts(GraphTimer& timer, const std::string& name,
                                                      const CudaMatrix::Resident& matrix,
                                                      uint64_t bytes,
                                                      const std::vector<uint32_t>& tokens) {
  QL_ASSIGN_OR_RETURN(const std::vector<double> seconds, timer.Run());
  std::vector<DeviceTiming> timings;
  for (size_t i = 0; i < tokens.size(); ++i) {
    timings.push_back(
        {.kind = "product",
         .name = name,
         .shape = absl::StrCat(matrix.rows, "x", matrix.cols),
         .tokens = tokens[i],
         .bytes = bytes,
         .operations = 2.0 * static_cast<double>(matrix.rows * matrix.cols) * tokens[i],
         .seconds = seconds[i + 2],
         .sweep_seconds = seconds[1],
         .node_seconds = seconds[0]});
  }
  return timings;
}

}  // namespace

absl::StatusOr<std::vector<DeviceTiming>> MeasureProducts(
    CudaContext& context, const RandomMatrices& matrices, const DeviceForm& form, uint32_t rows,
    uint32_t cols, const std::vector<uint32_t>& tokens, const MeasureOptions& options) {
  QL_ASSIGN_OR_RETURN(const Rotation rotation, Rotate(matrices, form, rows, cols, options));
  std::deque<Operands> operands;
  GraphTimer timer(context, options);
  QL_RETURN_IF_ERROR(timer.AddNothing());
  QL_RETURN_IF_ERROR(timer.AddSweep(rotation.memory, rotation.bytes));
  for (const uint32_t count : tokens) {
    QL_ASSIGN_OR_RETURN(Operands of_count, MakeOperands(context, cuda::ActivationFormOf(form.view),
                                                        count, rows, cols));
    operands.push_back(std::move(of_count));
    const Operands& x = operands.back();
    QL_RETURN_IF_ERROR(timer.Add([&](uint32_t node) {
      return context.kernels().multiply(rotation.at(node).view, x.activations, x.y.as<float>(),
                                        rows, context.stream());
    }));
  }
  return RunProducts(timer, form.name, rotation.at(0), rotation.bytes, tokens);
}

absl::StatusOr<std::vector<DeviceTiming>> MeasureLibraryProducts(
    CudaContext& context, const RandomMatrices& matrices, cuda::DenseLibrary& library,
    uint32_t rows, uint32_t cols, const std::vector<uint32_t>& tokens,
    const MeasureOptions& options) {
  const DeviceForm form = {"fp16", cuda::HalfMatrixView(), false};
  QL_ASSIGN_OR_RETURN(const Rotation rotation, Rotate(matrices, form, rows, cols, options));
  // Rows of activations are of the same kind.
  const uint32_t most = *std::max_element(tokens.begin(), tokens.end());
  QL_ASSIGN_OR_RETURN(const CudaMatrix::Resident x,
                      matrices.Make(form, cuda::DivideUp(most, 256) * 256, cols));
  QL_ASSIGN_OR_RETURN(const CudaMemory y, context.Allocate(size_t{most} * rows * sizeof(float)));
  const auto elements = [](const CudaMatrix::Resident& matrix) {
    return reinterpret_cast<const uint16_t*>(std::get<cuda::HalfMatrixView>(matrix.view).fragments);
  };
  GraphTimer timer(context, options);
  QL_RETURN_IF_ERROR(timer.AddNothing());
  QL_RETURN_IF_ERROR(timer.AddSweep(rotation.memory, rotation.bytes));
  for (const uint32_t count : tokens) {
    const cuda::DenseProduct product = {.x = elements(x),
                                        .y = y.as<float>(),
                                        .rows = rows,
                                        .cols = cols,
                                        .tokens = count,
                                        .stride = rows};
    const auto multiply = [&](uint32_t node) {
      cuda::DenseProduct of_node = product;
      of_node.w = elements(rotation.at(node));
      return library.Multiply(of_node, context.stream());
    };
    // Unrecorded first: the library loads its kernels then.
    if (const char* const error = multiply(0); error != nullptr) return absl::InternalError(error);
    QL_RETURN_IF_ERROR(timer.Add(multiply));
  }
  return RunProducts(timer, "cublas", rotation.at(0), rotation.bytes, tokens);
}

}  // namespace quantloom
