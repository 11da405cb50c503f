// One element's result is always the same expression, whatever the SIMD target and whichever of its
// neighbours are computed with it:
//   Sylvester stages in ascending distance 1, 2, 4, ...: (a, b) -> (a + b, a - b);
//   small matrices from the innermost out: t_0 + t_1 + ... from left to right, where t_g =
//   (+-x[4g] +- x[4g+1]) + (+-x[4g+2] +- x[4g+3]);
//   then one multiplication with the scale.
#include "core/transform/hadamard_kernels.h"

#include "core/transform/small_hadamard.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/transform/hadamard_kernels.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quantloom {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Elements of a cache line: what the small matrices' product handles at a time.
template <typename T>
constexpr size_t kChunk = 64 / sizeof(T);
template <typename T>
using Tag = hn::CappedTag<T, kChunk<T>>;
template <typename T>
constexpr size_t kVecLanes = hn::MaxLanes(Tag<T>());

#define QUANTLOOM_UNROLL _Pragma("GCC unroll 16")

// A cache line of elements in as many vectors as the target needs.
template <typename T>
struct Chunk {
  static constexpr size_t kVecs = kChunk<T> / kVecLanes<T>;
  hn::Vec<Tag<T>> v[kVecs];
};
template <typename T>
HWY_INLINE Chunk<T> LoadChunk(const T* from) {
  Chunk<T> r;
  QUANTLOOM_UNROLL for (size_t i = 0; i < Chunk<T>::kVecs; ++i) {
    r.v[i] = hn::LoadU(Tag<T>(), from + i * kVecLanes<T>);
  }
  return r;
}
template <typename T>
HWY_INLINE void StoreChunk(const Chunk<T>& a, T* to) {
  QUANTLOOM_UNROLL for (size_t i = 0; i < Chunk<T>::kVecs; ++i) {
    hn::StoreU(a.v[i], Tag<T>(), to + i * kVecLanes<T>);
  }
}
template <typename T>
HWY_INLINE Chunk<T> operator+(const Chunk<T>& a, const Chunk<T>& b) {
  Chunk<T> r;
  QUANTLOOM_UNROLL for (size_t i = 0; i < Chunk<T>::kVecs; ++i) r.v[i] = hn::Add(a.v[i], b.v[i]);
  return r;
}
template <typename T>
HWY_INLINE Chunk<T> operator-(const Chunk<T>& a, const Chunk<T>& b) {
  Chunk<T> r;
  QUANTLOOM_UNROLL for (size_t i = 0; i < Chunk<T>::kVecs; ++i) r.v[i] = hn::Sub(a.v[i], b.v[i]);
  return r;
}
template <typename T>
HWY_INLINE Chunk<T> operator-(const Chunk<T>& a) {
  Chunk<T> r;
  QUANTLOOM_UNROLL for (size_t i = 0; i < Chunk<T>::kVecs; ++i) r.v[i] = hn::Neg(a.v[i]);
  return r;
}

// --- Sylvester stages whose distance is below a vector's width ---

#if HWY_TARGET != HWY_SCALAR
// Lane i gets lane i ^ kDistance.
template <size_t kDistance, typename T, class V>
HWY_INLINE V SwapLanes(V v) {
  constexpr size_t kBytes = kDistance * sizeof(T);
  if constexpr (kBytes == 32) {
    return hn::ConcatLowerUpper(Tag<T>(), v, v);
  } else if constexpr (kBytes == 16) {
    return hn::SwapAdjacentBlocks(v);
  } else if constexpr (kBytes == 4) {
    return hn::Shuffle2301(v);
  } else if constexpr (sizeof(T) == 4) {
    return hn::Shuffle1032(v);
  } else {
    return hn::Shuffle01(v);
  }
}

// Stages kDistance, 2 kDistance, ... inside one vector. In lane i with bit kDistance clear: a + b,
// else -b + a; the products with +-1 are exact, so it does not matter whether MulAdd is fused.
template <size_t kDistance, typename T, class V>
HWY_INLINE V InVectorStages(V v) {
  if constexpr (kDistance >= kVecLanes<T>) {
    return v;
  } else {
    const hn::RebindToUnsigned<Tag<T>> du;
    const auto bit = hn::And(hn::Iota(du, 0), hn::Set(du, kDistance));
    const auto sign = hn::ShiftLeft<8 * sizeof(T) - 1 - hwy::CeilLog2(kDistance)>(bit);
    const auto one = hn::Or(hn::BitCast(Tag<T>(), sign), hn::Set(Tag<T>(), T{1}));
    return InVectorStages<2 * kDistance, T>(hn::MulAdd(v, one, SwapLanes<kDistance, T>(v)));
  }
}
#endif

// --- Sylvester stages between vectors ---

// The stage of one distance, a multiple of a vector's lanes.
template <typename T>
void Radix2(T* HWY_RESTRICT x, size_t length, size_t distance) {
  const Tag<T> d;
  for (size_t base = 0; base < length; base += 2 * distance) {
    for (size_t i = base; i < base + distance; i += kVecLanes<T>) {
      const auto a = hn::LoadU(d, x + i), b = hn::LoadU(d, x + i + distance);
      hn::StoreU(hn::Add(a, b), d, x + i);
      hn::StoreU(hn::Sub(a, b), d, x + i + distance);
    }
  }
}

