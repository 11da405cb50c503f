// Stored matrices of a codec without loss: W~ in fp32. What products are tested on where
// incoherence processing matters and an encoder's choices do not.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "core/codec/codec.h"
#include "core/transform/incoherence.h"
#include "gtest/gtest.h"
#include "tests/kernels/every_target.h"

namespace quantloom {

class LosslessMatrix final : public PackedMatrix {
 public:
  // Stores w [incoherence.rows(), incoherence.cols()] after incoherence processing.
  LosslessMatrix(std::vector<float> w, Incoherence incoherence)
      : PackedMatrix("lossless", incoherence.rows(), incoherence.cols()),
        incoherence_(std::move(incoherence)),
        values_(std::move(w)) {
    ThreadTeam team(1);
    incoherence_.TransformWeights(absl::MakeSpan(values_), team);
  }

  const Incoherence* incoherence() const override {
    return incoherence_.options().kind == IncoherenceKind::kNone ? nullptr : &incoherence_;
  }
  void DecodeTile(uint64_t row, uint64_t rows, uint64_t col, uint64_t cols, float* out,
                  uint64_t stride) const override {
    ASSERT_LE(row + rows, this->rows());
    ASSERT_LE(col + cols, this->cols());
    for (uint64_t r = 0; r < rows; ++r) {
      const float* from = values_.data() + (row + r) * this->cols() + col;
      std::copy(from, from + cols, out + r * stride);
    }
    decoded_ += rows * cols;
  }
  BitBreakdown bits() const override { return {.codes = 32}; }

  const std::vector<float>& stored() const { return values_; }  // W~
  uint64_t decoded() const { return decoded_; }                 // values, so far

 private:
  Incoherence incoherence_;
  std::vector<float> values_;
  mutable std::atomic<uint64_t> decoded_{0};
};

inline std::unique_ptr<LosslessMatrix> RandomLossless(size_t rows, size_t cols, uint32_t seed,
                                                      const IncoherenceOptions& options) {
  return std::make_unique<LosslessMatrix>(cpu::RandomFloats(rows * cols, seed, 0.05f),
                                          Incoherence(rows, cols, options));
}

// Bounds the error of a transform computed in fp32 as a share of its input's 2-norm, up to terms of
// the order of 2^-48. A factor of order m adds m terms per output: the error of one is at most
// (m - 1) u sum |x| <= (m - 1) u sqrt(m) ||x||, that of all m at most (m - 1) u m ||x||, and the
// factor makes vectors sqrt(m) times longer. Sylvester's is log2 factors of order 2. The scale is
// rounded and so is the multiplication with it.
inline double TransformErrorBound(const HadamardTransform* transform) {
  if (transform == nullptr) return 0;
  double units = 2;
  for (const size_t m : transform->factors().small) {
    units += static_cast<double>(m - 1) * std::sqrt(static_cast<double>(m));
  }
  units += std::sqrt(2.0) * std::log2(static_cast<double>(transform->factors().power));
  return units * 0x1p-24;
}

// Bounds ||y - W x|| / (||W||_F ||x||), y a product in the float form with `matrix` and W its
// dequantized values. Either side of W~ passes one transform on either way (x, y and both sides of
// W), each off by its bound; a lane adds cols / 16 products and the tree four more sums, and
// |W~_r| |x~| <= ||W~_r|| ||x~|| for every row. 1 % covers products of these terms.
inline double ProductErrorBound(const PackedMatrix& matrix) {
  double bound = (std::ceil(static_cast<double>(matrix.cols()) / 16) + 4) * 0x1p-24;
  if (const Incoherence* incoherence = matrix.incoherence(); incoherence != nullptr) {
    bound += 2 * TransformErrorBound(incoherence->input());
    bound += 2 * TransformErrorBound(incoherence->output());
  }
  return bound * 1.01;
}

// Expects that y is W x within `bound` of ||W||_F ||x||; w [y.size(), x.size()].
inline void ExpectProduct(const std::vector<float>& y, const std::vector<float>& w,
                          const std::vector<float>& x, double bound) {
  double w_squares = 0, x_squares = 0, error_squares = 0;
  for (const float value : x) x_squares += static_cast<double>(value) * value;
  for (size_t r = 0; r < y.size(); ++r) {
    double sum = 0;
    for (size_t c = 0; c < x.size(); ++c) {
      const double value = w[r * x.size() + c];
      sum += value * x[c];
      w_squares += value * value;
    }
    error_squares += (y[r] - sum) * (y[r] - sum);
  }
  EXPECT_LE(std::sqrt(error_squares), bound * std::sqrt(w_squares * x_squares));
}

}  // namespace quantloom
