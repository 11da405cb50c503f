// Attention over one head's cached keys and values: online softmax (Milakov and Gimelshein,
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

// Elements [i, i + 16) of a row of n, zeros past its end. kWhole: n is a multiple of 16.
template <bool kWhole, typename E>
HWY_INLINE Lanes LoadRow(const E* row, size_t i, size_t n) {
  if constexpr (kWhole) return LoadLanes(row + i);
  return i + kLanes <= n ? LoadLanes(row + i) : LoadLanesPartial(row + i, n - i);
}

// Where the keys or the values of one head lie.
struct CacheView {
  const std::byte* const* blocks;
  size_t block_tokens;
  size_t token_stride;  // bytes
};

// rows[j] = position first + j for j < kChunk; past `count` the last position stands in.
template <typename E>
HWY_INLINE void FindRows(const CacheView& cache, size_t first, size_t count, const E** rows) {
  size_t block = first / cache.block_tokens, inside = first % cache.block_tokens;
  for (size_t j = 0; j < count; ++j) {
    rows[j] = reinterpret_cast<const E*>(cache.blocks[block] + inside * cache.token_stride);
    if (++inside == cache.block_tokens) {
      inside = 0;
      ++block;
    }
  }
  for (size_t j = count; j < kChunk; ++j) rows[j] = rows[count - 1];
}

// scores[j] = scale * q . k[j] for j < count, four positions at a time.
template <bool kWhole, typename E>
HWY_INLINE void Scores(const float* query, const E* const* keys, size_t count, size_t head_dim,
                       float scale, float* scores) {
  for (size_t j = 0; j < count; j += 4) {
    Lanes sums[4] = {Splat(0.0f), Splat(0.0f), Splat(0.0f), Splat(0.0f)};
    for (size_t d = 0; d < head_dim; d += kLanes) {
      const Lanes q = LoadRow<kWhole>(query, d, head_dim);
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) {
        sums[i] = Fma(q, LoadRow<kWhole>(keys[j + i], d, head_dim), sums[i]);
      }
    }
    TreeSum4(sums[0], sums[1], sums[2], sums[3], scores + j);
  }
  for (size_t j = 0; j < count; ++j) scores[j] *= scale;
}

// out[d] = out[d] * correction + sum_j weights[j] v[j][d], positions in ascending order, for the S
// lane sets from d on. Elements past head_dim stay zero.
template <bool kWhole, size_t S, typename E>
HWY_INLINE void AccumulateValues(const float* weights, const E* const* values, size_t count,
                                 size_t d, size_t head_dim, float correction, float* out) {
  Lanes sums[S];
#pragma GCC unroll 4
  for (size_t s = 0; s < S; ++s) sums[s] = Mul(LoadLanes(out + d + s * kLanes), Splat(correction));
  for (size_t j = 0; j < count; ++j) {
    const Lanes weight = Splat(weights[j]);
#pragma GCC unroll 4
    for (size_t s = 0; s < S; ++s) {
      sums[s] = Fma(weight, LoadRow<kWhole>(values[j], d + s * kLanes, head_dim), sums[s]);
    }
  }
#pragma GCC unroll 4
  for (size_t s = 0; s < S; ++s) StoreLanes(sums[s], out + d + s * kLanes);
}

// The largest of the scores and `max`; NaN never is.
HWY_INLINE float MaxScore(const float* scores, float max) {
  Lanes largest = Splat(max);
  for (size_t j = 0; j < kChunk; j += kLanes) {
    const Lanes score = LoadLanes(scores + j);
    QUANTLOOM_EACH_VEC {
      largest.v[i] = hn::IfThenElse(hn::Gt(score.v[i], largest.v[i]), score.v[i], largest.v[i]);
    }
  }
  HWY_ALIGN float lanes[kLanes];
  StoreLanes(largest, lanes);
  for (size_t l = 1; l < kLanes; ++l) lanes[0] = HWY_MAX(lanes[0], lanes[l]);
  return lanes[0];
}

// scores[j] becomes exp(scores[j] - max) for the 64 entries; returns their sum added to `sum`.
HWY_INLINE Lanes Weights(float* scores, float max, Lanes sum) {
  const Lanes negative_max = Splat(-max);
  for (size_t j = 0; j < kChunk; j += kLanes) {
    const Lanes weights = ExpLanes(Add(LoadLanes(scores + j), negative_max));
    StoreLanes(weights, scores + j);
    sum = Add(sum, weights);
  }
  return sum;
}

// What a query carries from chunk to chunk, in floats: the largest score so far (16 floats, one
// used), the 16 lanes of the sum of weights, the unnormalized output (head_dim rounded up to 16).
constexpr size_t kStateHeader = 2 * kLanes;

// One query against one chunk of `count` positions.
template <bool kWhole, typename E>
HWY_INLINE void AttendChunk(const float* query, const E* const* keys, const E* const* values,
                            size_t count, size_t head_dim, float scale, float* state) {
  float* output = state + kStateHeader;
  HWY_ALIGN float scores[kChunk];
  Scores<kWhole>(query, keys, count, head_dim, scale, scores);
  for (size_t j = count; j < kChunk; ++j) scores[j] = -HUGE_VALF;
  const float max = MaxScore(scores, state[0]);
  // All scores so far -infinity or NaN: any finite reference keeps the arithmetic defined.
  const float reference = max == -HUGE_VALF ? 0.0f : max;
  const float correction = hn::GetLane(ExpVec(LaneTag(), hn::Set(LaneTag(), state[0] - reference)));
  state[0] = max;
  const Lanes sum = Mul(LoadLanes(state + kLanes), Splat(correction));
  StoreLanes(Weights(scores, reference, sum), state + kLanes);
  size_t d = 0;
  for (; d + kHeldLanes * kLanes <= head_dim; d += kHeldLanes * kLanes) {
    AccumulateValues<kWhole, kHeldLanes>(scores, values, count, d, head_dim, correction, output);
  }
  for (; d < head_dim; d += kLanes) {
    AccumulateValues<kWhole, 1>(scores, values, count, d, head_dim, correction, output);
  }
}

