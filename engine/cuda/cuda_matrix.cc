#include "engine/cuda/cuda_matrix.h"

#include "core/base/status.h"
#include "core/transform/incoherence.h"

namespace quantloom {

absl::StatusOr<std::unique_ptr<CudaMatrix>> CudaMatrix::Create(const cuda::MatrixImage& image,
                                                               const Incoherence* incoherence,
                                                               CudaContext& context,
                                                               CudaTransforms& transforms) {
  QL_ASSIGN_OR_RETURN(CudaMemory memory, context.Upload(image.bytes));
  const cuda::MatrixView view = image.ViewAt(memory.as<void>());
  return Create(Resident{image.rows, image.cols, image.bytes.size(), std::move(memory), view},
                incoherence, transforms);
}

absl::StatusOr<std::unique_ptr<CudaMatrix>> CudaMatrix::Create(Resident image,
                                                               const Incoherence* incoherence,
                                                               CudaTransforms& transforms) {
  const uint64_t rows = image.rows;
  const uint64_t cols = image.cols;
  std::unique_ptr<CudaMatrix> matrix(new CudaMatrix(std::move(image)));
  if (incoherence == nullptr) return matrix;
  const IncoherenceOptions& options = incoherence->options();
  if (incoherence->input() != nullptr) {
    QL_ASSIGN_OR_RETURN(matrix->input_, transforms.Get(cols, options.blocks, options.input_seed,
                                                       Direction::kForward));
  }
  if (incoherence->output() != nullptr) {
    QL_ASSIGN_OR_RETURN(matrix->output_, transforms.Get(rows, options.blocks, options.output_seed,
                                                        Direction::kTransposed));
  } else if (incoherence->input() != nullptr) {
    QL_ASSIGN_OR_RETURN(matrix->row_, transforms.Get(cols, options.blocks, options.input_seed,
                                                     Direction::kTransposed));
  }
  return matrix;
}

}  // namespace quantloom
