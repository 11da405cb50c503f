// The integer form of a product: int8 weights times int8 activations, exact in int32 within a block
// of columns, then 16 fp32 lanes over the groups (see linear.h).
//
// A step is 64 columns: 64 weight bytes and 64 activation bytes, multiplied and added in fours into
// 16 int32 lanes. What one step of 64 products costs:
//   AVX3_DL  1: vpdpbusd. Its weight operand is unsigned, so weights carry a bias of 128; the
//               accumulators start from -128 * (sum of the block's activations).
//   AVX3     6: |w|, sign of w to a (mask, masked negate), vpmaddubsw, vpmaddwd, add
//   AVX2     2 x 5: |w|, vpsignb, vpmaddubsw, vpmaddwd, add
// vpmaddubsw adds two products in int16: 2 * 127 * 128 = 32 512 does not saturate, because
// activations lie in [-127, 127].
#if defined(QUANTLOOM_KERNELS_CPU_BYTE_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTLOOM_KERNELS_CPU_BYTE_PRODUCT_INL_H_
#undef QUANTLOOM_KERNELS_CPU_BYTE_PRODUCT_INL_H_
#else
#define QUANTLOOM_KERNELS_CPU_BYTE_PRODUCT_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/cpu/lanes-inl.h"
#include "kernels/cpu/linear.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

#undef QUANTLOOM_X86_512
#undef QUANTLOOM_X86_256
#define QUANTLOOM_X86_512 (HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL)
#define QUANTLOOM_X86_256 (HWY_TARGET == HWY_AVX2)

constexpr size_t kStep = Activations::kStepCols;
constexpr size_t kGroupSteps = Activations::kGroupSteps;

// The 64 bytes of a step, and the int32 sums of its 16 quads.
#if QUANTLOOM_X86_512
using Bytes64 = __m512i;
using Sums16 = __m512i;
#elif QUANTLOOM_X86_256
struct Bytes64 {
  __m256i lo, hi;  // columns 0..31, 32..63
};
using Sums16 = Bytes64;
#else
struct Bytes64 {
  int8_t b[kStep];
};
struct Sums16 {
  int32_t s[kLanes];
};
#endif

HWY_INLINE Bytes64 LoadBytes(const void* from) {
#if QUANTLOOM_X86_512
  return _mm512_loadu_si512(from);
#elif QUANTLOOM_X86_256
  const auto* p = static_cast<const __m256i*>(from);
  return {_mm256_loadu_si256(p), _mm256_loadu_si256(p + 1)};
#else
  Bytes64 r;
  hwy::CopyBytes<kStep>(from, &r);
  return r;
#endif
}

HWY_INLINE void StoreBytes(const Bytes64& bytes, void* to) {
#if QUANTLOOM_X86_512
  _mm512_storeu_si512(to, bytes);
#elif QUANTLOOM_X86_256
  auto* p = static_cast<__m256i*>(to);
  _mm256_storeu_si256(p, bytes.lo);
  _mm256_storeu_si256(p + 1, bytes.hi);
#else
  hwy::CopyBytes<kStep>(&bytes, to);
#endif
}

// int8 weights in the form that Dot takes: on AVX3_DL unsigned with a bias of 128, elsewhere as
// they are. Flipping the sign bit adds 128 modulo 256.
HWY_INLINE Bytes64 ToOperand(Bytes64 weights) {
#if HWY_TARGET == HWY_AVX3_DL
  return _mm512_xor_si512(weights, _mm512_set1_epi8(static_cast<char>(0x80)));
#else
  return weights;
#endif
}

HWY_INLINE Sums16 ZeroSums() {
#if QUANTLOOM_X86_512
  return _mm512_setzero_si512();
#elif QUANTLOOM_X86_256
  return {_mm256_setzero_si256(), _mm256_setzero_si256()};
#else
  return {};
#endif
}

