#include "engine/cuda/cuda_dense_products.h"

#include <algorithm>
#include <utility>

#include "core/base/status.h"
#include "engine/cuda/cuda_backend.h"
#include "kernels/cuda/dense_operands.h"

namespace quantloom {
namespace {

// Of a matrix's rows at a time: enough for the library to have work for every multiprocessor.
constexpr uint64_t kExpandedBytes = uint64_t{64} << 20;

uint64_t RowBytes(uint32_t cols) { return uint64_t{cuda::PaddedColumns(cols)} * sizeof(uint16_t); }

}  // namespace

bool CudaDenseProducts::takes(size_t rows) const {
  return library_ != nullptr && rows >= kDenseLibraryRows;
}

absl::Status CudaDenseProducts::Reserve(uint64_t cols) {
  if (library_ == nullptr) return absl::OkStatus();
  const uint64_t bytes =
      std::max(kExpandedBytes, cuda::kExpandRows * RowBytes(static_cast<uint32_t>(cols)));
  if (bytes <= expanded_bytes_) return absl::OkStatus();
  expanded_ = CudaMemory();
  expanded_bytes_ = 0;
  auto memory = context_.Allocate(bytes);
  if (!memory.ok()) return Annotate(memory.status(), "rows in fp16 for the dense library");
  expanded_ = *std::move(memory);
  expanded_bytes_ = bytes;
  return absl::OkStatus();
}

CudaDenseProducts::Operands CudaDenseProducts::In(void* prepared, uint32_t tokens, uint32_t cols) {
  auto* const elements = static_cast<uint16_t*>(prepared);
  return {elements,
          reinterpret_cast<float*>(elements + uint64_t{tokens} * cuda::PaddedColumns(cols))};
}

void CudaDenseProducts::Prepare(const float* x, uint32_t tokens, uint32_t cols,
                                void* prepared) const {
  const Operands to = In(prepared, tokens, cols);
  context_.Note(context_.kernels().halve_rows(x, tokens, cols, cols, to.elements, to.scales,
                                              context_.stream()));
}

void CudaDenseProducts::Multiply(const cuda::MatrixView& w, uint32_t rows, uint32_t tokens,
                                 uint32_t cols, void* prepared, float* y, uint32_t stride) {
  if (!context_.ok()) return;
  const uint32_t padded = cuda::PaddedColumns(cols);
  const uint64_t row_bytes = RowBytes(cols);
  const Operands x = In(prepared, tokens, cols);
  const auto step =
      static_cast<uint32_t>(expanded_bytes_ / row_bytes / cuda::kExpandRows * cuda::kExpandRows);
  for (uint32_t first = 0; first < rows; first += step) {
    const uint32_t count = std::min(step, rows - first);
    context_.Note(context_.kernels().expand_rows(w, first, count, expanded_.as<uint16_t>(),
                                                 context_.stream()));
    if (!context_.ok()) return;
    context_.Note(library_->Multiply({.w = expanded_.as<uint16_t>(),
                                      .x = x.elements,
                                      .y = y + first,
                                      .rows = count,
                                      .cols = padded,
                                      .tokens = tokens,
                                      .stride = stride},
                                     context_.stream()));
    if (!context_.ok()) return;
  }
  context_.Note(
      context_.kernels().scale_rows(y, tokens, rows, stride, x.scales, context_.stream()));
}

}  // namespace quantloom
