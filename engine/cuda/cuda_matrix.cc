#include "engine/cuda/cuda_matrix.h"

#include "core/base/status.h"
#include "core/transform/incoherence.h"

namespace quantloom {

absl::StatusOr<std::unique_ptr<CudaMatrix>> CudaMatrix::Create(const cuda::MatrixImage& image,
                                                               const Incoherence* incoherence,
                                                               CudaContext& context,
                                                               CudaTransforms& transforms) {
  std::unique_ptr<CudaMatrix> matrix(new CudaMatrix());
  matrix->rows_ = image.rows;
  matrix->cols_ = image.cols;
  matrix->bytes_ = image.bytes.size();
  QL_ASSIGN_OR_RETURN(matrix->memory_, context.Upload(image.bytes));
  matrix->view_ = image.ViewAt(matrix->memory_.as<void>());
  if (incoherence == nullptr) return matrix;
  const IncoherenceOptions& options = incoherence->options();
  if (incoherence->input() != nullptr) {
    QL_ASSIGN_OR_RETURN(matrix->input_, transforms.Get(image.cols, options.blocks,
                                                       options.input_seed, Direction::kForward));
  }
  if (incoherence->output() != nullptr) {
    QL_ASSIGN_OR_RETURN(
        matrix->output_,
        transforms.Get(image.rows, options.blocks, options.output_seed, Direction::kTransposed));
  } else if (incoherence->input() != nullptr) {
    QL_ASSIGN_OR_RETURN(matrix->row_, transforms.Get(image.cols, options.blocks, options.input_seed,
                                                     Direction::kTransposed));
  }
  return matrix;
}

}  // namespace quantloom
