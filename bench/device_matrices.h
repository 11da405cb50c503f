// Matrices of random bits in the forms that device kernels read, made in device memory: for timing,
// not for values.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/cuda/cuda_context.h"
#include "engine/cuda/cuda_matrix.h"
#include "kernels/cuda/views.h"

namespace quantloom {

struct DeviceForm {
  std::string name;       // "icquant-2", "mul1-2.5", "fp16", ...
  cuda::MatrixView view;  // its kind, bits, code; no shape, no arrays
  bool incoherent;        // whether models of this form transform inputs and outputs
};

// Every form that kernels/cuda/views.h has a product for.
std::vector<DeviceForm> DeviceForms();

// Makes matrices from a megabyte of random patterns that it repeats, each time changed. Rows and
// columns are multiples of 256. ICQuant's 5 % outliers lie evenly at random, in 6-bit symbols; fp16
// elements are finite.
class RandomMatrices {
 public:
  static absl::StatusOr<std::unique_ptr<RandomMatrices>> Create(CudaContext& context);

  // Bytes of a matrix.
  static uint64_t Bytes(const DeviceForm& form, uint32_t rows, uint32_t cols);
  // Work on the context's stream fills the matrix. RESOURCE_EXHAUSTED where there is no room for
  // it.
  absl::StatusOr<CudaMatrix::Resident> Make(const DeviceForm& form, uint32_t rows,
                                            uint32_t cols) const;

 private:
  static constexpr size_t kPatterns = 6;

  explicit RandomMatrices(CudaContext& context) : context_(context) {}

  CudaContext& context_;
  std::array<CudaMemory, kPatterns> patterns_;
};

}  // namespace quantloom
