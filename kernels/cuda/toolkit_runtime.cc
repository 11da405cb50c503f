#include "kernels/cuda/toolkit_runtime.h"

#include <cuda_runtime_api.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace quantloom::cuda {
namespace {

// Compute capability 8.0: the kernels use cp.async and mma shapes that came with it.
constexpr int kLeastCapability = 80;

absl::Status ToStatus(cudaError_t error, absl::string_view call) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message =
      absl::StrCat(call, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
  switch (error) {
    case cudaErrorMemoryAllocation:
      static_cast<void>(cudaGetLastError());  // not sticky: the next call is not to report it
      return absl::ResourceExhaustedError(message);
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
      return absl::FailedPreconditionError(message);
    default:
      return absl::InternalError(message);
  }
}

class ToolkitRuntime final : public DeviceRuntime {
 public:
  ToolkitRuntime(int device, DeviceProperties properties)
      : device_(device), properties_(std::move(properties)) {}

  const DeviceProperties& properties() const override { return properties_; }
  absl::StatusOr<uint64_t> FreeBytes() override {
    size_t free = 0;
    size_t total = 0;
    QL_RETURN_IF_ERROR(Use());
    QL_RETURN_IF_ERROR(ToStatus(cudaMemGetInfo(&free, &total), "cudaMemGetInfo"));
    return free;
  }

  absl::StatusOr<void*> Allocate(size_t bytes) override {
    void* memory = nullptr;
    QL_RETURN_IF_ERROR(Use());
    QL_RETURN_IF_ERROR(ToStatus(cudaMalloc(&memory, bytes), "cudaMalloc"));
    return memory;
  }
  void Free(void* memory) override {
    if (Use().ok()) cudaFree(memory);
  }
  absl::StatusOr<void*> AllocatePinned(size_t bytes) override {
    void* memory = nullptr;
    QL_RETURN_IF_ERROR(Use());
    QL_RETURN_IF_ERROR(ToStatus(cudaMallocHost(&memory, bytes), "cudaMallocHost"));
    return memory;
  }
  void FreePinned(void* memory) override {
    if (!Use().ok()) return;
    cudaDeviceSynchronize();  // cudaFree waits by itself; of this nothing is promised
    cudaFreeHost(memory);
  }

  absl::StatusOr<Stream> CreateStream() override {
    cudaStream_t stream = nullptr;
    QL_RETURN_IF_ERROR(Use());
    QL_RETURN_IF_ERROR(
        ToStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate"));
    return stream;
  }
  void Destroy(Stream stream) override {
    if (stream != nullptr && Use().ok()) cudaStreamDestroy(stream);
  }
  absl::Status CopyToDevice(void* to, const void* from, size_t bytes, Stream stream) override {
    return Copy(to, from, bytes, cudaMemcpyHostToDevice, stream);
  }
  absl::Status CopyToHost(void* to, const void* from, size_t bytes, Stream stream) override {
    return Copy(to, from, bytes, cudaMemcpyDeviceToHost, stream);
  }
  absl::Status CopyOnDevice(void* to, const void* from, size_t bytes, Stream stream) override {
    return Copy(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
  }
  absl::Status Synchronize(Stream stream) override {
    QL_RETURN_IF_ERROR(Use());
    return ToStatus(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  }

  absl::StatusOr<Event> CreateEvent() override {
    cudaEvent_t event = nullptr;
    QL_RETURN_IF_ERROR(Use());
    QL_RETURN_IF_ERROR(ToStatus(cudaEventCreate(&event), "cudaEventCreate"));
    return event;
  }
  void Destroy(Event event) override {
    if (event != nullptr && Use().ok()) cudaEventDestroy(event);
  }
  absl::Status Record(Event event, Stream stream) override {
    QL_RETURN_IF_ERROR(Use());
    return ToStatus(cudaEventRecord(event, stream), "cudaEventRecord");
  }
  absl::Status Wait(Event event) override {
    QL_RETURN_IF_ERROR(Use());
    return ToStatus(cudaEventSynchronize(event), "cudaEventSynchronize");
  }
  absl::StatusOr<double> Milliseconds(Event from, Event to) override {
    float milliseconds = 0;
    QL_RETURN_IF_ERROR(Use());
    QL_RETURN_IF_ERROR(
        ToStatus(cudaEventElapsedTime(&milliseconds, from, to), "cudaEventElapsedTime"));
    return milliseconds;
  }

  void BeginRange(const char* name) override { nvtxRangePushA(name); }
  void EndRange() override { nvtxRangePop(); }

  absl::Status BeginCapture(Stream stream) override {
    QL_RETURN_IF_ERROR(Use());
    return ToStatus(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                    "cudaStreamBeginCapture");
  }
  absl::StatusOr<Graph> EndCapture(Stream stream) override {
    cudaGraph_t recorded = nullptr;
    QL_RETURN_IF_ERROR(Use());
    QL_RETURN_IF_ERROR(ToStatus(cudaStreamEndCapture(stream, &recorded), "cudaStreamEndCapture"));
    cudaGraphExec_t graph = nullptr;
    const absl::Status status =
        ToStatus(cudaGraphInstantiate(&graph, recorded, 0), "cudaGraphInstantiate");
    cudaGraphDestroy(recorded);
    QL_RETURN_IF_ERROR(status);
    return graph;
  }
  absl::Status Launch(Graph graph, Stream stream) override {
    QL_RETURN_IF_ERROR(Use());
    return ToStatus(cudaGraphLaunch(graph, stream), "cudaGraphLaunch");
  }
  void Destroy(Graph graph) override {
    if (graph != nullptr && Use().ok()) cudaGraphExecDestroy(graph);
  }

 private:
  absl::Status Use() { return ToStatus(cudaSetDevice(device_), "cudaSetDevice"); }

  absl::Status Copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, Stream stream) {
    QL_RETURN_IF_ERROR(Use());
    return ToStatus(cudaMemcpyAsync(to, from, bytes, kind, stream), "cudaMemcpyAsync");
  }

  const int device_;
  const DeviceProperties properties_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceRuntime>> OpenDevice(int index) {
  // Where there is no driver CUDA says that it is too old.
  int driver = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0) {
    return absl::FailedPreconditionError("CUDA is not available: no NVIDIA driver is installed");
  }
  int count = 0;
  QL_RETURN_IF_ERROR(ToStatus(cudaGetDeviceCount(&count), "cudaGetDeviceCount"));
  if (index < 0 || index >= count) {
    return absl::InvalidArgumentError(
        absl::StrCat("CUDA device ", index, ": there are ", count, ", numbered from 0"));
  }
  cudaDeviceProp found;
  QL_RETURN_IF_ERROR(ToStatus(cudaGetDeviceProperties(&found, index), "cudaGetDeviceProperties"));
  DeviceProperties properties = {.name = found.name,
                                 .compute_major = found.major,
                                 .compute_minor = found.minor,
                                 .total_bytes = found.totalGlobalMem,
                                 .shared_bytes = found.sharedMemPerBlockOptin};
  QL_RETURN_IF_ERROR(RequireCapability(
      index, properties, std::max(kLeastCapability, QUANTLOOM_CUDA_LEAST_CAPABILITY)));
  return std::make_unique<ToolkitRuntime>(index, std::move(properties));
}

}  // namespace quantloom::cuda