HWY_INLINE void StoreSums(const Sums16& sums, int32_t* to) {
#if QUANTLOOM_X86_512 || QUANTLOOM_X86_256
  StoreBytes(sums, to);
#else
  hwy::CopyBytes<sizeof(sums.s)>(sums.s, to);
#endif
}

HWY_INLINE Sums16 LoadSums(const int32_t* from) {
#if QUANTLOOM_X86_512 || QUANTLOOM_X86_256
  return LoadBytes(from);
#else
  Sums16 r;
  hwy::CopyBytes<sizeof(r)>(from, &r);
  return r;
#endif
}

// What a block's accumulators start from.
HWY_INLINE Sums16 StartSums(const int32_t* biases) {
#if HWY_TARGET == HWY_AVX3_DL
  return LoadSums(biases);
#else
  (void)biases;
  return ZeroSums();
#endif
}

#if QUANTLOOM_X86_256
HWY_INLINE __m256i Dot256(__m256i sums, __m256i w, __m256i a) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif

// sums + the 16 quads' products of weights `w` (operand form) and activations `a`.
HWY_INLINE Sums16 Dot(const Sums16& sums, const Bytes64& w, const Bytes64& a) {
#if HWY_TARGET == HWY_AVX3_DL
  return _mm512_dpbusd_epi32(sums, w, a);
#elif QUANTLOOM_X86_512
  const __m512i signed_a =
      _mm512_mask_sub_epi8(a, _mm512_movepi8_mask(w), _mm512_setzero_si512(), a);
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(w), signed_a);
  return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#elif QUANTLOOM_X86_256
  return {Dot256(sums.lo, w.lo, a.lo), Dot256(sums.hi, w.hi, a.hi)};
#else
  Sums16 r = sums;
  for (size_t l = 0; l < kLanes; ++l) {
    for (size_t j = 4 * l; j < 4 * l + 4; ++j) {
      r.s[l] += static_cast<int32_t>(w.b[j]) * static_cast<int32_t>(a.b[j]);
    }
  }
  return r;
#endif
}

// sums + the sums of activations' quads: a product with weights of 1.
HWY_INLINE Sums16 AddQuads(const Sums16& sums, const Bytes64& a) {
#if HWY_TARGET == HWY_AVX3_DL
  return _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), a);
#elif QUANTLOOM_X86_512
  return Dot(sums, _mm512_set1_epi8(1), a);
#elif QUANTLOOM_X86_256
  return Dot(sums, {_mm256_set1_epi8(1), _mm256_set1_epi8(1)}, a);
#else
  Sums16 r = sums;
  for (size_t c = 0; c < kStep; ++c) r.s[c / 4] += a.b[c];
  return r;
#endif
}

// Exact below 2^24, as block sums of int8 weights are; larger ones are rounded to nearest even.
HWY_INLINE Lanes ToFloat(const Sums16& sums) {
#if QUANTLOOM_X86_512
  return {{LaneVec{_mm512_cvtepi32_ps(sums)}}};
#elif QUANTLOOM_X86_256
  return {{LaneVec{_mm256_cvtepi32_ps(sums.lo)}, LaneVec{_mm256_cvtepi32_ps(sums.hi)}}};
#else
  HWY_ALIGN float values[kLanes];
  for (size_t l = 0; l < kLanes; ++l) values[l] = static_cast<float>(sums.s[l]);
  return LoadLanes(values);
#endif
}

// Tells the compiler that a loaded vector is worth its register: without, gcc loads it again as the
// memory operand of every product that uses it, and 512-bit loads, one a cycle, become the bound.
HWY_INLINE void KeepInRegister(Bytes64& bytes) {
#if QUANTLOOM_X86_512
  __asm__("" : "+v"(bytes));
#else
  (void)bytes;
#endif
}

// Sources of a product's weights. From(step) is where a step begins; of that, Step(s, r) is the
// s-th step on of row r in the form that Dot takes.

