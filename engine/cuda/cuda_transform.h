// Incoherence processing's transforms in device memory.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "absl/status/statusor.h"
#include "core/transform/incoherence.h"
#include "engine/cuda/cuda_context.h"
#include "kernels/cuda/hadamard_factors.h"

namespace quantloom {

// H S or its transpose. Immutable.
struct CudaTransform {
  cuda::HadamardView view;
  CudaMemory words;  // of the factors' signs
  CudaMemory signs;  // the diagonal of S
};

// The transforms of a model: matrices with the same seed and size share one, and so can share what
// is made of their inputs.
class CudaTransforms {
 public:
  explicit CudaTransforms(CudaContext& context) : context_(context) {}

  absl::StatusOr<std::shared_ptr<const CudaTransform>> Get(size_t size, HadamardBlocks blocks,
                                                           uint64_t seed, Direction direction);

 private:
  using Key = std::tuple<size_t, HadamardBlocks, uint64_t, Direction>;

  CudaContext& context_;
  std::map<Key, std::weak_ptr<const CudaTransform>> made_;
};

}  // namespace quantloom
