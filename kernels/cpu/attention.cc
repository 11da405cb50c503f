// Attention of one query head over cached keys and values: online softmax (Milakov and Gimelshein,
// arXiv 1805.02867) in chunks of a fixed number of positions.
#include <cstring>

#include "kernels/cpu/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

// Positions whose scores are taken against one maximum. Chunks start at multiples of it, so which
// positions share a maximum does not depend on the length.
constexpr size_t kChunk = 64;
// Lane sets of the value accumulator that are held in registers at once: 64 of a head's elements.
constexpr size_t kHeldLanes = 4;

// Elements [i, i + 16) of a row of n, zeros past its end.
template <typename E>
HWY_INLINE Lanes LoadRow(const E* row, size_t i, size_t n) {
  return i + kLanes <= n ? LoadLanes(row + i) : LoadLanesPartial(row + i, n - i);
}

// Where the keys or the values of one head lie.
template <typename E>
struct CacheView {
  const std::byte* const* blocks;
  size_t block_tokens;
  size_t token_stride;  // bytes

  const E* Row(size_t position) const {
    return reinterpret_cast<const E*>(blocks[position / block_tokens] +
                                      position % block_tokens * token_stride);
  }
};

// scores[j] = scale * q . k[first + j] for j < count, four positions at a time.
template <typename E>
void Scores(const float* query, const CacheView<E>& keys, size_t first, size_t count,
            size_t head_dim, float scale, float* scores) {
  for (size_t j = 0; j < count; j += 4) {
    const E* rows[4];
    // Past the end the last position stands in; its score is not used.
    for (size_t i = 0; i < 4; ++i) rows[i] = keys.Row(first + HWY_MIN(j + i, count - 1));
    Lanes sums[4] = {Splat(0.0f), Splat(0.0f), Splat(0.0f), Splat(0.0f)};
    for (size_t d = 0; d < head_dim; d += kLanes) {
      const Lanes q = LoadRow(query, d, head_dim);
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) sums[i] = Fma(q, LoadRow(rows[i], d, head_dim), sums[i]);
    }
    TreeSum4(sums[0], sums[1], sums[2], sums[3], scores + j);
  }
  for (size_t j = 0; j < count; ++j) scores[j] *= scale;
}

// out[d] = out[d] * correction + sum_j weights[j] v[first + j][d], positions in ascending order,
// for the S lane sets from d on. Elements past head_dim stay zero in registers and are not stored.
template <size_t S, typename E>
HWY_INLINE void AccumulateValues(const float* weights, const CacheView<E>& values, size_t first,
                                 size_t count, size_t d, size_t head_dim, float correction,
                                 float* out) {
  Lanes sums[S];
#pragma GCC unroll 4
  for (size_t s = 0; s < S; ++s) sums[s] = Mul(LoadLanes(out + d + s * kLanes), Splat(correction));
  for (size_t j = 0; j < count; ++j) {
    const E* row = values.Row(first + j);
    const Lanes weight = Splat(weights[j]);
#pragma GCC unroll 4
    for (size_t s = 0; s < S; ++s) {
      sums[s] = Fma(weight, LoadRow(row, d + s * kLanes, head_dim), sums[s]);
    }
  }
#pragma GCC unroll 4
  for (size_t s = 0; s < S; ++s) StoreLanes(sums[s], out + d + s * kLanes);
}

// weights[j] = exp(scores[j] - max) for the 64 entries; returns their sum added to `sum`'s lanes.
HWY_INLINE Lanes Weights(float* scores, float max, Lanes sum) {
  const Lanes negative_max = Splat(-max);
  for (size_t j = 0; j < kChunk; j += kLanes) {
    const Lanes weights = ExpLanes(Add(LoadLanes(scores + j), negative_max));
    StoreLanes(weights, scores + j);
    sum = Add(sum, weights);
  }
  return sum;
}

