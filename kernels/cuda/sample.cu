// A block takes a row, in a few passes over it: at vocabularies of 10^5 the row is in the
// second-level cache, and rows run side by side.
//
// Everything but the order of equals is by sums of integers and comparisons, so that neither the
// number of threads nor their order matters.
#include "kernels/cuda/device/reduce.h"
#include "kernels/cuda/sample.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kWarps = 16;
constexpr uint32_t kThreads = 32 * kWarps;
constexpr uint32_t kNone = 0xFFFFFFFFu;

// exp as the CPU's kernels have it (kernels/cpu/exp-inl.h), to the bit, for x <= 0 and -infinity.
__device__ __forceinline__ float Exp(float x) {
  const float clamped = fmaxf(x, -104.0f);
  constexpr float kMagic = 0x1.8p23f;
  const float shifted = __fmaf_rn(clamped, 0x1.715476p+0f, kMagic);
  const float k = __fadd_rn(shifted, -kMagic);
  float r = __fmaf_rn(k, -0x1.62e4p-1f, clamped);
  r = __fmaf_rn(k, -0x1.7f7d1cp-20f, r);
  float p = 1.9875691500e-4f;
  p = __fmaf_rn(p, r, 1.3981999507e-3f);
  p = __fmaf_rn(p, r, 8.3334519073e-3f);
  p = __fmaf_rn(p, r, 4.1665795894e-2f);
  p = __fmaf_rn(p, r, 1.6666665459e-1f);
  p = __fmaf_rn(p, r, 5.0000001201e-1f);
  p = __fadd_rn(__fmaf_rn(__fmul_rn(r, r), p, r), 1.0f);
  const int ki = static_cast<int>(__float_as_uint(shifted) - __float_as_uint(kMagic));
  const int low = ki >> 1;
  p = __fmul_rn(p, __uint_as_float(static_cast<uint32_t>(low + 127) << 23));
  return __fmul_rn(p, __uint_as_float(static_cast<uint32_t>(ki - low + 127) << 23));
}

__device__ __forceinline__ uint64_t Mass(float weight) {
  constexpr float kOne = 0x1p39f;  // kTokenMassBits
  return static_cast<uint64_t>(__fmul_rn(weight, kOne));
}

// --- Reductions; `sums` is shared memory of kWarps elements that nobody else uses before the next
// barrier.

__device__ __forceinline__ uint64_t WarpSum(uint64_t x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, distance);
  }
  return x;
}

// The sum over lanes up to this one.
__device__ __forceinline__ uint64_t WarpPrefix(uint64_t x) {
#pragma unroll
  for (uint32_t distance = 1; distance < 32; distance *= 2) {
    const uint64_t before = __shfl_up_sync(kAllLanes, x, distance);
    if (threadIdx.x % 32 >= distance) x += before;
  }
  return x;
}

// A logit and its token; of equals the lower token is larger.
struct Best {
  float logit;
  uint32_t token;
};
__device__ __forceinline__ Best Larger(Best a, Best b) {
  return b.logit > a.logit || (b.logit == a.logit && b.token < a.token) ? b : a;
}

// The first of the largest logits that are numbers; token kNone where there are none.
__device__ __forceinline__ Best FindBest(const float* logits, uint32_t cols, Best* bests) {
  Best best = {-INFINITY, kNone};
#pragma unroll 4
  for (uint32_t i = threadIdx.x; i < cols; i += kThreads) best = Larger(best, {logits[i], i});
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    best = Larger(best, {__shfl_xor_sync(kAllLanes, best.logit, distance),
                         __shfl_xor_sync(kAllLanes, best.token, distance)});
  }
  if (threadIdx.x % 32 == 0) bests[threadIdx.x / 32] = best;
  __syncthreads();
#pragma unroll
  for (uint32_t warp = 0; warp < kWarps; ++warp) best = Larger(best, bests[warp]);
  return best;
}

// --- Candidates

// Which of a row's tokens are candidates: those up to a last one in the order of likelihood. That
// order is by key, the bits of -(logit - max) / temperature, then by token.
struct Cut {
  uint32_t key = kNone;
  uint32_t token = kNone;
};

