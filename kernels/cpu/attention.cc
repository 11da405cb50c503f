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
constexpr size_t kChunkSets = kChunk / kLanes;
// Queries that pass over a chunk together: each key and value loaded serves all of them.
constexpr size_t kHeldQueries = 4;
// Lane sets that Q queries accumulate in registers, of 32 vectors of 512 bits or 16 of 256.
template <size_t Q>
constexpr size_t kHeldSets = kVecs == 1 || Q == 1 ? 4 : 1;

// Elements [i, i + 16) of a row of n, zeros past its end. kWhole: n is a multiple of 16.
template <bool kWhole, typename E>
HWY_INLINE Lanes LoadRow(const E* row, size_t i, size_t n) {
  if constexpr (kWhole) return LoadLanes(row + i);
  return i + kLanes <= n ? LoadLanes(row + i) : LoadLanesPartial(row + i, n - i);
}

HWY_INLINE float ToFloat(float value) { return value; }
HWY_INLINE float ToFloat(HalfBits value) { return HalfToFloat(value.bits); }

// Where the keys or the values of one head lie.
template <typename E>
struct CacheView {
  const std::byte* const* blocks;
  size_t block_tokens;

  HWY_INLINE const E* Block(size_t position) const {
    return reinterpret_cast<const E*>(blocks[position / block_tokens]);
  }
};

// The keys of a chunk: element d of positions 16 s .. 16 s + 15 at sets[s] + d * stride.
template <typename E>
struct ChunkKeys {
  const E* sets[kChunkSets];
  size_t stride;
};
// The values of a chunk's positions.
template <typename E>
struct ChunkValues {
  const E* rows[kChunk];
};

// Precondition: block_tokens is a multiple of 16. Behind `count` the last set stands in.
template <typename E>
HWY_INLINE ChunkKeys<E> FindKeys(const CacheView<E>& cache, size_t first, size_t count) {
  ChunkKeys<E> keys;
  keys.stride = cache.block_tokens;
  for (size_t s = 0; s < kChunkSets; ++s) {
    const size_t position = first + HWY_MIN(s, (count - 1) / kLanes) * kLanes;
    keys.sets[s] = cache.Block(position) + position % cache.block_tokens;
  }
  return keys;
}

template <typename E>
HWY_INLINE ChunkValues<E> FindValues(const CacheView<E>& cache, size_t first, size_t count,
                                     size_t head_dim) {
  ChunkValues<E> values;
  for (size_t j = 0; j < count; ++j) {
    values.rows[j] = cache.Block(first + j) + (first + j) % cache.block_tokens * head_dim;
  }
  return values;
}

// A chunk where it lies in the cache. It is fetched while the one before is worked on, because
// hardware prefetchers stop at the ends of blocks, 2 KB for heads of 64: one call for each element
// of the keys, one for each position's value.
template <typename E>
struct CachedChunk {
  ChunkKeys<E> keys;
  ChunkValues<E> values;
  size_t count;  // 0: there is none
  size_t head_dim;

  HWY_INLINE void FetchKeys(size_t d) const {
    if (count == 0) return;
    for (size_t s = 0; s < kChunkSets; ++s) __builtin_prefetch(keys.sets[s] + d * keys.stride);
  }
  HWY_INLINE void FetchValue(size_t j) const {
    if (j >= count) return;
    for (size_t d = 0; d < head_dim; d += 64 / sizeof(E)) __builtin_prefetch(values.rows[j] + d);
  }
};
// Where a chunk was expanded, it was read as a whole.
struct NothingToFetch {
  HWY_INLINE void FetchKeys(size_t) const {}
  HWY_INLINE void FetchValue(size_t) const {}
};

// The chunk's keys as floats at `to` [head_dim, kChunk].
template <typename E>
HWY_INLINE ChunkKeys<float> ExpandKeys(const CacheView<E>& cache, size_t first, size_t count,
                                       size_t head_dim, float* to) {
  if (cache.block_tokens % kLanes == 0) {
    const ChunkKeys<E> keys = FindKeys(cache, first, count);
    for (size_t d = 0; d < head_dim; ++d) {
      for (size_t s = 0; s < kChunkSets; ++s) {
        StoreLanes(LoadLanes(keys.sets[s] + d * keys.stride), to + d * kChunk + s * kLanes);
      }
    }
  } else {
    for (size_t j = 0; j < kChunk; ++j) {
      const size_t position = first + HWY_MIN(j, count - 1);
      const E* key = cache.Block(position) + position % cache.block_tokens;
      for (size_t d = 0; d < head_dim; ++d)
        to[d * kChunk + j] = ToFloat(key[d * cache.block_tokens]);
    }
  }
  ChunkKeys<float> expanded;
  expanded.stride = kChunk;
  for (size_t s = 0; s < kChunkSets; ++s) expanded.sets[s] = to + s * kLanes;
  return expanded;
}

