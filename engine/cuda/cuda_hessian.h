// A Hessian summed on a CUDA device (kernels/cuda/hessian.h).
#pragma once

#include <cstdint>

#include "engine/cuda/cuda_context.h"
#include "engine/hessian_sum.h"

namespace quantloom {

class CudaHessianSum final : public HessianSum {
 public:
  // `memory` is for n x n doubles; `context` must outlive the sum.
  CudaHessianSum(CudaContext& context, uint64_t n, CudaMemory memory)
      : context_(context), n_(n), memory_(std::move(memory)) {}

  void Add(const DeviceBuffer& x, size_t rows) override;
  absl::StatusOr<Hessian> Take() override;

 private:
  CudaContext& context_;
  const uint64_t n_;
  CudaMemory memory_;  // [n, n]; garbage above the diagonal, and before the first token
  uint64_t tokens_ = 0;
};

}  // namespace quantloom
