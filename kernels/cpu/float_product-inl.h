// The float form of a product: tiles of rows x tokens, each with its own 16-lane accumulator.
#if defined(QUANTLOOM_KERNELS_CPU_FLOAT_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTLOOM_KERNELS_CPU_FLOAT_PRODUCT_INL_H_
#undef QUANTLOOM_KERNELS_CPU_FLOAT_PRODUCT_INL_H_
#else
#define QUANTLOOM_KERNELS_CPU_FLOAT_PRODUCT_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

// Tile shape. A step of 16 columns loads kTileRows + kTileTokens vectors for kTileRows *
// kTileTokens FMAs. 512 bits, 32 registers: 6 x 4 accumulators, 4 activations, 1 weight; 2.4 FMAs
// per load saturate the FMA unit and read the streamed side (4 tokens) at 11 bytes a cycle, within
// L2's reach. 256 bits, 16 registers: 3 x 2 lane sets are 12 accumulators.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
constexpr size_t kTileRows = 6, kTileTokens = 4;
#else
constexpr size_t kTileRows = 3, kTileTokens = 2;
#endif

// y[t * y_stride + r] = sum_c w[r, c] x[t, c] for a full R x T tile; cols a multiple of 16.
template <size_t R, size_t T, typename E>
HWY_INLINE void FloatTile(const E* HWY_RESTRICT w, size_t w_stride, const float* HWY_RESTRICT x,
                          size_t x_stride, size_t cols, float* HWY_RESTRICT y, size_t y_stride) {
  Lanes sums[R][T];
  ZeroTile(sums);
  for (size_t c = 0; c < cols; c += kLanes) {
    Lanes tokens[T];
#pragma GCC unroll 8
    for (size_t t = 0; t < T; ++t) tokens[t] = LoadLanes(x + t * x_stride + c);
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) {
      const Lanes row = LoadLanes(w + r * w_stride + c);
#pragma GCC unroll 8
      for (size_t t = 0; t < T; ++t) sums[r][t] = Fma(row, tokens[t], sums[r][t]);
    }
  }
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (size_t t = 0; t < T; ++t) y[t * y_stride + r] = TreeSum(sums[r][t]);
  }
}

// R rows, any number of tokens.
template <size_t R, typename E>
HWY_INLINE void FloatRows(const E* w, size_t w_stride, const float* x, size_t x_stride,
                          size_t tokens, size_t cols, float* y, size_t y_stride) {
  size_t t = 0;
  for (; t + kTileTokens <= tokens; t += kTileTokens) {
    FloatTile<R, kTileTokens>(w, w_stride, x + t * x_stride, x_stride, cols, y + t * y_stride,
                              y_stride);
  }
  for (; t < tokens; ++t) {
    FloatTile<R, 1>(w, w_stride, x + t * x_stride, x_stride, cols, y + t * y_stride, y_stride);
  }
}

// y[t * y_stride + r] for r < rows, t < tokens. `w` holds rows of cols elements (a multiple of 16),
// w_stride apart.
template <typename E>
HWY_INLINE void FloatProduct(const E* w, size_t w_stride, size_t rows, const float* x,
                             size_t x_stride, size_t tokens, size_t cols, float* y,
                             size_t y_stride) {
  size_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    FloatRows<kTileRows>(w + r * w_stride, w_stride, x, x_stride, tokens, cols, y + r, y_stride);
  }
  for (; r < rows; ++r) {
    FloatRows<1>(w + r * w_stride, w_stride, x, x_stride, tokens, cols, y + r, y_stride);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