// The stages of `distance` and twice that, with half the loads and stores.
template <typename T>
void Radix4(T* HWY_RESTRICT x, size_t length, size_t distance) {
  const Tag<T> d;
  for (size_t base = 0; base < length; base += 4 * distance) {
    for (size_t i = base; i < base + distance; i += kVecLanes<T>) {
      T* const p0 = x + i;
      T* const p1 = p0 + distance;
      T* const p2 = p1 + distance;
      T* const p3 = p2 + distance;
      const auto a = hn::LoadU(d, p0), b = hn::LoadU(d, p1);
      const auto c = hn::LoadU(d, p2), e = hn::LoadU(d, p3);
      const auto sum0 = hn::Add(a, b), sum1 = hn::Add(c, e);
      const auto difference0 = hn::Sub(a, b), difference1 = hn::Sub(c, e);
      hn::StoreU(hn::Add(sum0, sum1), d, p0);
      hn::StoreU(hn::Add(difference0, difference1), d, p1);
      hn::StoreU(hn::Sub(sum0, sum1), d, p2);
      hn::StoreU(hn::Sub(difference0, difference1), d, p3);
    }
  }
}

// Stages distance, 2 distance, ..., length / 2. What does not fit in the first-level cache is
// halved twice and finished part by part, which changes the order of memory accesses only.
template <typename T>
void Stages(T* x, size_t length, size_t distance) {
  constexpr size_t kCached = 16384 / sizeof(T);
  const size_t quarter = length / 4;
  if (length > kCached && quarter > distance) {
    for (size_t q = 0; q < 4; ++q) Stages(x + q * quarter, quarter, distance);
    Radix4(x, length, quarter);
    return;
  }
  for (; 4 * distance <= length; distance *= 4) Radix4(x, length, distance);
  if (2 * distance <= length) Radix2(x, length, distance);
}

// Sylvester's transform of `length` elements.
template <typename T>
void SylvesterVector(T* x, size_t length) {
  if (length < kVecLanes<T>) {
    for (size_t distance = 1; distance < length; distance *= 2) {
      for (size_t i = 0; i < length; ++i) {
        if (i & distance) continue;
        const T a = x[i], b = x[i + distance];
        x[i] = a + b;
        x[i + distance] = a - b;
      }
    }
    return;
  }
#if HWY_TARGET != HWY_SCALAR
  const Tag<T> d;
  for (size_t i = 0; i < length; i += kVecLanes<T>) {
    hn::StoreU(InVectorStages<1, T>(hn::LoadU(d, x + i)), d, x + i);
  }
#endif
  Stages(x, length, kVecLanes<T>);
}

// --- Small matrices ---

// Four inputs have sixteen signed sums; an output is one of them per group of four inputs, so that
// a product with an m x m matrix costs m / 4 additions an output instead of m ("the four Russians'
// method").
constexpr size_t kSums = 16;
constexpr size_t kTables = 8;  // groups whose tables are kept at a time: 8 KiB

// sums[code] = (+-x0 +- x1) + (+-x2 +- x3), minus where the code's bit is set.
template <typename T>
HWY_INLINE void SignedSums(const T* x, size_t stride, T* HWY_RESTRICT sums) {
  const Chunk<T> x0 = LoadChunk(x), x1 = LoadChunk(x + stride);
  const Chunk<T> x2 = LoadChunk(x + 2 * stride), x3 = LoadChunk(x + 3 * stride);
  const Chunk<T> first[2] = {x0 + x1, x0 - x1};
  const Chunk<T> second[2] = {x2 + x3, x2 - x3};
  QUANTLOOM_UNROLL for (size_t i = 0; i < 2; ++i) {
    QUANTLOOM_UNROLL for (size_t j = 0; j < 2; ++j) {
      const Chunk<T> sum = first[i] + second[j], difference = first[i] - second[j];
      // The code of first[i] is 2 i; its complement in the lower bits is -first[i].
      const size_t code = 2 * i + 8 * j;
      StoreChunk(sum, sums + code * kChunk<T>);
      StoreChunk(-sum, sums + (code ^ 15) * kChunk<T>);
      StoreChunk(difference, sums + (code ^ 12) * kChunk<T>);
      StoreChunk(-difference, sums + (code ^ 3) * kChunk<T>);
    }
  }
}

