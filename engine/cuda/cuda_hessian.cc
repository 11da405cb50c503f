#include "engine/cuda/cuda_hessian.h"

#include <utility>
#include <vector>

#include "core/base/status.h"
#include "engine/cuda/cuda_buffer.h"

namespace quantloom {

void CudaHessianSum::Add(const DeviceBuffer& x, size_t rows) {
  if (!context_.ok() || rows == 0) return;
  const cuda::HessianUpdate update = {.inputs = static_cast<const CudaBuffer&>(x).data(),
                                      .tokens = static_cast<uint32_t>(rows),
                                      .n = static_cast<uint32_t>(n_),
                                      .sum = memory_.as<double>(),
                                      .first = tokens_ == 0};
  context_.Note(context_.kernels().add_to_hessian(update, context_.stream()));
  tokens_ += rows;
}

absl::StatusOr<Hessian> CudaHessianSum::Take() {
  std::vector<double> sum(n_ * n_);
  cuda::DeviceRuntime& runtime = context_.runtime();
  if (context_.ok() && tokens_ > 0) {
    context_.Note(runtime.CopyToHost(sum.data(), memory_.as<double>(), sum.size() * sizeof(double),
                                     context_.stream()));
    if (context_.ok()) context_.Note(runtime.Synchronize(context_.stream()));
  }
  QL_RETURN_IF_ERROR(context_.status());
  memory_ = {};
  return Hessian(n_, std::move(sum), std::exchange(tokens_, 0));
}

}  // namespace quantloom