// The chunk's values as floats at `to` [kChunk, head_dim rounded up to 16].
template <bool kWhole, typename E>
HWY_INLINE ChunkValues<float> ExpandValues(const ChunkValues<E>& values, size_t count,
                                           size_t head_dim, float* to) {
  const size_t stride = (head_dim + kLanes - 1) / kLanes * kLanes;
  ChunkValues<float> expanded;
  for (size_t j = 0; j < count; ++j) {
    float* row = to + j * stride;
    for (size_t d = 0; d < head_dim; d += kLanes) {
      StoreLanes(LoadRow<kWhole>(values.rows[j], d, head_dim), row + d);
    }
    expanded.rows[j] = row;
  }
  return expanded;
}

// scores[q][16 s + l] = scale * q . k for the S lane sets from s on; the elements of a head are
// added in ascending order.
template <size_t Q, size_t S, typename E, class Next>
HWY_INLINE void ScoreSets(const float* const* queries, const ChunkKeys<E>& keys, const Next& next,
                          size_t first_set, size_t head_dim, float scale, float (*scores)[kChunk]) {
  Lanes sums[Q][S];
  ZeroTile(sums);
  for (size_t d = 0; d < head_dim; ++d) {
    next.FetchKeys(d);
    Lanes key[S];
#pragma GCC unroll 4
    for (size_t s = 0; s < S; ++s) key[s] = LoadLanes(keys.sets[first_set + s] + d * keys.stride);
#pragma GCC unroll 4
    for (size_t q = 0; q < Q; ++q) {
      const Lanes element = Splat(queries[q][d]);
#pragma GCC unroll 4
      for (size_t s = 0; s < S; ++s) sums[q][s] = Fma(element, key[s], sums[q][s]);
    }
  }
#pragma GCC unroll 4
  for (size_t q = 0; q < Q; ++q) {
#pragma GCC unroll 4
    for (size_t s = 0; s < S; ++s) {
      StoreLanes(Mul(sums[q][s], Splat(scale)), scores[q] + (first_set + s) * kLanes);
    }
  }
}

// Scores of the chunk's `count` positions, -infinity behind them.
template <size_t Q, typename E, class Next>
HWY_INLINE void Scores(const float* const* queries, const ChunkKeys<E>& keys, const Next& next,
                       size_t count, size_t head_dim, float scale, float (*scores)[kChunk]) {
  constexpr size_t S = kHeldSets<Q>;
  const size_t sets = (count + kLanes - 1) / kLanes;
  size_t s = 0;
  for (; s + S <= sets; s += S) ScoreSets<Q, S>(queries, keys, next, s, head_dim, scale, scores);
  for (; s < sets; ++s) ScoreSets<Q, 1>(queries, keys, next, s, head_dim, scale, scores);
  for (size_t q = 0; q < Q; ++q) {
    for (size_t j = count; j < kChunk; ++j) scores[q][j] = -HUGE_VALF;
  }
}