// `state` holds head_dim floats rounded up to 16: the unnormalized output.
template <typename E>
void Attend(const float* query, const CacheView<E>& keys, const CacheView<E>& values, size_t length,
            size_t head_dim, float scale, float* state, float* out) {
  float max = -HUGE_VALF;
  Lanes sum = Splat(0.0f);
  for (size_t d = 0; d < head_dim; d += kLanes) StoreLanes(Splat(0.0f), state + d);
  for (size_t first = 0; first < length; first += kChunk) {
    const size_t count = HWY_MIN(kChunk, length - first);
    HWY_ALIGN float scores[kChunk];
    Scores(query, keys, first, count, head_dim, scale, scores);
    for (size_t j = count; j < kChunk; ++j) scores[j] = -HUGE_VALF;
    float chunk_max = max;
    for (size_t j = 0; j < count; ++j) chunk_max = scores[j] > chunk_max ? scores[j] : chunk_max;
    // All scores so far -infinity or NaN: any finite reference keeps the arithmetic defined.
    const float reference = chunk_max == -HUGE_VALF ? 0.0f : chunk_max;
    const float correction = hn::GetLane(ExpVec(LaneTag(), hn::Set(LaneTag(), max - reference)));
    max = chunk_max;
    sum = Weights(scores, reference, Mul(sum, Splat(correction)));
    size_t d = 0;
    for (; d + kHeldLanes * kLanes <= head_dim; d += kHeldLanes * kLanes) {
      AccumulateValues<kHeldLanes>(scores, values, first, count, d, head_dim, correction, state);
    }
    for (; d < head_dim; d += kLanes) {
      AccumulateValues<1>(scores, values, first, count, d, head_dim, correction, state);
    }
  }
  const float inverse = 1.0f / TreeSum(sum);
  for (size_t i = 0; i < head_dim; ++i) out[i] = state[i] * inverse;
}

void AttendTyped(const float* query, const std::byte* const* keys, const std::byte* const* values,
                 size_t block_tokens, size_t token_stride, KvType type, size_t length,
                 size_t head_dim, float scale, float* state, float* out) {
  if (type == KvType::kF16) {
    Attend<HalfBits>(query, {keys, block_tokens, token_stride},
                     {values, block_tokens, token_stride}, length, head_dim, scale, state, out);
  } else {
    Attend<float>(query, {keys, block_tokens, token_stride}, {values, block_tokens, token_stride},
                  length, head_dim, scale, state, out);
  }
}

void StoreHalves(const float* values, size_t n, uint16_t* out) {
  size_t i = 0;
#if !QUANTLOOM_EMULATED
  const hn::Rebind<hwy::float16_t, LaneTag> d16;
  for (; i + kVecLanes <= n; i += kVecLanes) {
    hn::StoreU(hn::DemoteTo(d16, hn::LoadU(LaneTag(), values + i)), d16,
               reinterpret_cast<hwy::float16_t*>(out + i));
  }
#endif
  for (; i < n; ++i) out[i] = FloatToHalf(values[i]);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/cpu/aligned.h"

namespace quantloom::cpu {

HWY_EXPORT(AttendTyped);
HWY_EXPORT(StoreHalves);

void StoreKv(const float* values, size_t n, KvType type, void* out) {
  if (type == KvType::kF32) {
    memcpy(out, values, n * sizeof(float));
  } else {
    HWY_DYNAMIC_DISPATCH(StoreHalves)(values, n, static_cast<uint16_t*>(out));
  }
}

void AttendHead(const float* query, absl::Span<const std::byte* const> keys,
                absl::Span<const std::byte* const> values, size_t block_tokens, size_t token_stride,
                KvType type, size_t length, size_t head_dim, float scale, float* out) {
  thread_local AlignedVector<float> state;
  state.resize((head_dim + 15) / 16 * 16);
  HWY_DYNAMIC_DISPATCH(AttendTyped)
  (query, keys.data(), values.data(), block_tokens, token_stride, type, length, head_dim, scale,
   state.data(), out);
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
