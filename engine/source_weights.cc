#include "engine/source_weights.h"

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace quantloom {

absl::StatusOr<std::unique_ptr<DeviceMatrix>> SourceWeights::Matrix(const std::string& name,
                                                                    uint64_t rows, uint64_t cols) {
  QL_ASSIGN_OR_RETURN(std::vector<float> values, Read(name, rows * cols));
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  auto matrix =
      backend_.MatrixFromDense(rows, cols, DType::kF32, {bytes, values.size() * sizeof(float)});
  if (!matrix.ok()) return Annotate(matrix.status(), absl::StrCat("tensor '", name, "'"));
  return matrix;
}

absl::StatusOr<std::unique_ptr<DeviceVector>> SourceWeights::Vector(const std::string& name,
                                                                    uint64_t size) {
  QL_ASSIGN_OR_RETURN(std::vector<float> values, Read(name, size));
  return backend_.Vector(values);
}

absl::StatusOr<std::vector<float>> SourceWeights::Read(const std::string& name, uint64_t size) {
  QL_ASSIGN_OR_RETURN(std::vector<float> values, source_.ReadFloats(name));
  if (values.size() != size) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", name, "': shape does not fit the model"));
  }
  return values;
}

}  // namespace quantloom
