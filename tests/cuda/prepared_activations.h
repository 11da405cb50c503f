// Activations that the kernel prepared, read back by their documented places; and products with
// them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "core/base/float16.h"
#include "gtest/gtest.h"
#include "kernels/cuda/activations.h"
#include "kernels/cuda/matrix_image.h"
#include "kernels/cuda/product.h"
#include "tests/cuda/launch_seed.h"
#include "tests/kernels/random_floats.h"

namespace quantloom::cuda {

class PreparedActivations {
 public:
  PreparedActivations(ActivationForm form, const std::vector<float>& x, uint32_t tokens,
                      uint32_t cols)
      // Full of what must not matter.
      : memory_(ActivationBytes(form, tokens, cols), 0xFF),
        view_(ActivationsAt(form, tokens, cols, memory_.data())),
        padded_((tokens + 7) / 8 * 8) {
    const char* const error = PrepareActivations(x.data(), cols, cols, view_, Stream());
    EXPECT_EQ(error, nullptr) << error;
  }

  const Activations& view() const { return view_; }
  uint32_t tokens() const { return view_.tokens; }

  // The element that stands for x[token, column].
  float Element(uint32_t token, uint32_t column) const {
    const uint32_t bytes = view_.form == ActivationForm::kInt8 ? 1 : 2;
    const uint32_t part_columns = 16 / bytes;
    const uint32_t panel = column / 128;
    const uint32_t owner = token % 8 * 4 + column % 128 / 32;
    const uint32_t part = column % 32 / part_columns;
    const size_t fragment =
        ((size_t{token / 8} * view_.panels + panel) * (32 / part_columns) + part) * 32 + owner;
    const uint8_t* const at = reinterpret_cast<const uint8_t*>(view_.fragments) + fragment * 16 +
                              column % part_columns * bytes;
    if (bytes == 1) return static_cast<int8_t>(*at);
    uint16_t half;
    std::memcpy(&half, at, sizeof(half));
    return HalfToFloat(half);
  }
  float Scale(uint32_t token, uint32_t panel) const {
    return view_.scales[size_t{panel} * padded_ + token];
  }
  float Total(uint32_t token) const { return view_.totals[token]; }

 private:
  std::vector<uint8_t> memory_;
  Activations view_;
  uint32_t padded_;
};

// y [tokens, rows], computed from a copy of the image's bytes at another place.
inline std::vector<float> Product(const MatrixImage& image, const PreparedActivations& x) {
  const std::vector<uint8_t> memory = image.bytes;
  std::vector<float> y(x.tokens() * image.rows, std::numeric_limits<float>::quiet_NaN());
  const char* const error = Multiply(image.ViewAt(memory.data()), x.view(), y.data(),
                                     static_cast<uint32_t>(image.rows), Stream());
  EXPECT_EQ(error, nullptr) << error;
  return y;
}

// Products of `tokens` random tokens together, against those of each alone: bit for bit.
inline void ExpectTokensAgreeAlone(const MatrixImage& image, uint32_t tokens) {
  const ActivationForm form = ActivationFormOf(image.view);
  const auto cols = static_cast<uint32_t>(image.cols);
  const std::vector<float> x = cpu::RandomFloats(size_t{tokens} * cols, 5);
  const std::vector<float> together = Product(image, PreparedActivations(form, x, tokens, cols));
  for (uint32_t token = 0; token < tokens; ++token) {
    const std::vector<float> own(x.begin() + token * cols, x.begin() + (token + 1) * cols);
    const std::vector<float> alone = Product(image, PreparedActivations(form, own, 1, cols));
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + token * image.rows))
        << token;
  }
}

// Products of so many tokens at once that another kernel takes them (launch_product.h), against
// products of a few of them: bit for bit.
inline void ExpectManyTokensAgreeWithFew(const MatrixImage& image) {
  constexpr uint32_t kTokens = 32 * 64 - 51;
  constexpr uint32_t kFew = 9;
  const ActivationForm form = ActivationFormOf(image.view);
  const auto cols = static_cast<uint32_t>(image.cols);
  std::vector<float> x(size_t{kTokens} * cols);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(static_cast<int32_t>(i * 2654435761u)) * 0x1p-31f;
  }
  const std::vector<float> many = Product(image, PreparedActivations(form, x, kTokens, cols));
  for (const uint32_t first : {0u, 60u, 1111u, kTokens - kFew}) {
    const std::vector<float> own(x.begin() + size_t{first} * cols,
                                 x.begin() + size_t{first + kFew} * cols);
    const std::vector<float> few = Product(image, PreparedActivations(form, own, kFew, cols));
    for (size_t i = 0; i < few.size(); ++i) {
      ASSERT_EQ(many[first * image.rows + i], few[i])
          << "token " << first + i / image.rows << ", row " << i % image.rows;
    }
  }
}

}  // namespace quantloom::cuda