// x <- F x for one chunk of columns; row i starts at x + i * stride.
template <typename T>
void MultiplyChunk(const SignCodes& factor, T* x, size_t stride) {
  alignas(64) T sums[kTables * kSums * kChunk<T>];
  alignas(64) T partial[kMaxSmallHadamardOrder * kChunk<T>];
  const size_t groups = factor.order / 4;
  for (size_t begin = 0; begin < groups; begin += kTables) {
    const size_t count = HWY_MIN(kTables, groups - begin);
    for (size_t g = 0; g < count; ++g) {
      SignedSums(x + 4 * (begin + g) * stride, stride, sums + g * kSums * kChunk<T>);
    }
    // All inputs have been read when the last tables exist: the result may go over them.
    const bool last = begin + count == groups;
    T* const out = last ? x : partial;
    const size_t out_stride = last ? stride : kChunk<T>;
    // Four outputs at a time: additions to one wait for each other.
    for (size_t i = 0; i < factor.order; i += 4) {
      const uint8_t* codes = factor.codes + i * groups + begin;
      Chunk<T> sum[4];
      QUANTLOOM_UNROLL for (size_t q = 0; q < 4; ++q) {
        sum[q] = LoadChunk(begin == 0 ? sums + codes[q * groups] * kChunk<T>
                                      : partial + (i + q) * kChunk<T>);
      }
      for (size_t g = begin == 0 ? 1 : 0; g < count; ++g) {
        const T* table = sums + g * kSums * kChunk<T>;
        QUANTLOOM_UNROLL for (size_t q = 0; q < 4; ++q) {
          sum[q] = sum[q] + LoadChunk(table + codes[q * groups + g] * kChunk<T>);
        }
      }
      QUANTLOOM_UNROLL for (size_t q = 0; q < 4; ++q) {
        StoreChunk(sum[q], out + (i + q) * out_stride);
      }
    }
  }
}

// x <- F x for x [order, cols].
template <typename T>
void MultiplySmall(const SignCodes& factor, T* x, size_t cols) {
  size_t c = 0;
  for (; c + kChunk<T> <= cols; c += kChunk<T>) MultiplyChunk(factor, x + c, cols);
  if (c == cols) return;
  alignas(64) T padded[kMaxSmallHadamardOrder * kChunk<T>] = {};
  for (size_t i = 0; i < factor.order; ++i) {
    for (size_t l = 0; l < cols - c; ++l) padded[i * kChunk<T> + l] = x[i * cols + c + l];
  }
  MultiplyChunk(factor, padded, kChunk<T>);
  for (size_t i = 0; i < factor.order; ++i) {
    for (size_t l = 0; l < cols - c; ++l) x[i * cols + c + l] = padded[i * kChunk<T> + l];
  }
}

// --- The whole ---

// Multiplies row i of x [order, kWidth] with signs[i] (if any) and scale; the former is exact.
template <size_t kWidth, typename T>
void ScaleRows(T* HWY_RESTRICT x, size_t order, const float* HWY_RESTRICT signs, T scale) {
  if (signs == nullptr) {
    for (size_t i = 0; i < order * kWidth; ++i) x[i] *= scale;
    return;
  }
  for (size_t i = 0; i < order; ++i) {
    const T factor = static_cast<T>(signs[i]) * scale;
    for (size_t c = 0; c < kWidth; ++c) x[i * kWidth + c] *= factor;
  }
}

template <size_t kWidth, typename T>
void Transform(const HadamardBlock& block, T* x) {
  if (block.before != nullptr) ScaleRows<kWidth>(x, block.order, block.before, T{1});
  const size_t length = block.power * kWidth;
  for (size_t i = 0; i < block.order * kWidth; i += length) {
    if constexpr (kWidth == 1) {
      SylvesterVector(x + i, length);
    } else {
      Stages(x + i, length, kWidth);
    }
  }
  size_t inner = length;
  for (size_t f = block.num_factors; f-- > 0;) {
    const size_t size = block.factors[f].order * inner;
    for (size_t i = 0; i < block.order * kWidth; i += size) {
      MultiplySmall(block.factors[f], x + i, inner);
    }
    inner = size;
  }
  ScaleRows<kWidth>(x, block.order, block.after, static_cast<T>(block.scale));
}

void VectorF32(const HadamardBlock& block, float* x) { Transform<1>(block, x); }
void VectorF64(const HadamardBlock& block, double* x) { Transform<1>(block, x); }
void PanelF32(const HadamardBlock& block, float* x) { Transform<kPanelColumns<float>>(block, x); }
void PanelF64(const HadamardBlock& block, double* x) { Transform<kPanelColumns<double>>(block, x); }

}  // namespace HWY_NAMESPACE
}  // namespace quantloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom {

HWY_EXPORT(VectorF32);
HWY_EXPORT(VectorF64);
HWY_EXPORT(PanelF32);
HWY_EXPORT(PanelF64);

void TransformVector(const HadamardBlock& block, float* x) {
  HWY_DYNAMIC_DISPATCH(VectorF32)(block, x);
}
void TransformVector(const HadamardBlock& block, double* x) {
  HWY_DYNAMIC_DISPATCH(VectorF64)(block, x);
}
void TransformPanel(const HadamardBlock& block, float* x) {
  HWY_DYNAMIC_DISPATCH(PanelF32)(block, x);
}
void TransformPanel(const HadamardBlock& block, double* x) {
  HWY_DYNAMIC_DISPATCH(PanelF64)(block, x);
}

}  // namespace quantloom
#endif  // HWY_ONCE
