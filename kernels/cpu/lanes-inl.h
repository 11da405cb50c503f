// The 16 virtual fp32 lanes that every reduction of the CPU kernels runs on: one 512-bit vector,
// two of 256 bits, four of 128, or sixteen scalars. Lane l means the same on every target, products
// are fused (std::fma where a target emulates vectors) and the final sum is one fixed tree, so a
// result has the same bits whatever the machine.
//
// Included once per SIMD target (see hwy/foreach_target.h). Functions here must not instantiate
// standard library templates: those would be compiled for the target and could be the copies that
// the linker keeps for everyone.
#if defined(QUANTLOOM_KERNELS_CPU_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTLOOM_KERNELS_CPU_LANES_INL_H_
#undef QUANTLOOM_KERNELS_CPU_LANES_INL_H_
#else
#define QUANTLOOM_KERNELS_CPU_LANES_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "core/base/float16.h"
#include "core/base/fma-inl.h"
#include "hwy/highway.h"

// Highway 1.0 enables AVX-VNNI (its VEX forms) but not AVX512_VNNI for AVX3_DL, though that is what
// it tests the CPU for. The kernels use the EVEX forms only.
#undef QUANTLOOM_BEFORE_NAMESPACE
#if HWY_TARGET == HWY_AVX3_DL
#define QUANTLOOM_BEFORE_NAMESPACE()                \
  HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni") \
  static_assert(true, "requires semicolon")
#else
#define QUANTLOOM_BEFORE_NAMESPACE() HWY_BEFORE_NAMESPACE()
#endif

HWY_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using LaneTag = hn::CappedTag<float, 16>;
using LaneVec = hn::Vec<LaneTag>;
constexpr size_t kLanes = 16;
constexpr size_t kVecLanes = hn::MaxLanes(LaneTag());
constexpr size_t kVecs = kLanes / kVecLanes;  // hardware vectors that make the 16 lanes

using ::quantloom::HWY_NAMESPACE::Fma;

// Sixteen fp32 lanes.
struct Lanes {
  LaneVec v[kVecs];
};

#define QUANTLOOM_EACH_VEC _Pragma("GCC unroll 16") for (size_t i = 0; i < kVecs; ++i)

HWY_INLINE Lanes Splat(float value) {
  Lanes r;
  QUANTLOOM_EACH_VEC r.v[i] = hn::Set(LaneTag(), value);
  return r;
}
HWY_INLINE Lanes LoadLanes(const float* from) {
  Lanes r;
  QUANTLOOM_EACH_VEC r.v[i] = hn::LoadU(LaneTag(), from + i * kVecLanes);
  return r;
}
HWY_INLINE void StoreLanes(const Lanes& a, float* to) {
  QUANTLOOM_EACH_VEC hn::StoreU(a.v[i], LaneTag(), to + i * kVecLanes);
}
HWY_INLINE Lanes Fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  Lanes r;
  QUANTLOOM_EACH_VEC r.v[i] = Fma(a.v[i], b.v[i], c.v[i]);
  return r;
}
HWY_INLINE Lanes Mul(const Lanes& a, const Lanes& b) {
  Lanes r;
  QUANTLOOM_EACH_VEC r.v[i] = hn::Mul(a.v[i], b.v[i]);
  return r;
}
HWY_INLINE Lanes Add(const Lanes& a, const Lanes& b) {
  Lanes r;
  QUANTLOOM_EACH_VEC r.v[i] = hn::Add(a.v[i], b.v[i]);
  return r;
}

template <size_t R, size_t T>
HWY_INLINE void ZeroTile(Lanes (&sums)[R][T]) {
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (size_t t = 0; t < T; ++t) sums[r][t] = Splat(0.0f);
  }
}

// Stored element types as tags for LoadLanes: 16-bit floats are passed as their bits.
struct HalfBits {
  uint16_t bits;
};
struct BFloat16Bits {
  uint16_t bits;
};

HWY_INLINE Lanes LoadLanes(const HalfBits* from) {
  Lanes r;
#if QUANTLOOM_EMULATED
  HWY_ALIGN float values[kLanes];
  for (size_t i = 0; i < kLanes; ++i) values[i] = HalfToFloat(from[i].bits);
  r = LoadLanes(values);
#else
  const hn::Rebind<hwy::float16_t, LaneTag> d16;
  const auto* halves = reinterpret_cast<const hwy::float16_t*>(from);
  QUANTLOOM_EACH_VEC r.v[i] = hn::PromoteTo(LaneTag(), hn::LoadU(d16, halves + i * kVecLanes));
#endif
  return r;
}

HWY_INLINE Lanes LoadLanes(const BFloat16Bits* from) {
  // The value is the upper half of the fp32 pattern.
  const hn::RebindToUnsigned<LaneTag> du;
  const hn::Rebind<uint16_t, LaneTag> d16;
  const auto* bits = reinterpret_cast<const uint16_t*>(from);
  Lanes r;
  QUANTLOOM_EACH_VEC {
    const auto wide = hn::PromoteTo(du, hn::LoadU(d16, bits + i * kVecLanes));
    r.v[i] = hn::BitCast(LaneTag(), hn::ShiftLeft<16>(wide));
  }
  return r;
}

// The first n < 16 elements, zeros behind them; reads no further.
template <typename T>
HWY_INLINE Lanes LoadLanesPartial(const T* from, size_t n) {
  alignas(64) T padded[kLanes] = {};
  for (size_t i = 0; i < n; ++i) padded[i] = from[i];
  return LoadLanes(padded);
}

// The fixed tree: lane l is added to lane l + 8, then l + 4, l + 2, l + 1.
HWY_INLINE float TreeSum(const Lanes& a) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  const __m256 s8 =
      _mm256_add_ps(_mm512_castps512_ps256(a.v[0].raw), _mm512_extractf32x8_ps(a.v[0].raw, 1));
#elif HWY_TARGET == HWY_AVX2
  const __m256 s8 = _mm256_add_ps(a.v[0].raw, a.v[1].raw);
#endif
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX2
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
#else
  HWY_ALIGN float s[kLanes];
  StoreLanes(a, s);
  for (size_t width = kLanes / 2; width > 0; width /= 2) {
    for (size_t l = 0; l < width; ++l) s[l] += s[l + width];
  }
  return s[0];
#endif
}

// TreeSum of four at once: the shuffles of one serve all. out[i] = TreeSum(i-th argument).
HWY_INLINE void TreeSum4(const Lanes& a, const Lanes& b, const Lanes& c, const Lanes& d,
                         float* out) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  // 12 shuffles and additions of 512 bits, against 4 x 8 of narrowing ones. 128-bit parts are named
  // 0..3: x01 = parts 0 and 1 of x.
  const auto fold8 = [](__m512 x, __m512 y) HWY_ATTR {  // (x01 + x23, y01 + y23)
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xEE));
  };
  const __m512 ab = fold8(a.v[0].raw, b.v[0].raw);
  const __m512 cd = fold8(c.v[0].raw, d.v[0].raw);
  // Parts: a, b, c, d, four lanes each.
  const __m512 s4 =
      _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
  const __m512 s2 = _mm512_add_ps(s4, _mm512_permute_ps(s4, 0x4E));
  const __m512 s1 = _mm512_add_ps(s2, _mm512_permute_ps(s2, 0xB1));
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(
                         _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), s1)));
#else
  out[0] = TreeSum(a);
  out[1] = TreeSum(b);
  out[2] = TreeSum(c);
  out[3] = TreeSum(d);
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
