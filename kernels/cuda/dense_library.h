// Products of dense fp16 matrices by a library that is opened at run time: cuBLAS on a device, the
// tests' own under emulation.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace quantloom::cuda {

// y[token, row] = sum over columns of w[row, column] x[token, column].
struct DenseProduct {
  const uint16_t* w = nullptr;  // [rows, cols] fp16
  const uint16_t* x = nullptr;  // [tokens, cols] fp16
  float* y = nullptr;           // [tokens, rows], rows of `stride` elements
  uint32_t rows = 0;
  uint32_t cols = 0;  // a multiple of 8
  uint32_t tokens = 0;
  uint32_t stride = 0;
};

// Thread-safety: one thread at a time.
class DenseLibrary {
 public:
  virtual ~DenseLibrary() = default;
  // Sums are in fp32, in an order of the library's own, which may change with `tokens`: a token's
  // result depends on how many others there are. May be recorded. Null, or what is wrong.
  virtual const char* Multiply(const DenseProduct& product, Stream stream) = 0;
};

}  // namespace quantloom::cuda
