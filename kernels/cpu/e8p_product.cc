// QuIP#'s decoded rows times activations.
#include "kernels/cpu/e8p_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/e8p_product.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/byte_product-inl.h"
#include "kernels/cpu/lanes-inl.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

static_assert(E8pPanel::kRows % kByteRows == 0);

template <size_t R, size_t T>
HWY_INLINE void StageSums(const int8_t* bytes, size_t stride, const TokenTile<T>& x,
                          float (&sums)[T][R]) {
  ByteRow rows[R];
  for (size_t r = 0; r < R; ++r) rows[r] = {bytes + r * stride};
  ByteTile<R, T>(rows, x, stride / kStep, sums);
}

// R rows of the panel from `row` on.
template <size_t R>
HWY_INLINE void MultiplyRows(const E8pPanel& panel, const Activations& x, const ProductRange& range,
                             size_t row) {
  const size_t offset = row * panel.stride;
  ForTokenTiles(range.tokens, [&]<size_t T>(size_t t) HWY_ATTR {
    const TokenTile<T> tokens = MakeTokenTile<T>(x, range.first_token + t);
    float sums[T][R], second[T][R];
    StageSums<R, T>(panel.first + offset, panel.stride, tokens, sums);
    if (panel.second != nullptr) {
      StageSums<R, T>(panel.second + offset, panel.stride, tokens, second);
    }
    for (size_t i = 0; i < T; ++i) {
      float* const y = range.y + (t + i) * range.stride + range.row_begin + row;
      for (size_t r = 0; r < R; ++r) {
        const float sum = panel.second == nullptr
                              ? sums[i][r]
                              : __builtin_fmaf(panel.second_unit, second[i][r], sums[i][r]);
        y[r] = panel.scales[row + r] * sum;
      }
    }
  });
}

void MultiplyPanel(const E8pPanel& panel, const Activations& x, const ProductRange& range) {
  const size_t rows = range.row_end - range.row_begin;
  size_t row = 0;
  for (; row + kByteRows <= rows; row += kByteRows) MultiplyRows<kByteRows>(panel, x, range, row);
  for (; row < rows; ++row) MultiplyRows<1>(panel, x, range, row);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom::cpu {

HWY_EXPORT(MultiplyPanel);

void MultiplyE8pPanel(const E8pPanel& panel, const Activations& x, const ProductRange& range) {
  HWY_DYNAMIC_DISPATCH(MultiplyPanel)(panel, x, range);
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
