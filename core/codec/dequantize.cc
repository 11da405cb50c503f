#include "core/codec/codec.h"
#include "core/transform/incoherence.h"

namespace quantloom {

std::vector<float> Dequantize(const PackedMatrix& matrix, ThreadTeam& team) {
  const uint64_t cols = matrix.cols();
  std::vector<float> values(matrix.rows() * cols);
  team.ParallelFor(matrix.rows(), 16, [&](size_t begin, size_t end, int) {
    matrix.DecodeTile(begin, end - begin, 0, cols, values.data() + begin * cols, cols);
  });
  if (matrix.incoherence() != nullptr) {
    matrix.incoherence()->RestoreWeights(absl::MakeSpan(values), team);
  }
  return values;
}

}  // namespace quantloom
