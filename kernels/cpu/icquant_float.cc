// ICQuant with levels that are no int8 multiples of a row scale (fp16 codebooks, ranges): rows are
// expanded to floats and multiplied in the float form.
#include "core/codec/code_packing.h"
#include "kernels/cpu/icquant_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/icquant_float.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/float_product-inl.h"
#include "kernels/cpu/icquant_codes-inl.h"
#include "kernels/cpu/lanes-inl.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

// out[c] = table[part << n | code] for the 64 columns of a block. On 512 bits up to 32 levels are
// looked up in two registers: per 16 columns a widening load, a masked addition, a permutation.
template <int kBits>
HWY_INLINE void LookUpFloats(const uint8_t* codes, uint64_t outliers, const float* table,
                             float* out) {
#if QUANTLOOM_X86_512
  if constexpr (kBits <= 4) {
    const __m512 low = _mm512_loadu_ps(table), high = _mm512_loadu_ps(table + 16);
    for (size_t c = 0; c < kStep; c += kLanes) {
      const __m512i index =
          _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + c)));
      const auto part = static_cast<__mmask16>(outliers >> c);
      _mm512_storeu_ps(
          out + c,
          _mm512_permutex2var_ps(
              low, _mm512_mask_add_epi32(index, part, index, _mm512_set1_epi32(1 << kBits)), high));
    }
    return;
  }
#endif
  for (size_t c = 0; c < kStep; ++c) {
    out[c] = table[((outliers >> c) & 1) << kBits | codes[c]];
  }
}

// Row `row` as floats, `view.steps` blocks of 64.
template <int kBits>
HWY_INLINE void ExpandRow(const IcquantView& view, size_t row, float* out) {
  HWY_ALIGN float table[512];
  HWY_ALIGN uint8_t codes[kStep];
  view.matrix->RowLevels(row, table);
  const uint8_t* blocks = view.codes + row * view.code_stride;
  for (size_t s = 0; s < view.steps; ++s) {
    StoreBytes(UnpackCodes<kBits>(blocks + s * CodeBlockBytes(kBits, kStep)), codes);
    const uint64_t outliers = view.outliers == nullptr ? 0 : view.outliers[row * view.steps + s];
    LookUpFloats<kBits>(codes, outliers, table, out + s * kStep);
  }
}

template <int kBits>
void MultiplyExpanded(const IcquantView& view, const Activations& x, const ProductRange& range,
                      float* scratch) {
  const size_t cols = view.steps * kStep;
  for (size_t row = range.row_begin; row < range.row_end; row += kTileRows) {
    const size_t count = HWY_MIN(kTileRows, range.row_end - row);
    for (size_t r = 0; r < count; ++r) ExpandRow<kBits>(view, row + r, scratch + r * cols);
    FloatProduct(scratch, cols, count, x.row(range.first_token), x.row_stride(), range.tokens, cols,
                 range.y + row, range.stride);
  }
}

size_t ExpandedRows() { return kTileRows; }

void MultiplyFloat(const IcquantView& view, const Activations& x, const ProductRange& range,
                   float* scratch) {
  switch (view.matrix->code_bits()) {
    case 1:
      return MultiplyExpanded<1>(view, x, range, scratch);
    case 2:
      return MultiplyExpanded<2>(view, x, range, scratch);
    case 3:
      return MultiplyExpanded<3>(view, x, range, scratch);
    case 4:
      return MultiplyExpanded<4>(view, x, range, scratch);
    default:
      return MultiplyExpanded<8>(view, x, range, scratch);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom::cpu {

HWY_EXPORT(ExpandedRows);
HWY_EXPORT(MultiplyFloat);

void MultiplyIcquantFloat(const IcquantView& view, const Activations& x,
                          const ProductRange& range) {
  thread_local AlignedVector<float> scratch;
  scratch.resize(HWY_DYNAMIC_DISPATCH(ExpandedRows)() * view.steps * Activations::kStepCols);
  HWY_DYNAMIC_DISPATCH(MultiplyFloat)(view, x, range, scratch.data());
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
