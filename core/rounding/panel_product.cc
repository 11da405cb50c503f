#include "core/rounding/panel_product.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/rounding/panel_product.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "core/base/fma-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quantloom {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Register tile: kTileRows x kTileVecs accumulators, kTileVecs vectors of b and one of a. Of 32
// registers 8 x 3 + 4 are used, of 16 registers 4 x 3 + 4.
constexpr size_t kTileVecs = 3;
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_NEON
constexpr size_t kTileRows = 8;
#else
constexpr size_t kTileRows = 4;
#endif

template <size_t kRows, typename T>
HWY_INLINE void AddTile(const T* HWY_RESTRICT a, const T* HWY_RESTRICT b, size_t k,
                        T* HWY_RESTRICT c) {
  using Tag = hn::CappedTag<T, 16>;
  constexpr size_t kLanes = hn::MaxLanes(Tag());
  const Tag d;
  hn::Vec<Tag> sums[kRows][kTileVecs];
#pragma GCC unroll 8
  for (size_t i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (size_t v = 0; v < kTileVecs; ++v) {
      sums[i][v] = hn::LoadU(d, c + i * kPanelColumns + v * kLanes);
    }
  }
  for (size_t t = 0; t < k; ++t, a += kPanelColumns, b += kPanelColumns) {
    hn::Vec<Tag> columns[kTileVecs];
#pragma GCC unroll 3
    for (size_t v = 0; v < kTileVecs; ++v) columns[v] = hn::LoadU(d, b + v * kLanes);
#pragma GCC unroll 8
    for (size_t i = 0; i < kRows; ++i) {
      const hn::Vec<Tag> row = hn::Set(d, a[i]);
#pragma GCC unroll 3
      for (size_t v = 0; v < kTileVecs; ++v) sums[i][v] = Fma(row, columns[v], sums[i][v]);
    }
  }
#pragma GCC unroll 8
  for (size_t i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (size_t v = 0; v < kTileVecs; ++v) {
      hn::StoreU(sums[i][v], d, c + i * kPanelColumns + v * kLanes);
    }
  }
}

template <typename T>
HWY_INLINE void AddProduct(const T* a, const T* b, size_t k, size_t m, T* c) {
  constexpr size_t kTileColumns = kTileVecs * hn::MaxLanes(hn::CappedTag<T, 16>());
  static_assert(kPanelColumns % kTileColumns == 0, "a panel is whole tiles");
  for (size_t j = 0; j < kPanelColumns; j += kTileColumns) {
    size_t i = 0;
    for (; i + kTileRows <= m; i += kTileRows) {
      AddTile<kTileRows>(a + i, b + j, k, c + i * kPanelColumns + j);
    }
    for (; i < m; ++i) AddTile<1>(a + i, b + j, k, c + i * kPanelColumns + j);
  }
}

void AddProductF32(const float* a, const float* b, size_t k, size_t m, float* c) {
  AddProduct(a, b, k, m, c);
}

void AddProductF64(const double* a, const double* b, size_t k, size_t m, double* c) {
  AddProduct(a, b, k, m, c);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom {

HWY_EXPORT(AddProductF32);
HWY_EXPORT(AddProductF64);

void AddPanelProduct(const float* a, const float* b, size_t k, size_t m, float* c) {
  HWY_DYNAMIC_DISPATCH(AddProductF32)(a, b, k, m, c);
}

void AddPanelProduct(const double* a, const double* b, size_t k, size_t m, double* c) {
  HWY_DYNAMIC_DISPATCH(AddProductF64)(a, b, k, m, c);
}

}  // namespace quantloom
#endif  // HWY_ONCE
