// The Hadamard transform of core/transform/hadamard.h, for rows of activations.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace quantloom::cuda {

// Sylvester factors up to this order are transformed in shared memory; larger ones are the product
// of one and of a factor whose signs are stored.
constexpr uint32_t kMaxSylvester = 4096;
constexpr uint32_t kMaxHadamardFactor = 252;

// A matrix of +1 and -1 that is applied to every `inner`-th element.
struct HadamardFactorView {
  const uint32_t* signs;  // [order, words]: bit c % 32 of word c / 32 of a row: entry c is -1
  uint32_t order;         // at most kMaxHadamardFactor
  uint32_t inner;         // the product of the orders of the factors inside of it
};

// Enough for 2^31 columns: stored factors have orders of at least 12, but for at most three, which
// are there only beside a Sylvester factor of kMaxSylvester.
constexpr uint32_t kMaxHadamardFactors = 8;

// scale * (F_1 (x) ... (x) F_r (x) Sylvester(power)), on equal blocks of a row.
struct HadamardView {
  HadamardFactorView factors[kMaxHadamardFactors];  // innermost first
  uint32_t factor_count;
  uint32_t power;  // at most kMaxSylvester
  uint32_t cols;
  float scale;          // 1 / sqrt(order of a block)
  const float* before;  // [cols] signs that a row is multiplied with before, or null
  const float* after;   // [cols] signs that the result is multiplied with, or null
};

// out[t] = after * H (before * x[t]); rows of x_stride and out_stride elements; x may be out. Null,
// or why the kernel could not be launched.
const char* TransformRows(const HadamardView& transform, const float* x, uint32_t x_stride,
                          uint32_t rows, float* out, uint32_t out_stride, Stream stream);

}  // namespace quantloom::cuda
