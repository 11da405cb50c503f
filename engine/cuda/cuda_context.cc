#include "engine/cuda/cuda_context.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

// Of one pinned buffer: a millisecond of a copy over PCIe 3.
constexpr uint64_t kStagingBytes = uint64_t{4} << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<CudaContext>> CudaContext::Create(
    std::unique_ptr<cuda::DeviceRuntime> runtime, const cuda::KernelTable& kernels) {
  std::unique_ptr<CudaContext> context(new CudaContext(std::move(runtime), kernels));
  QL_ASSIGN_OR_RETURN(context->stream_, context->runtime().CreateStream());
  for (Staging& staging : context->staging_) {
    QL_ASSIGN_OR_RETURN(staging.memory, context->AllocatePinned(kStagingBytes));
    QL_ASSIGN_OR_RETURN(staging.copied, context->CreateEvent());
  }
  return context;
}

CudaContext::~CudaContext() {
  for (Staging& staging : staging_) staging = {};
  runtime_->Destroy(stream_);
}

void CudaContext::Note(const absl::Status& status) {
  if (status_.ok()) status_ = status;
}

void CudaContext::Note(const char* launch_error) {
  if (launch_error != nullptr) Note(absl::InternalError(launch_error));
}

absl::StatusOr<CudaMemory> CudaContext::Allocate(uint64_t bytes) {
  const absl::StatusOr<void*> memory = runtime_->Allocate(bytes);
  if (memory.ok()) return CudaMemory(*runtime_, *memory, bytes, memory_bytes_);
  if (!absl::IsResourceExhausted(memory.status())) {
    Note(memory.status());
    return memory.status();
  }
  QL_ASSIGN_OR_RETURN(const uint64_t available, runtime_->FreeBytes());
  return absl::ResourceExhaustedError(absl::StrCat(
      "asked for ", bytes, " bytes of device memory, and ", available, " of the ",
      runtime_->properties().total_bytes, " of ", runtime_->properties().name, " are available"));
}

absl::StatusOr<CudaMemory> CudaContext::AllocatePinned(uint64_t bytes) const {
  QL_ASSIGN_OR_RETURN(void* const memory, runtime_->AllocatePinned(bytes));
  return CudaMemory(*runtime_, memory);
}

absl::StatusOr<CudaEvent> CudaContext::CreateEvent() const {
  QL_ASSIGN_OR_RETURN(const cuda::Event event, runtime_->CreateEvent());
  return CudaEvent(*runtime_, event);
}

absl::StatusOr<CudaMemory> CudaContext::Upload(absl::Span<const uint8_t> bytes) {
  QL_ASSIGN_OR_RETURN(CudaMemory memory, Allocate(bytes.size()));
  const absl::Status copied = CopyThroughStaging(bytes, memory.as<uint8_t>());
  Note(copied);
  QL_RETURN_IF_ERROR(copied);
  return memory;
}

absl::Status CudaContext::CopyThroughStaging(absl::Span<const uint8_t> bytes, uint8_t* to) {
  for (size_t first = 0, turn = 0; first < bytes.size(); first += kStagingBytes, ++turn) {
    Staging& staging = staging_[turn % staging_.size()];
    const size_t count = std::min<size_t>(kStagingBytes, bytes.size() - first);
    QL_RETURN_IF_ERROR(runtime_->Wait(staging.copied.get()));
    std::memcpy(staging.memory.as<uint8_t>(), bytes.data() + first, count);
    QL_RETURN_IF_ERROR(
        runtime_->CopyToDevice(to + first, staging.memory.as<uint8_t>(), count, stream_));
    QL_RETURN_IF_ERROR(runtime_->Record(staging.copied.get(), stream_));
  }
  return absl::OkStatus();
}

}  // namespace quantloom
