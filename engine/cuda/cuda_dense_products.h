// Products of many rows by a library for dense matrices: a packed matrix is expanded to fp16, some
// rows at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "engine/cuda/cuda_context.h"
#include "kernels/cuda/dense_library.h"
#include "kernels/cuda/views.h"

namespace quantloom {

// Errors are the context's. Activation rows have one scale each, a power of two, and 11 significant
// bits beside their row's largest.
class CudaDenseProducts {
 public:
  // `library` may be null: then none are taken.
  CudaDenseProducts(CudaContext& context, std::unique_ptr<cuda::DenseLibrary> library)
      : context_(context), library_(std::move(library)) {}

  // Whether products of so many rows are to come here.
  bool takes(size_t rows) const;

  // Has the memory to expand rows of matrices of up to so many columns in, or says why not: before
  // products with them. Asks for none without a library.
  absl::Status Reserve(uint64_t cols);

  // x [tokens, cols] fp32 as products read it, into memory of as many bytes as activations of form
  // kHalf take.
  void Prepare(const float* x, uint32_t tokens, uint32_t cols, void* prepared) const;
  // y[token, row] = sum over columns of W[row, column] x[token, column], of what was prepared; rows
  // of y of `stride` elements.
  void Multiply(const cuda::MatrixView& w, uint32_t rows, uint32_t tokens, uint32_t cols,
                void* prepared, float* y, uint32_t stride);

 private:
  // Elements, [tokens, padded columns], and after them their scales.
  struct Operands {
    uint16_t* elements;
    float* scales;
  };
  static Operands In(void* prepared, uint32_t tokens, uint32_t cols);

  CudaContext& context_;
  std::unique_ptr<cuda::DenseLibrary> library_;
  CudaMemory expanded_;  // rows of a matrix
  uint64_t expanded_bytes_ = 0;
};

}  // namespace quantloom