struct Row {
  const float* logits;
  uint32_t cols;
  float max;
  float temperature;

  // (logit - max) / temperature. NaN where the logit is.
  __device__ __forceinline__ float Scaled(uint32_t token) const {
    return __fdiv_rn(__fadd_rn(logits[token], -max), temperature);
  }
  // Of a number.
  __device__ static __forceinline__ uint32_t Key(float scaled) {
    return __float_as_uint(scaled) & 0x7FFFFFFFu;  // zeros of either sign are one
  }
  // False for NaN, too.
  __device__ static __forceinline__ bool Holds(const Cut& cut, float scaled, uint32_t token) {
    if (!(scaled <= 0)) return false;
    const uint32_t key = Key(scaled);
    return key < cut.key || (key == cut.key && token <= cut.token);
  }
};

// --- The candidate with which count or mass reaches a number

constexpr uint32_t kBins = 4 * kThreads;
// Of the first division into bins: they are of 1 / 64 each, so that tokens spread over hundreds.
constexpr float kFirstBins = 64;
constexpr uint32_t kListed = 1024;

// A 64-bit sum in two words, added to by halves: what is carried depends on the order, not the sum.
struct Bins {
  uint32_t low[kBins];
  uint32_t high[kBins];

  __device__ __forceinline__ void Clear() {
    for (uint32_t bin = threadIdx.x; bin < kBins; bin += kThreads) low[bin] = high[bin] = 0;
  }
  __device__ __forceinline__ void Add(uint32_t bin, uint64_t x) {
    const auto addend = static_cast<uint32_t>(x);
    const uint32_t before = atomicAdd(&low[bin], addend);
    const uint32_t carry = static_cast<uint32_t>(x >> 32) + (before + addend < before ? 1u : 0u);
    if (carry != 0) atomicAdd(&high[bin], carry);
  }
  __device__ __forceinline__ uint64_t Sum(uint32_t bin) const {
    return static_cast<uint64_t>(high[bin]) << 32 | low[bin];
  }
};

// A search's shared memory.
struct Search {
  Bins bins;
  uint64_t sums[kWarps];
  uint64_t before;  // what precedes the bin found
  uint32_t bin;     // kNone: the bins do not reach the number
  uint32_t listed;  // how many tokens would be in the list
  uint32_t list[kListed];
};

// What a search adds up.
struct Measure {
  bool counts;  // tokens; else mass
  __device__ __forceinline__ uint64_t Of(float scaled) const {
    return counts ? 1 : Mass(Exp(scaled));
  }
};

// Finds the bin in which the sum over bins reaches `needed`, `before` what precedes bin 0; with
// `share` set `needed` is that share of all bins' sum, of 2^64, rounded up. All threads get the
// same `needed` back.
__device__ __forceinline__ uint64_t FindBin(Search& search, uint64_t before, uint64_t needed,
                                            uint64_t share) {
  constexpr uint32_t kEach = kBins / kThreads;
  uint64_t mine = 0;
#pragma unroll
  for (uint32_t i = 0; i < kEach; ++i) mine += search.bins.Sum(threadIdx.x * kEach + i);
  const uint64_t up_to = WarpPrefix(mine);
  if (threadIdx.x % 32 == 31) search.sums[threadIdx.x / 32] = up_to;
  if (threadIdx.x == 0) search.bin = kNone;
  __syncthreads();
  uint64_t all = 0;
  for (uint32_t warp = 0; warp < kWarps; ++warp) {
    if (warp == threadIdx.x / 32) before += all;
    all += search.sums[warp];
  }
  if (share != 0) needed = __umul64hi(share, all) + (share * all != 0 ? 1 : 0);
  uint64_t sum = before + up_to - mine;
#pragma unroll
  for (uint32_t i = 0; i < kEach; ++i) {
    const uint32_t bin = threadIdx.x * kEach + i;
    const uint64_t next = sum + search.bins.Sum(bin);
    if (sum < needed && next >= needed) {
      search.bin = bin;
      search.before = sum;
    }
    sum = next;
  }
  __syncthreads();
  return needed;
}

