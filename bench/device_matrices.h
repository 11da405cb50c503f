// Matrices of random bits in the forms that device kernels read: for timing, not for values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/matrix_image.h"

namespace quantloom {

struct DeviceForm {
  std::string name;       // "icquant-2", "mul1-2.5", "fp16", ...
  cuda::MatrixView view;  // its kind, bits, code; no shape, no arrays
};

// Every form that kernels/cuda/views.h has a product for.
std::vector<DeviceForm> DeviceForms();

// rows and cols multiples of 256. ICQuant's 5 % outliers lie evenly at random, in 6-bit symbols;
// fp16 elements are finite.
cuda::MatrixImage RandomImage(const DeviceForm& form, uint32_t rows, uint32_t cols, uint32_t seed);

}  // namespace quantloom