// R rows in operand form that were decoded to memory because several tokens use them, from step
// `first` on: [steps, R, 64], one stream with one pointer.
template <size_t R>
struct DecodedRows {
  struct StepRows {
    const uint8_t* bytes;
    HWY_INLINE Bytes64 Step(size_t s, size_t r) const {
      return LoadBytes(bytes + (s * R + r) * kStep);
    }
  };
  const uint8_t* bytes;
  size_t first;
  size_t tile_bytes;  // from one tile of R rows to the next

  // The R rows from `row` on, a multiple of R.
  HWY_INLINE DecodedRows Tile(size_t row) const {
    return {bytes + row / R * tile_bytes, first, tile_bytes};
  }
  HWY_INLINE StepRows From(size_t step) const { return {bytes + (step - first) * R * kStep}; }
};

// Rows `stride` bytes apart, in operand form or as int8 weights.
template <bool kOperands>
struct StoredRows {
  const uint8_t* bytes;
  size_t stride;
  // The rows from `row` on.
  HWY_INLINE StoredRows Tile(size_t row) const { return {bytes + row * stride, stride}; }
  HWY_INLINE StoredRows From(size_t step) const { return {bytes + step * kStep, stride}; }
  HWY_INLINE Bytes64 Step(size_t s, size_t r) const {
    const Bytes64 stored = LoadBytes(bytes + r * stride + s * kStep);
    return kOperands ? stored : ToOperand(stored);
  }
};
using OperandRows = StoredRows<true>;
using ByteRows = StoredRows<false>;

// T rows of codes in groups of kSteps steps.
template <size_t T, size_t kSteps = kGroupSteps>
struct TokenTile {
  const Activations::Group<kSteps>* rows[T];

  HWY_INLINE TokenTile(const Activations& x, size_t first) {
#pragma GCC unroll 8
    for (size_t t = 0; t < T; ++t) rows[t] = x.code_row<kSteps>(first + t);
  }
  HWY_INLINE Bytes64 Step(size_t t, size_t group, size_t step_of_group) const {
    return LoadBytes(rows[t][group].codes + step_of_group * kStep);
  }
};

// What the accumulators of a group start from.
template <size_t R, size_t T, size_t kSteps>
HWY_INLINE void StartBlocks(const TokenTile<T, kSteps>& x, size_t group, Sums16 (&blocks)[R][T]) {
#pragma GCC unroll 8
  for (size_t t = 0; t < T; ++t) {
    const Sums16 start = StartSums(x.rows[t][group].biases);
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) blocks[r][t] = start;
  }
}

// sums[r][t] += scale * (a group's block sums), lane by lane.
template <size_t R, size_t T, size_t kSteps>
HWY_INLINE void AddBlocks(const TokenTile<T, kSteps>& x, size_t group, const Sums16 (&blocks)[R][T],
                          Lanes (&sums)[R][T]) {
#pragma GCC unroll 8
  for (size_t t = 0; t < T; ++t) {
    const Lanes scale = LoadLanes(x.rows[t][group].scales);
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) sums[r][t] = Fma(ToFloat(blocks[r][t]), scale, sums[r][t]);
  }
}

// One group of `steps` steps.
template <size_t R, size_t T, class Source, size_t kSteps>
HWY_INLINE void ByteGroup(const Source& rows, const TokenTile<T, kSteps>& x, size_t group,
                          size_t steps, Lanes (&sums)[R][T]) {
  Sums16 blocks[R][T];
  StartBlocks(x, group, blocks);
  const auto weights_of = rows.From(group * kSteps);
  const auto step_body = [&](size_t s) HWY_ATTR {
    Bytes64 tokens[T];
#pragma GCC unroll 8
    for (size_t t = 0; t < T; ++t) {
      tokens[t] = x.Step(t, group, s);
      if constexpr (R > 1) KeepInRegister(tokens[t]);
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) {
      Bytes64 weights = weights_of.Step(s, r);
      if constexpr (T > 1) KeepInRegister(weights);
#pragma GCC unroll 8
      for (size_t t = 0; t < T; ++t) blocks[r][t] = Dot(blocks[r][t], weights, tokens[t]);
    }
  };
  if (steps == kSteps) {
#pragma GCC unroll 8
    for (size_t s = 0; s < kSteps; ++s) step_body(s);
  } else {
    for (size_t s = 0; s < steps; ++s) step_body(s);
  }
  AddBlocks(x, group, blocks, sums);
}