// Candidates with keys, and of one key tokens, within bounds: a search narrows them down.
struct Range {
  uint32_t first_key, last_key;
  uint32_t first_token, last_token;

  __device__ __forceinline__ bool Holds(uint32_t key, uint32_t token) const {
    return key >= first_key && key <= last_key && token >= first_token && token <= last_token;
  }
};

// Calls body(token, scaled, key) for the cut's candidates in the range, of the list where there is
// one.
template <typename Body>
__device__ __forceinline__ void ForCandidates(const Row& row, const Cut& cut, const Range& range,
                                              const Search& search, bool is_listed, Body body) {
  const uint32_t count = is_listed ? search.listed : row.cols;
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) {
    const uint32_t token = is_listed ? search.list[i] : i;
    const float scaled = row.Scaled(token);
    if (!Row::Holds(cut, scaled, token)) continue;
    const uint32_t key = Row::Key(scaled);
    if (range.Holds(key, token)) body(token, scaled, key);
  }
}

// Bounds of a bin when [first, last] is divided into at most kBins of 2^shift.
__device__ __forceinline__ uint32_t ShiftFor(uint32_t first, uint32_t last) {
  uint32_t shift = 0;
  while ((last - first) >> shift >= kBins) ++shift;
  return shift;
}
__device__ __forceinline__ void Narrow(uint32_t bin, uint32_t shift, uint32_t& first,
                                       uint32_t& last) {
  first += bin << shift;
  last = min(last, first + ((1u << shift) - 1));
}

__device__ __forceinline__ uint32_t FirstBin(float scaled) {
  return static_cast<uint32_t>(fminf(__fmul_rn(scaled, -kFirstBins), kBins - 1));
}
__device__ __forceinline__ uint32_t FirstKeyOfBin(uint32_t bin) {
  return __float_as_uint(static_cast<float>(bin) / kFirstBins);
}

// Cuts the row's candidates where the measure first reaches `needed` (or the share of all). Nothing
// is cut where it does not.
__device__ __forceinline__ Cut CutAt(const Row& row, const Cut& cut, Measure measure,
                                     uint64_t needed, uint64_t share, Search& search) {
  Range range = {0, 0x7F800000u, 0, row.cols - 1};
  bool is_listed = false;
  uint64_t before = 0;
  for (bool is_first = true;; is_first = false) {
    const bool by_key = range.first_key < range.last_key;
    const uint32_t first = by_key ? range.first_key : range.first_token;
    const uint32_t shift = by_key ? ShiftFor(range.first_key, range.last_key)
                                  : ShiftFor(range.first_token, range.last_token);
    search.bins.Clear();
    __syncthreads();
    ForCandidates(row, cut, range, search, is_listed,
                  [&](uint32_t token, float scaled, uint32_t key) {
                    const uint32_t bin =
                        is_first ? FirstBin(scaled) : ((by_key ? key : token) - first) >> shift;
                    search.bins.Add(bin, measure.Of(scaled));
                  });
    __syncthreads();
    needed = FindBin(search, before, needed, is_first ? share : 0);
    const uint32_t bin = search.bin;
    if (bin == kNone) return cut;
    before = search.before;
    if (is_first) {
      range.first_key = FirstKeyOfBin(bin);
      if (bin + 1 < kBins) range.last_key = FirstKeyOfBin(bin + 1) - 1;
    } else if (by_key) {
      Narrow(bin, shift, range.first_key, range.last_key);
    } else {
      Narrow(bin, shift, range.first_token, range.last_token);
    }
    if (range.first_key == range.last_key && range.first_token == range.last_token) break;
    if (is_listed) continue;
    if (threadIdx.x == 0) search.listed = 0;
    __syncthreads();
    ForCandidates(row, cut, range, search, false, [&](uint32_t token, float, uint32_t) {
      const uint32_t place = atomicAdd(&search.listed, 1);
      if (place < kListed) search.list[place] = token;
    });
    __syncthreads();
    is_listed = search.listed <= kListed;
  }
  return {range.first_key, range.first_token};
}

