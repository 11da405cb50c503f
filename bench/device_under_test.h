// A device to measure, with the backend that the server runs models on.
#pragma once

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "bench/device_matrices.h"
#include "core/base/parallel.h"
#include "core/base/status.h"
#include "engine/backend.h"
#include "engine/cuda/cuda_backend.h"
#include "engine/cuda/cuda_context.h"

namespace quantloom {

class DeviceUnderTest {
 public:
  // `team` and `kernels` must outlive the object.
  static absl::StatusOr<DeviceUnderTest> Create(std::unique_ptr<cuda::DeviceRuntime> runtime,
                                                const cuda::KernelTable& kernels,
                                                ThreadTeam& team) {
    QL_ASSIGN_OR_RETURN(std::unique_ptr<CudaContext> owned,
                        CudaContext::Create(std::move(runtime), kernels));
    CudaContext& context = *owned;
    std::unique_ptr<Backend> backend = CreateCudaBackend(std::move(owned), team);
    QL_ASSIGN_OR_RETURN(auto matrices, RandomMatrices::Create(context));
    return DeviceUnderTest(context, std::move(backend), std::move(matrices));
  }

  CudaContext& context() const { return *context_; }
  Backend& backend() const { return *backend_; }
  const RandomMatrices& matrices() const { return *matrices_; }

 private:
  DeviceUnderTest(CudaContext& context, std::unique_ptr<Backend> backend,
                  std::unique_ptr<RandomMatrices> matrices)
      : context_(&context), backend_(std::move(backend)), matrices_(std::move(matrices)) {}

  CudaContext* context_;  // the backend's
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<RandomMatrices> matrices_;
};

}  // namespace quantloom
