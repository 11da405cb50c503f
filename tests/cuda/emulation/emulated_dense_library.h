// A DenseLibrary over the emulation: plain loops, when the stream's turn has come.
#pragma once

#include "core/base/float16.h"
#include "kernels/cuda/dense_library.h"
#include "tests/cuda/emulation/stream.h"

namespace quantloom::cuda_emulation {

class EmulatedDenseLibrary final : public cuda::DenseLibrary {
 public:
  const char* Multiply(const cuda::DenseProduct& product, cuda::Stream stream) override {
    ++products_;
    const absl::Status status = stream->Submit([product] {
      for (uint32_t token = 0; token < product.tokens; ++token) {
        for (uint32_t row = 0; row < product.rows; ++row) {
          const uint16_t* const w = product.w + uint64_t{row} * product.cols;
          const uint16_t* const x = product.x + uint64_t{token} * product.cols;
          float sum = 0;
          for (uint32_t c = 0; c < product.cols; ++c) sum += HalfToFloat(w[c]) * HalfToFloat(x[c]);
          product.y[uint64_t{token} * product.stride + row] = sum;
        }
      }
      return absl::OkStatus();
    });
    return status.ok() ? nullptr : "the device has failed";
  }

  uint64_t products() const { return products_; }

 private:
  uint64_t products_ = 0;
};

}  // namespace quantloom::cuda_emulation