// --- The draw

// Warps take stretches of the row one after another.
__device__ __forceinline__ uint32_t Draw(const Row& row, const Cut& cut, float min_p,
                                         uint64_t random, Search& search) {
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t stretch = (row.cols + kThreads - 1) / kThreads * 32;
  const uint32_t begin = min(warp * stretch, row.cols);
  const uint32_t end = min(begin + stretch, row.cols);
  const auto mass_of = [&](uint32_t token) -> uint64_t {
    if (token >= end) return 0;
    const float scaled = row.Scaled(token);
    if (!Row::Holds(cut, scaled, token)) return 0;
    const float weight = Exp(scaled);
    return weight < min_p ? 0 : Mass(weight);
  };
  uint64_t mass = 0;
  for (uint32_t token = begin + threadIdx.x % 32; token < end; token += 32) mass += mass_of(token);
  mass = WarpSum(mass);
  if (threadIdx.x % 32 == 0) search.sums[warp] = mass;
  __syncthreads();
  uint64_t before = 0;
  uint64_t all = 0;
  for (uint32_t other = 0; other < kWarps; ++other) {
    if (other == warp) before = all;
    all += search.sums[other];
  }
  const uint64_t drawn = __umul64hi(random, all);
  if (before <= drawn && drawn < before + mass) {
    for (uint32_t first = begin; first < end; first += 32) {
      const uint64_t up_to = before + WarpPrefix(mass_of(first + threadIdx.x % 32));
      const uint32_t beyond = __ballot_sync(kAllLanes, up_to > drawn ? 1 : 0);
      if (beyond != 0) {
        if (threadIdx.x % 32 == 0) {
          search.bin = first + static_cast<uint32_t>(__ffs(static_cast<int>(beyond))) - 1;
        }
        break;
      }
      before = __shfl_sync(kAllLanes, up_to, 31);
    }
  }
  __syncthreads();
  return search.bin;
}

__device__ __forceinline__ void Edit(float* logits, const SampleEdit* edits, uint32_t count) {
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) {
    float& logit = logits[edits[i].token];
    logit = edits[i].addend == -INFINITY ? -INFINITY : __fadd_rn(logit, edits[i].addend);
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads)
    SampleRows(float* all_logits, uint32_t cols, const SampleParameters* all_parameters,
               const SampleEdit* edits, SampledToken* chosen) {
  __shared__ Search search;
  __shared__ Best bests[kWarps];
  const SampleParameters& parameters = all_parameters[blockIdx.x];
  if (!(parameters.temperature >= 0)) return;
  float* const logits = all_logits + static_cast<size_t>(blockIdx.x) * cols;
  Edit(logits, edits + parameters.first_edit, parameters.edits);
  const Best best = FindBest(logits, cols, bests);
  uint32_t token = best.token == kNone ? 0 : best.token;
  if (parameters.temperature > 0 && best.token != kNone && fabsf(best.logit) < INFINITY) {
    const Row row = {logits, cols, best.logit, parameters.temperature};
    Cut cut;
    if (parameters.top_k != 0 && parameters.top_k < cols) {
      cut = CutAt(row, cut, Measure{true}, parameters.top_k, 0, search);
    }
    if (parameters.top_p != 0) {
      cut = CutAt(row, cut, Measure{false}, 0, parameters.top_p, search);
    }
    token = Draw(row, cut, parameters.min_p, parameters.random, search);
  }
  if (threadIdx.x == 0) chosen[blockIdx.x] = {static_cast<int32_t>(token), logits[token]};
}

}  // namespace

const char* SampleTokens(float* logits, uint32_t rows, uint32_t cols,
                         const SampleParameters* parameters, const SampleEdit* edits,
                         SampledToken* chosen, Stream stream) {
  if (cols == 0 || cols > kMaxSampledEntries) return "SampleTokens: 1 to 2^24 entries a row";
  return LaunchKernel(rows, kThreads, 0, stream, SampleRows, logits, cols, parameters, edits,
                      chosen);
}

}  // namespace quantloom::cuda
