// Products in the integer form, and the sum that kernels/cpu/linear.h documents for them.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/functional/function_ref.h"
#include "gtest/gtest.h"
#include "kernels/cpu/linear.h"
#include "tests/kernels/activation_codes.h"
#include "tests/kernels/every_target.h"
#include "tests/kernels/random_floats.h"

namespace quantloom::cpu {

// x [tokens, cols] as products read it.
inline Activations QuantizedActivations(const std::vector<float>& x, size_t cols,
                                        ActivationForm form = ActivationForm::kInt8) {
  Activations activations;
  activations.Assign(x.data(), x.size() / cols, cols, cols, form);
  return activations;
}

inline std::vector<float> Product(const LinearOperator& op, const Activations& x) {
  std::vector<float> y(x.tokens() * op.rows());
  op.Multiply(x, 0, op.rows(), y.data(), op.rows());
  return y;
}

// A row of integers times row i of an activation's codes, in plain scalar code.
inline float IntegerSum(const int* integers, const Activations& x, size_t i) {
  float lanes[16] = {};
  for (size_t group = 0; group < x.groups(); ++group) {
    int32_t blocks[16] = {};
    const size_t begin = group * x.group_cols();
    const size_t end = std::min(begin + x.group_cols(), x.cols());
    for (size_t c = begin; c < end; ++c) blocks[c % 64 / 4] += integers[c] * CodeOf(x, i, c);
    for (size_t l = 0; l < 16; ++l) {
      lanes[l] = std::fma(static_cast<float>(blocks[l]), ScaleOf(x, i, group * 16 + l), lanes[l]);
    }
  }
  for (size_t width = 8; width > 0; width /= 2) {
    for (size_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return lanes[0];
}

// Many tokens at once, and any split of the rows, give what each token gives alone.
inline void ExpectTokensAndRowSplitsAgree(const LinearOperator& op, size_t tokens) {
  const size_t rows = op.rows(), cols = op.cols();
  const std::vector<float> x = RandomFloats(tokens * cols, 12);
  std::vector<float> one_by_one;
  for (size_t t = 0; t < tokens; ++t) {
    const auto first = x.begin() + static_cast<int64_t>(t * cols);
    const std::vector<float> y =
        Product(op, QuantizedActivations({first, first + static_cast<int64_t>(cols)}, cols,
                                         op.activation_form()));
    one_by_one.insert(one_by_one.end(), y.begin(), y.end());
  }
  const Activations batch = QuantizedActivations(x, cols, op.activation_form());
  OnEveryTarget([&](const std::string&) {
    for (const size_t grain : {size_t{1}, size_t{5}, size_t{16}, rows}) {
      std::vector<float> y(tokens * rows);
      for (size_t r = 0; r < rows; r += grain) {
        op.Multiply(batch, r, std::min(r + grain, rows), y.data(), rows);
      }
      EXPECT_TRUE(SameBits(y, one_by_one)) << grain;
    }
  });
}

// Against decoded weights [rows, cols] in double precision: each activation is off by at most half
// a step of its block's last codes, each weight by what the function says, each addition by its
// rounding.
inline void ExpectErrorOfActivationsAlone(
    const LinearOperator& op, const std::vector<float>& weights,
    absl::FunctionRef<double(size_t row, size_t column)> weight_error = [](size_t, size_t) {
      return 0.0;
    }) {
  const size_t cols = op.cols();
  const std::vector<float> x = RandomFloats(cols, 6);
  const Activations a = QuantizedActivations(x, cols, op.activation_form());
  const std::vector<float> y = Product(op, a);
  for (size_t r = 0; r < op.rows(); ++r) {
    double expected = 0, bound = 0, magnitude = 0;
    for (size_t c = 0; c < cols; ++c) {
      const double w = weights[r * cols + c];
      expected += w * x[c];
      const double x_error = ScaleOf(a, a.code_rows() - 1, BlockOf(a, c)) * 0.5001;
      const double w_error = weight_error(r, c);
      bound += std::fabs(w) * x_error + w_error * (std::fabs(x[c]) + x_error);
      magnitude += std::fabs(w * x[c]);
    }
    EXPECT_NEAR(y[r], expected, bound + 1e-5 * magnitude);
    EXPECT_GT(bound, 1e-5 * magnitude * (op.activation_form() != ActivationForm::kInt16));
  }
}

}  // namespace quantloom::cpu