// outputs[q][d] = outputs[q][d] * corrections[q] + sum_j weights[q][j] v[j][d], positions in
// ascending order, for the S lane sets from d on. Elements past head_dim stay zero.
template <bool kWhole, size_t Q, size_t S, typename E, class Next>
HWY_INLINE void AccumulateValues(const float (*weights)[kChunk], const ChunkValues<E>& values,
                                 const Next& next, size_t count, size_t d, size_t head_dim,
                                 const float* corrections, float* const* outputs) {
  Lanes sums[Q][S];
#pragma GCC unroll 4
  for (size_t q = 0; q < Q; ++q) {
#pragma GCC unroll 4
    for (size_t s = 0; s < S; ++s) {
      sums[q][s] = Mul(LoadLanes(outputs[q] + d + s * kLanes), Splat(corrections[q]));
    }
  }
  for (size_t j = 0; j < count; ++j) {
    next.FetchValue(j);
    Lanes value[S];
#pragma GCC unroll 4
    for (size_t s = 0; s < S; ++s) {
      value[s] = LoadRow<kWhole>(values.rows[j], d + s * kLanes, head_dim);
    }
#pragma GCC unroll 4
    for (size_t q = 0; q < Q; ++q) {
      const Lanes weight = Splat(weights[q][j]);
#pragma GCC unroll 4
      for (size_t s = 0; s < S; ++s) sums[q][s] = Fma(weight, value[s], sums[q][s]);
    }
  }
#pragma GCC unroll 4
  for (size_t q = 0; q < Q; ++q) {
#pragma GCC unroll 4
    for (size_t s = 0; s < S; ++s) StoreLanes(sums[q][s], outputs[q] + d + s * kLanes);
  }
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
  for (size_t i = 1; i < kVecs; ++i) largest.v[0] = hn::Max(largest.v[0], largest.v[i]);
  return hn::GetLane(hn::MaxOfLanes(LaneTag(), largest.v[0]));
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

// Q queries against the first `count` positions of a chunk.
template <bool kWhole, size_t Q, typename E, class Next>
HWY_INLINE void AttendChunk(const float* const* queries, const ChunkKeys<E>& keys,
                            const ChunkValues<E>& values, const Next& next, size_t count,
                            size_t head_dim, float scale, float* const* states) {
  HWY_ALIGN float scores[Q][kChunk];
  Scores<Q>(queries, keys, next, count, head_dim, scale, scores);
  HWY_ALIGN float corrections[kHeldQueries] = {};
  float references[Q];
  for (size_t q = 0; q < Q; ++q) {
    float* const max = states[q];
    const float before = *max;
    *max = MaxScore(scores[q], before);
    // All scores so far -infinity or NaN: any finite reference keeps the arithmetic defined.
    references[q] = *max == -HUGE_VALF ? 0.0f : *max;
    corrections[q] = before - references[q];
  }
  const hn::CappedTag<float, kHeldQueries> d_queries;
  for (size_t q = 0; q < Q; q += hn::MaxLanes(d_queries)) {
    const auto differences = hn::Load(d_queries, corrections + q);
    hn::Store(ExpVec(d_queries, differences), d_queries, corrections + q);
  }
  float* outputs[Q];
  for (size_t q = 0; q < Q; ++q) {
    float* const sums = states[q] + kLanes;
    const Lanes sum = Mul(LoadLanes(sums), Splat(corrections[q]));
    StoreLanes(Weights(scores[q], references[q], sum), sums);
    outputs[q] = states[q] + kStateHeader;
  }
  constexpr size_t S = kHeldSets<Q>;
  size_t d = 0;
  for (; d + S * kLanes <= head_dim; d += S * kLanes) {
    AccumulateValues<kWhole, Q, S>(scores, values, next, count, d, head_dim, corrections, outputs);
  }
  for (; d < head_dim; d += kLanes) {
    AccumulateValues<kWhole, Q, 1>(scores, values, next, count, d, head_dim, corrections, outputs);
  }
}

// All queries that reach the chunk at `first`, as many together as see equally much of it.
template <bool kWhole, typename E, class Next>
HWY_INLINE void AttendAll(absl::Span<const AttentionQuery> queries, size_t first,
                          const ChunkKeys<E>& keys, const ChunkValues<E>& values, const Next& next,
                          size_t head_dim, float scale, size_t state_floats, float* states) {
  for (size_t q = 0; q < queries.size();) {
    if (queries[q].length <= first) {
      ++q;
      continue;
    }
    const size_t count = HWY_MIN(kChunk, queries[q].length - first);
    const float* vectors[kHeldQueries];
    float* their_states[kHeldQueries];
    size_t held = 0;
    for (; held < kHeldQueries && q < queries.size(); ++held, ++q) {
      const size_t length = queries[q].length;
      if (length <= first || HWY_MIN(kChunk, length - first) != count) break;
      vectors[held] = queries[q].query;
      their_states[held] = states + q * state_floats;
    }
    const auto attend = [&]<size_t Q>() HWY_ATTR {
      AttendChunk<kWhole, Q>(vectors, keys, values, next, count, head_dim, scale, their_states);
    };
    if (held == 4) attend.template operator()<4>();
    if (held == 3) attend.template operator()<3>();
    if (held == 2) attend.template operator()<2>();
    if (held == 1) attend.template operator()<1>();
  }
}

// `states` [queries, state_floats]; `expanded`: room for a chunk's keys and values as floats. They
// are expanded where more queries read them than pass together: a conversion costs as much as a
// product that it feeds.
template <bool kWhole, typename E>
void AttendQueries(absl::Span<const AttentionQuery> queries, const CacheView<E>& key_cache,
                   const CacheView<E>& value_cache, size_t head_dim, float scale,
                   size_t state_floats, float* states, float* expanded) {
  size_t longest = 0;
  for (size_t q = 0; q < queries.size(); ++q) {
    float* state = states + q * state_floats;
    for (size_t i = 0; i < state_floats; i += kLanes) StoreLanes(Splat(0.0f), state + i);
    state[0] = -HUGE_VALF;
    longest = HWY_MAX(longest, queries[q].length);
  }
  const bool expand = queries.size() > kHeldQueries || key_cache.block_tokens % kLanes != 0;
  const auto find = [&](size_t first) HWY_ATTR {
    CachedChunk<E> chunk;
    chunk.head_dim = head_dim;
    chunk.count = first < longest ? HWY_MIN(kChunk, longest - first) : 0;
    if (chunk.count == 0) return chunk;
    if (!expand) chunk.keys = FindKeys(key_cache, first, chunk.count);
    chunk.values = FindValues(value_cache, first, chunk.count, head_dim);
    return chunk;
  };
  CachedChunk<E> chunk = find(0);
  for (size_t first = 0; first < longest; first += kChunk) {
    const CachedChunk<E> next = find(first + kChunk);
    if (expand) {
      const auto keys = ExpandKeys(key_cache, first, chunk.count, head_dim, expanded);
      const auto values =
          ExpandValues<kWhole>(chunk.values, chunk.count, head_dim, expanded + kChunk * head_dim);
      AttendAll<kWhole>(queries, first, keys, values, NothingToFetch(), head_dim, scale,
                        state_floats, states);
    } else {
      AttendAll<kWhole>(queries, first, chunk.keys, chunk.values, next, head_dim, scale,
                        state_floats, states);
    }
    chunk = next;
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
                 const std::byte* const* values, size_t block_tokens, KvType type, size_t head_dim,
                 float scale, float* scratch) {
  const size_t floats = StateFloats(head_dim);
  float* expanded = scratch + queries.size() * floats;
  const auto attend = [&]<typename E>(E) HWY_ATTR {
    const CacheView<E> k = {keys, block_tokens}, v = {values, block_tokens};
    const auto typed = head_dim % kLanes == 0 ? AttendQueries<true, E> : AttendQueries<false, E>;
    typed(queries, k, v, head_dim, scale, floats, scratch, expanded);
  };
  if (type == KvType::kF16) {
    attend(HalfBits());
  } else {
    attend(float());
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

void StoreKey(const float* key, size_t head_dim, KvType type, size_t block_tokens, size_t slot,
              void* block) {
  if (type == KvType::kF32) {
    float* to = static_cast<float*>(block) + slot;
    for (size_t d = 0; d < head_dim; ++d) to[d * block_tokens] = key[d];
  } else {
    thread_local AlignedVector<uint16_t> halves;
    halves.resize(head_dim);
    HWY_DYNAMIC_DISPATCH(StoreHalves)(key, head_dim, halves.data());
    uint16_t* to = static_cast<uint16_t*>(block) + slot;
    for (size_t d = 0; d < head_dim; ++d) to[d * block_tokens] = halves[d];
  }
}

void StoreValue(const float* value, size_t head_dim, KvType type, size_t slot, void* block) {
  if (type == KvType::kF32) {
    memcpy(static_cast<float*>(block) + slot * head_dim, value, head_dim * sizeof(float));
  } else {
    uint16_t* to = static_cast<uint16_t*>(block) + slot * head_dim;
    HWY_DYNAMIC_DISPATCH(StoreHalves)(value, head_dim, to);
  }
}

void Attend(absl::Span<const AttentionQuery> queries, absl::Span<const std::byte* const> keys,
            absl::Span<const std::byte* const> values, size_t block_tokens, KvType type,
            size_t head_dim, float scale) {
  thread_local AlignedVector<float> scratch;
  scratch.resize(queries.size() * HWY_DYNAMIC_DISPATCH(StateFloats)(head_dim) +
                 HWY_DYNAMIC_DISPATCH(ExpandedFloats)(head_dim));
  HWY_DYNAMIC_DISPATCH(AttendTyped)
  (queries, keys.data(), values.data(), block_tokens, type, head_dim, scale, scratch.data());
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
