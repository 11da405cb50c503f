#include "kernels/cuda/cublas_library.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <library_types.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace quantloom::cuda {
namespace {

// What is used of cuBLAS's interface (cuBLAS manual, sections 2.4 and 2.8), which has been the same
// since CUDA 11: its headers are not needed to build, nor the library to run.
using Handle = struct cublasContext*;
enum : int { kSuccess = 0, kAsStored = 0, kTransposed = 1, kSumsInFloat = 68, kAnyAlgorithm = -1 };

struct Functions {
  int (*create)(Handle*) = nullptr;
  int (*destroy)(Handle) = nullptr;
  int (*set_stream)(Handle, cudaStream_t) = nullptr;
  int (*set_workspace)(Handle, void*, size_t) = nullptr;
  const char* (*status_string)(int) = nullptr;
  int (*gemm)(Handle, int a_form, int b_form, int m, int n, int k, const void* alpha, const void* a,
              cudaDataType a_type, int lda, const void* b, cudaDataType b_type, int ldb,
              const void* beta, void* c, cudaDataType c_type, int ldc, int compute_type,
              int algorithm) = nullptr;
};

// What NVIDIA recommends for Hopper.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;

absl::StatusOr<Functions> Load() {
  void* library = nullptr;
  std::string errors;
  for (const char* const name : {"libcublas.so.13", "libcublas.so.12"}) {
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
    absl::StrAppend(&errors, errors.empty() ? "" : "; ", dlerror());
  }
  if (library == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("cuBLAS is not available: ", errors));
  }
  Functions functions;
  const char* missing = nullptr;
  // A function's address comes as an object's (POSIX, dlsym).
  const auto find = [&]<typename Function>(const char* name, Function*& function) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
    if (function == nullptr) missing = name;
  };
  find("cublasCreate_v2", functions.create);
  find("cublasDestroy_v2", functions.destroy);
  find("cublasSetStream_v2", functions.set_stream);
  find("cublasSetWorkspace_v2", functions.set_workspace);
  find("cublasGetStatusString", functions.status_string);
  find("cublasGemmEx", functions.gemm);
  if (missing == nullptr) return functions;
  return absl::FailedPreconditionError(
      absl::StrCat("cuBLAS is not available: the library has no ", missing));
}

class CublasLibrary final : public DenseLibrary {
 public:
  static absl::StatusOr<std::unique_ptr<DenseLibrary>> Create(int device) {
    std::unique_ptr<CublasLibrary> library(new CublasLibrary(device));
    QL_ASSIGN_OR_RETURN(library->functions_, Load());
    if (const cudaError_t error = cudaSetDevice(device); error != cudaSuccess) {
      return absl::FailedPreconditionError(
          absl::StrCat("cuBLAS is not available: ", cudaGetErrorString(error)));
    }
    if (const int error = library->functions_.create(&library->handle_); error != kSuccess) {
      library->handle_ = nullptr;
      return absl::FailedPreconditionError(
          absl::StrCat("cuBLAS is not available: ", library->functions_.status_string(error)));
    }
    if (cudaMalloc(&library->workspace_, kWorkspaceBytes) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      return absl::ResourceExhaustedError("no device memory for cuBLAS's workspace");
    }
    return std::unique_ptr<DenseLibrary>(std::move(library));
  }
  ~CublasLibrary() override {
    if (cudaSetDevice(device_) != cudaSuccess) return;
    if (handle_ != nullptr) functions_.destroy(handle_);
    cudaFree(workspace_);
  }

  const char* Multiply(const DenseProduct& p, Stream stream) override {
    if (const cudaError_t error = cudaSetDevice(device_); error != cudaSuccess) {
      return cudaGetErrorString(error);
    }
    int error = kSuccess;
    if (!has_stream_ || stream != stream_) {
      // Setting the stream takes the workspace away.
      error = functions_.set_stream(handle_, stream);
      if (error == kSuccess) error = functions_.set_workspace(handle_, workspace_, kWorkspaceBytes);
      stream_ = stream;
      has_stream_ = error == kSuccess;
    }
    // cuBLAS counts by columns: to it rows of w, x and y are columns, and y^T = (w^T)^T x^T.
    const float one = 1;
    const float zero = 0;
    if (error == kSuccess) {
      error = functions_.gemm(handle_, kTransposed, kAsStored, static_cast<int>(p.rows),
                              static_cast<int>(p.tokens), static_cast<int>(p.cols), &one, p.w,
                              CUDA_R_16F, static_cast<int>(p.cols), p.x, CUDA_R_16F,
                              static_cast<int>(p.cols), &zero, p.y, CUDA_R_32F,
                              static_cast<int>(p.stride), kSumsInFloat, kAnyAlgorithm);
    }
    return error == kSuccess ? nullptr : functions_.status_string(error);
  }

 private:
  explicit CublasLibrary(int device) : device_(device) {}

  const int device_;
  Functions functions_;
  Handle handle_ = nullptr;
  void* workspace_ = nullptr;
  Stream stream_ = nullptr;
  bool has_stream_ = false;  // and the workspace
};

}  // namespace

absl::StatusOr<std::unique_ptr<DenseLibrary>> OpenCublas(int device) {
  return CublasLibrary::Create(device);
}

}  // namespace quantloom::cuda
