// A weight matrix in device memory, in the form that its product reads.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

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
  // Of an image that is in device memory already.
  struct Resident {
    uint64_t rows = 0;
    uint64_t cols = 0;
    uint64_t bytes = 0;
    CudaMemory memory = {};
    cuda::MatrixView view = {};
  };
  static absl::StatusOr<std::unique_ptr<CudaMatrix>> Create(Resident image,
                                                            const Incoherence* incoherence,
                                                            CudaTransforms& transforms);

  uint64_t rows() const override { return image_.rows; }
  uint64_t cols() const override { return image_.cols; }
  bool decodes_rows() const override { return output_ == nullptr; }
  uint64_t weight_bytes() const override { return image_.bytes; }

  const cuda::MatrixView& view() const { return image_.view; }
  // Of inputs, of looked-up rows (its inverse), of outputs; null where nothing is transformed.
  const CudaTransform* input() const { return input_.get(); }
  const CudaTransform* row() const { return row_.get(); }
  const CudaTransform* output() const { return output_.get(); }

 private:
  explicit CudaMatrix(Resident image) : image_(std::move(image)) {}

  Resident image_;
  std::shared_ptr<const CudaTransform> input_, row_, output_;
};

// Of a matrix that the CUDA backend made.
inline const CudaMatrix& Cuda(const DeviceMatrix& matrix) {
  return static_cast<const CudaMatrix&>(matrix);
}

}  // namespace quantloom
