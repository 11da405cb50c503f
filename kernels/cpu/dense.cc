// Dense matrices of F32, F16 or BF16 in the float form.
#include "kernels/cpu/dense.h"

#include <cstring>

#include "absl/strings/str_cat.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/dense.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/float_product-inl.h"
#include "kernels/cpu/lanes-inl.h"
#include "kernels/cpu/weight_memory.h"

HWY_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

// From this many tokens on, a tile of 16-bit rows is expanded to floats once and reused: the
// expansion costs one pass, each further tile of tokens saves a conversion per load.
constexpr size_t kExpandTokens = 3 * kTileTokens;

template <typename E>
void Multiply16(const E* w, size_t w_stride, size_t rows, const Activations& x, size_t first_token,
                size_t tokens, float* scratch, float* y, size_t y_stride) {
  const float* first = x.row(first_token);
  if (tokens < kExpandTokens) {
    FloatProduct(w, w_stride, rows, first, x.row_stride(), tokens, w_stride, y, y_stride);
    return;
  }
  for (size_t r = 0; r < rows; r += kTileRows) {
    const size_t count = HWY_MIN(kTileRows, rows - r);
    const E* tile = w + r * w_stride;
    for (size_t i = 0; i < count * w_stride; i += kLanes)
      StoreLanes(LoadLanes(tile + i), scratch + i);
    FloatProduct(scratch, w_stride, count, first, x.row_stride(), tokens, w_stride, y + r,
                 y_stride);
  }
}

// Floats of scratch that MultiplyDense needs per column.
size_t ScratchRows() { return kTileRows; }

void MultiplyDense(DType dtype, const void* w, size_t w_stride, size_t rows, const Activations& x,
                   size_t first_token, size_t tokens, float* scratch, float* y, size_t y_stride) {
  switch (dtype) {
    case DType::kF16:
      Multiply16(static_cast<const HalfBits*>(w), w_stride, rows, x, first_token, tokens, scratch,
                 y, y_stride);
      return;
    case DType::kBF16:
      Multiply16(static_cast<const BFloat16Bits*>(w), w_stride, rows, x, first_token, tokens,
                 scratch, y, y_stride);
      return;
    default:
      FloatProduct(static_cast<const float*>(w), w_stride, rows, x.row(first_token), x.row_stride(),
                   tokens, w_stride, y, y_stride);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "core/base/float16.h"
#include "kernels/cpu/token_blocks.h"

namespace quantloom::cpu {

HWY_EXPORT(ScratchRows);
HWY_EXPORT(MultiplyDense);

void MultiplyFloats(const float* w, size_t w_stride, size_t rows, const Activations& x,
                    size_t first_token, size_t tokens, float* y, size_t y_stride) {
  HWY_DYNAMIC_DISPATCH(MultiplyDense)
  (DType::kF32, w, w_stride, rows, x, first_token, tokens, /*scratch=*/nullptr, y, y_stride);
}

namespace {

class DenseOperator final : public LinearOperator {
 public:
  DenseOperator(uint64_t rows, uint64_t cols, DType dtype, const uint8_t* bytes)
      : LinearOperator(rows, cols),
        dtype_(dtype),
        element_(DTypeSize(dtype)),
        stride_((cols + 15) / 16 * 16),
        values_(rows * stride_ * element_) {
    for (uint64_t r = 0; r < rows; ++r) {
      memcpy(values_.data() + r * stride_ * element_, bytes + r * cols * element_, cols * element_);
    }
  }

  ActivationForm activation_form() const override { return ActivationForm::kFloat; }

  void Multiply(const Activations& x, size_t row_begin, size_t row_end, float* y,
                size_t stride) const override {
    thread_local AlignedVector<float> scratch;
    scratch.resize(HWY_DYNAMIC_DISPATCH(ScratchRows)() * stride_);
    const uint8_t* w = values_.data() + row_begin * stride_ * element_;
    ForTokenBlocks(x.tokens(), stride_ * sizeof(float), [&](size_t first, size_t count) {
      HWY_DYNAMIC_DISPATCH(MultiplyDense)
      (dtype_, w, stride_, row_end - row_begin, x, first, count, scratch.data(),
       y + first * stride + row_begin, stride);
    });
  }

  uint64_t weight_bytes() const override { return values_.size(); }

 private:
  void DecodeStoredRow(uint64_t row, float* out) const override {
    const uint8_t* from = values_.data() + row * stride_ * element_;
    if (dtype_ == DType::kF32) {
      memcpy(out, from, cols() * sizeof(float));
      return;
    }
    const auto* bits = reinterpret_cast<const uint16_t*>(from);
    for (uint64_t c = 0; c < cols(); ++c) {
      out[c] = dtype_ == DType::kF16 ? HalfToFloat(bits[c]) : BFloat16ToFloat(bits[c]);
    }
  }

  DType dtype_;
  size_t element_;  // bytes
  size_t stride_;   // elements of a stored row: cols rounded up to 16, zeros behind
  WeightVector<uint8_t> values_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LinearOperator>> LinearOperator::FromDense(
    uint64_t rows, uint64_t cols, DType dtype, absl::Span<const uint8_t> bytes) {
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16) {
    return absl::InvalidArgumentError(
        absl::StrCat("dense matrix of type ", DTypeName(dtype), "; expected F32, F16 or BF16"));
  }
  const uint64_t element = DTypeSize(dtype);
  if (rows == 0 || cols == 0 || bytes.size() / element / rows != cols ||
      bytes.size() != rows * cols * element) {
    return absl::InvalidArgumentError(absl::StrCat("dense matrix [", rows, ", ", cols, "] of ",
                                                   DTypeName(dtype), " has ", bytes.size(),
                                                   " bytes"));
  }
  return std::make_unique<DenseOperator>(rows, cols, dtype, bytes.data());
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