// The groups from first_group on of rows of `steps` steps.
template <size_t R, size_t T, class Source, size_t kSteps>
HWY_INLINE void ByteGroups(const Source& rows, const TokenTile<T, kSteps>& x, size_t first_group,
                           size_t steps, Lanes (&sums)[R][T]) {
  const size_t full = steps / kSteps;
  for (size_t group = first_group; group < full; ++group) {
    ByteGroup<R, T>(rows, x, group, kSteps, sums);
  }
  if (steps % kSteps != 0) ByteGroup<R, T>(rows, x, full, steps % kSteps, sums);
}

// Adds the lanes of a tile's sums.
template <size_t R, size_t T>
HWY_INLINE void ReduceTile(const Lanes (&sums)[R][T], float (&out)[T][R]) {
#pragma GCC unroll 8
  for (size_t t = 0; t < T; ++t) {
    if constexpr (R == 4) {
      TreeSum4(sums[0][t], sums[1][t], sums[2][t], sums[3][t], out[t]);
    } else {
#pragma GCC unroll 8
      for (size_t r = 0; r < R; ++r) out[t][r] = TreeSum(sums[r][t]);
    }
  }
}

// The steps of rows whose products one call adds.
struct ColumnBlock {
  size_t first, end;  // `first` at the begin of a group
};

// Sums of a tile between blocks of columns, [R, T, 16 lanes].
template <size_t R, size_t T>
HWY_INLINE void LoadTile(const float* from, Lanes (&sums)[R][T]) {
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (size_t t = 0; t < T; ++t) sums[r][t] = LoadLanes(from + (r * T + t) * kLanes);
  }
}
template <size_t R, size_t T>
HWY_INLINE void KeepTile(const Lanes (&sums)[R][T], float* to) {
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (size_t t = 0; t < T; ++t) StoreLanes(sums[r][t], to + (r * T + t) * kLanes);
  }
}

// out[t][r] = sum over columns of activation scale * (weight * activation), R rows x T tokens.
template <size_t R, size_t T, class Source>
HWY_INLINE void ByteTile(const Source& rows, const TokenTile<T>& x, size_t steps,
                         float (&out)[T][R]) {
  Lanes sums[R][T];
  ZeroTile(sums);
  ByteGroups<R, T>(rows, x, 0, steps, sums);
  ReduceTile<R, T>(sums, out);
}

// Tile shapes. One token: rows share the activations' loads and hide each other's latencies; each
// row keeps its tables, block sums and lanes in registers. Several tokens: 12 block sums, as many
// lanes, an activation of each token and a weight are 28 vectors of 512 bits; a fourth token would
// send the lanes to memory between groups (a tenth slower).
#if QUANTLOOM_X86_512
constexpr size_t kByteRows = 4, kByteTokens = 3;
#else
constexpr size_t kByteRows = 2, kByteTokens = 2;
#endif

// tile.operator()<T>(t) for tiles of T tokens from t on that cover [0, tokens).
template <class Tile>
HWY_INLINE void ForTokenTiles(size_t tokens, const Tile& tile) {
  size_t t = 0;
  for (; t + kByteTokens <= tokens; t += kByteTokens) tile.template operator()<kByteTokens>(t);
  if (kByteTokens > 2 && t + 2 <= tokens) {
    tile.template operator()<2>(t);
    t += 2;
  }
  for (; t < tokens; ++t) tile.template operator()<1>(t);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