// Rows of 16-bit elements as floats at `to`, `stride` apart; rows[j] becomes the copy's address.
template <bool kWhole>
HWY_INLINE void ExpandRows(const HalfBits* const* from, size_t count, size_t head_dim,
                           size_t stride, float* to, const float** rows) {
  for (size_t j = 0; j < kChunk; ++j) {
    rows[j] = to + HWY_MIN(j, count - 1) * stride;
    if (j >= count) continue;
    for (size_t d = 0; d < head_dim; d += kLanes) {
      StoreLanes(LoadRow<kWhole>(from[j], d, head_dim), to + j * stride + d);
    }
  }
}

// `states` [queries, state_floats]; `expanded` [2, kChunk, state_floats] for 16-bit elements that
// several queries read: a conversion costs as much as the product it feeds.
template <bool kWhole, typename E>
void AttendQueries(absl::Span<const AttentionQuery> queries, const CacheView& keys,
                   const CacheView& values, size_t head_dim, float scale, size_t state_floats,
                   float* states, float* expanded) {
  size_t longest = 0;
  for (size_t q = 0; q < queries.size(); ++q) {
    float* state = states + q * state_floats;
    for (size_t i = 0; i < state_floats; i += kLanes) StoreLanes(Splat(0.0f), state + i);
    state[0] = -HUGE_VALF;
    longest = HWY_MAX(longest, queries[q].length);
  }
  for (size_t first = 0; first < longest; first += kChunk) {
    const size_t count = HWY_MIN(kChunk, longest - first);
    const E *key_rows[kChunk], *value_rows[kChunk];
    FindRows(keys, first, count, key_rows);
    FindRows(values, first, count, value_rows);
    const auto attend = [&](const auto* const* k, const auto* const* v) HWY_ATTR {
      for (size_t q = 0; q < queries.size(); ++q) {
        if (queries[q].length <= first) continue;
        AttendChunk<kWhole>(queries[q].query, k, v, HWY_MIN(count, queries[q].length - first),
                            head_dim, scale, states + q * state_floats);
      }
    };
    if constexpr (sizeof(E) == sizeof(HalfBits)) {
      if (queries.size() > 1) {
        const float *wide_keys[kChunk], *wide_values[kChunk];
        float* second = expanded + kChunk * state_floats;
        ExpandRows<kWhole>(key_rows, count, head_dim, state_floats, expanded, wide_keys);
        ExpandRows<kWhole>(value_rows, count, head_dim, state_floats, second, wide_values);
        attend(wide_keys, wide_values);
        continue;
      }
    }
    attend(key_rows, value_rows);
  }
  for (size_t q = 0; q < queries.size(); ++q) {
    const float* state = states + q * state_floats;
    const float inverse = 1.0f / TreeSum(LoadLanes(state + kLanes));
    for (size_t i = 0; i < head_dim; ++i) queries[q].out[i] = state[kStateHeader + i] * inverse;
  }
}

size_t StateFloats(size_t head_dim) { return kStateHeader + (head_dim + 15) / 16 * 16; }
// Floats of scratch behind the states.
size_t ExpandedFloats(size_t head_dim) { return 2 * kChunk * StateFloats(head_dim); }

void AttendTyped(absl::Span<const AttentionQuery> queries, const std::byte* const* keys,
                 const std::byte* const* values, size_t block_tokens, size_t token_stride,
                 KvType type, size_t head_dim, float scale, float* scratch) {
  const CacheView k = {keys, block_tokens, token_stride}, v = {values, block_tokens, token_stride};
  const bool whole = head_dim % kLanes == 0;
  const size_t floats = StateFloats(head_dim);
  float* expanded = scratch + queries.size() * floats;
  if (type == KvType::kF16) {
    const auto attend = whole ? AttendQueries<true, HalfBits> : AttendQueries<false, HalfBits>;
    attend(queries, k, v, head_dim, scale, floats, scratch, expanded);
  } else {
    const auto attend = whole ? AttendQueries<true, float> : AttendQueries<false, float>;
    attend(queries, k, v, head_dim, scale, floats, scratch, expanded);
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
HWY_EXPORT(ExpandedFloats);
HWY_EXPORT(StateFloats);
HWY_EXPORT(StoreHalves);

void StoreKv(const float* values, size_t n, KvType type, void* out) {
  if (type == KvType::kF32) {
    memcpy(out, values, n * sizeof(float));
  } else {
    HWY_DYNAMIC_DISPATCH(StoreHalves)(values, n, static_cast<uint16_t*>(out));
  }
}

void Attend(absl::Span<const AttentionQuery> queries, absl::Span<const std::byte* const> keys,
            absl::Span<const std::byte* const> values, size_t block_tokens, size_t token_stride,
            KvType type, size_t head_dim, float scale) {
  thread_local AlignedVector<float> scratch;
  scratch.resize(queries.size() * HWY_DYNAMIC_DISPATCH(StateFloats)(head_dim) +
                 HWY_DYNAMIC_DISPATCH(ExpandedFloats)(head_dim));
  HWY_DYNAMIC_DISPATCH(AttendTyped)
  (queries, keys.data(), values.data(), block_tokens, token_stride, type, head_dim, scale,
   scratch.data());
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
