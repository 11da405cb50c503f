// ICQuant with 8-bit centroids: codes become int8 centroids in registers and are multiplied there.
#include "core/codec/code_packing.h"
#include "kernels/cpu/icquant_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/icquant_integer.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/byte_product-inl.h"
#include "kernels/cpu/icquant_codes-inl.h"
#include "kernels/cpu/lanes-inl.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

constexpr size_t kPrefetchBytes = 4096;

// A row decoded on the fly. 64 weights take, on 512 bits with n = 4 and outliers: broadcast load,
// shift, mask, 2 shuffles, and the bitmap's move to a mask register.
template <int kBits, bool kOutliers>
struct PackedRow {
  const uint8_t* codes;
  const uint64_t* outliers;
  ByteTables tables;

  HWY_INLINE Bytes64 Step(size_t step) const {
    const uint8_t* block = codes + step * CodeBlockBytes(kBits, kStep);
    return LookUp<kBits, kOutliers>(UnpackCodes<kBits>(block), kOutliers ? outliers[step] : 0,
                                    tables);
  }
};

// Eight-bit codes are the centroids.
template <>
struct PackedRow<8, false> : ByteRow {};

template <int kBits, bool kOutliers>
HWY_INLINE PackedRow<kBits, kOutliers> OpenRow(const IcquantView& view, size_t row) {
  const uint8_t* codes = view.codes + row * view.code_stride;
  if constexpr (kBits == 8) {
    return {{codes}};
  } else {
    return {codes, kOutliers ? view.outliers + row * view.steps : nullptr,
            LoadTables<(kOutliers ? 2u : 1u) << kBits>(view.matrix->centroids(row))};
  }
}

// Scales the tile's sums and writes them.
template <size_t R, size_t T>
HWY_INLINE void StoreTile(const IcquantView& view, const Activations& x, const ProductRange& range,
                          size_t row, size_t token, const float (&sums)[T][R]) {
  const hn::CappedTag<float, R> d;
  for (size_t r = 0; r < R; r += hn::MaxLanes(d)) {
    const auto scale = hn::LoadU(d, view.scales + row + r);
    for (size_t t = 0; t < T; ++t) {
      auto y = hn::Mul(scale, hn::LoadU(d, sums[t] + r));
      if (view.offsets != nullptr) {
        const auto total = hn::Set(d, x.total(range.first_token + token + t));
        y = Fma(hn::LoadU(d, view.offsets + row + r), total, y);
      }
      hn::StoreU(y, d, range.y + (token + t) * range.stride + row + r);
    }
  }
}

template <size_t R, size_t T, class Source>
HWY_INLINE void MultiplyTile(const IcquantView& view, const Activations& x,
                             const ProductRange& range, size_t row, size_t token,
                             const Source* rows) {
  float sums[T][R];
  ByteTile<R, T>(rows, MakeTokenTile<T>(x, range.first_token + token), view.steps, sums);
  StoreTile<R, T>(view, x, range, row, token, sums);
}

template <size_t R, class Source>
HWY_INLINE void MultiplyTokens(const IcquantView& view, const Activations& x,
                               const ProductRange& range, size_t row, const Source* rows) {
  ForTokenTiles(range.tokens, [&]<size_t T>(size_t t)
                                  HWY_ATTR { MultiplyTile<R, T>(view, x, range, row, t, rows); });
}

// R rows from `row` on, all tokens. Several tokens share one decoding into `scratch` (R rows).
template <int kBits, bool kOutliers, size_t R>
HWY_INLINE void MultiplyRows(const IcquantView& view, const Activations& x,
                             const ProductRange& range, size_t row, uint8_t* scratch) {
  PackedRow<kBits, kOutliers> packed[R];
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) packed[r] = OpenRow<kBits, kOutliers>(view, row + r);
  if constexpr (kBits == 8) {
    MultiplyTokens<R>(view, x, range, row, packed);
  } else {
    if (range.tokens == 1) {
      MultiplyTile<R, 1>(view, x, range, row, 0, packed);
      return;
    }
    DecodedRow decoded[R];
    for (size_t r = 0; r < R; ++r) {
      uint8_t* to = scratch + r * view.steps * kStep;
      for (size_t s = 0; s < view.steps; ++s) StoreBytes(packed[r].Step(s), to + s * kStep);
      decoded[r].bytes = to;
    }
    MultiplyTokens<R>(view, x, range, row, decoded);
  }
}

// Touches the cache lines of [from, from + bytes). Addresses past the matrix are harmless.
HWY_INLINE void PrefetchLines(const void* from, size_t bytes) {
  const char* p = static_cast<const char*>(from);
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
}

// Asks for the rows that come kPrefetchBytes of codes after row `row`. Hardware prefetchers stop at
// every 4 KB page and restart for each row of a tile; wide rows leave them time, narrow ones do not
// (1536 x 576 at 4 bits from memory: 17 without, 24 billion weights/s with it).
template <size_t R>
HWY_INLINE void PrefetchRows(const IcquantView& view, size_t row) {
  if (R * view.code_stride > kPrefetchBytes) return;
  const uint8_t* codes = view.codes + row * view.code_stride;
  PrefetchLines(codes + kPrefetchBytes, R * view.code_stride);
  if (view.outliers == nullptr) return;
  const size_t ahead = kPrefetchBytes / view.code_stride;  // rows
  PrefetchLines(view.outliers + (row + ahead) * view.steps, R * view.steps * sizeof(uint64_t));
}

template <int kBits, bool kOutliers>
void MultiplyBits(const IcquantView& view, const Activations& x, const ProductRange& range,
                  uint8_t* scratch) {
  size_t row = range.row_begin;
  for (; row + kByteRows <= range.row_end; row += kByteRows) {
    PrefetchRows<kByteRows>(view, row);
    MultiplyRows<kBits, kOutliers, kByteRows>(view, x, range, row, scratch);
  }
  for (; row < range.row_end; ++row) {
    MultiplyRows<kBits, kOutliers, 1>(view, x, range, row, scratch);
  }
}

size_t DecodedRows() { return kByteRows; }

void MultiplyInteger(const IcquantView& view, const Activations& x, const ProductRange& range,
                     uint8_t* scratch) {
  const bool outliers = view.outliers != nullptr;
  switch (view.matrix->code_bits()) {
    case 1:
      return outliers ? MultiplyBits<1, true>(view, x, range, scratch)
                      : MultiplyBits<1, false>(view, x, range, scratch);
    case 2:
      return outliers ? MultiplyBits<2, true>(view, x, range, scratch)
                      : MultiplyBits<2, false>(view, x, range, scratch);
    case 3:
      return outliers ? MultiplyBits<3, true>(view, x, range, scratch)
                      : MultiplyBits<3, false>(view, x, range, scratch);
    case 4:
      return outliers ? MultiplyBits<4, true>(view, x, range, scratch)
                      : MultiplyBits<4, false>(view, x, range, scratch);
    default:
      return MultiplyBits<8, false>(view, x, range, scratch);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom::cpu {

HWY_EXPORT(DecodedRows);
HWY_EXPORT(MultiplyInteger);

void MultiplyIcquantInteger(const IcquantView& view, const Activations& x,
                            const ProductRange& range) {
  thread_local AlignedVector<uint8_t> scratch;
  scratch.resize(HWY_DYNAMIC_DISPATCH(DecodedRows)() * view.steps * Activations::kStepCols);
  HWY_DYNAMIC_DISPATCH(MultiplyInteger)(view, x, range, scratch.data());
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
