// A weight matrix in device memory, in the form that its product reads.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "core/codec/codec.h"
#include "engine/backend.h"
#include "engine/cuda/cuda_context.h"
#include "engine/cuda/cuda_transform.h"
#include "kernels/cuda/matrix_image.h"

namespace quantloom {

class CudaMatrix final : public DeviceMatrix {
 public:
  // Uploads the image; `incoherence` is what was done to the matrix before it was stored, null for
  // nothing.
  static absl::StatusOr<std::unique_ptr<CudaMatrix>> Create(const cuda::MatrixImage& image,
                                                            const Incoherence* incoherence,
                                                            CudaContext& context,
                                                            CudaTransforms& transforms);

  uint64_t rows() const override { return rows_; }
  uint64_t cols() const override { return cols_; }
  bool decodes_rows() const override { return output_ == nullptr; }
  uint64_t weight_bytes() const override { return bytes_; }

  const cuda::MatrixView& view() const { return view_; }
  // Of inputs, of looked-up rows (its inverse), of outputs; null where nothing is transformed.
  const CudaTransform* input() const { return input_.get(); }
  const CudaTransform* row() const { return row_.get(); }
  const CudaTransform* output() const { return output_.get(); }

 private:
  CudaMatrix() = default;

  uint64_t rows_ = 0;
  uint64_t cols_ = 0;
  uint64_t bytes_ = 0;
  CudaMemory memory_;
  cuda::MatrixView view_;
  std::shared_ptr<const CudaTransform> input_, row_, output_;
};

}  // namespace quantloom
