// Products of weight matrices with rows of activations, and the transforms around them: which form
// of the rows a matrix reads, where that is made, and what its outputs need afterwards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/cuda/cuda_buffer.h"
#include "engine/cuda/cuda_context.h"
#include "engine/cuda/cuda_dense_products.h"
#include "engine/cuda/cuda_matrix.h"
#include "engine/cuda/cuda_row_chains.h"
#include "engine/cuda/cuda_storage.h"
#include "engine/cuda/cuda_transform.h"
#include "kernels/cuda/activations.h"

namespace quantloom {

// Where nothing else is said, errors are the context's.
class CudaProducts {
 public:
  // `context` and `chains` must outlive the object. `dense` multiplies many rows, and may be null.
  CudaProducts(CudaContext& context, CudaRowChains& chains,
               std::unique_ptr<cuda::DenseLibrary> dense)
      : context_(context), chains_(chains), dense_(context, std::move(dense)) {}

  // Has the memory that products with matrices of up to so many columns need, or says why not.
  absl::Status Reserve(uint64_t cols) { return dense_.Reserve(cols); }

  // out[t] = transformed x[t], t < n; rows of the strides' elements.
  void Transform(const CudaTransform& transform, const float* x, uint32_t x_stride, size_t n,
                 float* out, uint32_t out_stride);
  // The products of `weights` as they are stored with one x, y[m] rows of `stride` elements.
  void Multiply(absl::Span<const DeviceMatrix* const> weights, size_t n, DeviceBuffer& x, float* y,
                uint32_t stride);
  // Restores such outputs, and adds biases: the span may be empty.
  void FinishOutputs(absl::Span<const DeviceMatrix* const> weights,
                     absl::Span<const DeviceVector* const> biases, size_t n, float* y,
                     uint32_t stride);

 private:
  // x as the matrix's input is transformed. Null on failure.
  const float* TransformInput(const CudaMatrix& matrix, size_t n, CudaBuffer& x, size_t index);
  // Room for what products read of x, in the `index`-th of the buffer's forms.
  void* Prepared(CudaBuffer& x, size_t index);
  // x as the matrix reads it; the `index`-th of the buffer's forms holds it.
  cuda::Activations Prepare(const CudaMatrix& matrix, size_t n, CudaBuffer& x, size_t index);
  // What Multiply does, by the dense library.
  void MultiplyDense(absl::Span<const DeviceMatrix* const> weights, size_t n, DeviceBuffer& x,
                     float* y, uint32_t stride);

  CudaContext& context_;
  CudaRowChains& chains_;
  CudaDenseProducts dense_;
};

}  // namespace quantloom
