#include "core/codec/trellis_viterbi.h"
#include "kernels/cuda/device/reduce.h"
#include "kernels/cuda/trellis_encode.h"

// A block encodes a tile: its threads share a step's survivors, eight each at a time, whose metrics
// stay in shared memory: 2^16 states a step, about 10 integer operations each, so 1.5 passes of a
// tile are 2.5 * 10^8 operations, 2 ms of a multiprocessor of Hopper whatever the rate.

namespace quantloom::cuda {
namespace {

constexpr uint32_t kTileWeights = 256;
constexpr uint32_t kStateBits = kTrellisStateBits;
constexpr uint32_t kGroup = 8;  // survivors of a thread at a time
constexpr uint32_t kWarps = 8;
constexpr uint32_t kMaxTileWords = 64;

__host__ __device__ uint32_t Survivors(uint32_t shift) {
  return static_cast<uint32_t>(SurvivorCount(static_cast<int>(shift)));
}

// A group's choices among 2^out are whole bytes.
__host__ __device__ uint32_t BitsOfChoice(uint32_t out) {
  return static_cast<uint32_t>(ChoiceBits(static_cast<int>(out)));
}

struct Rate {
  uint32_t half_bits;
  uint32_t weights_per_step;

  __host__ __device__ uint32_t Steps() const { return kTileWeights / weights_per_step; }
  __host__ __device__ uint32_t Offset(uint32_t step) const {
    return step * weights_per_step * half_bits / 2;
  }
  // Bits that a step adds, read from the last to the first, and bits that it drops.
  __host__ __device__ uint32_t In(uint32_t step) const { return Offset(step + 1) - Offset(step); }
  __host__ __device__ uint32_t Out(uint32_t step) const {
    return In(step == 0 ? Steps() - 1 : step - 1);
  }
  // How often differences are doubled before they are squared.
  __host__ __device__ uint32_t Doublings() const {
    const int precision = ErrorPrecision(static_cast<int>(In(0)), static_cast<int>(In(1)),
                                         static_cast<int>(weights_per_step));
    return precision == 0 ? 0 : static_cast<uint32_t>(precision) - 1;
  }
  __host__ __device__ uint32_t ChoiceBytes() const {  // of a step
    uint32_t bytes = 0;
    for (uint32_t step = 0; step < 2; ++step) {
      const uint32_t of_step = Survivors(In(step)) / 8 * BitsOfChoice(In(step));
      bytes = bytes > of_step ? bytes : of_step;
    }
    return bytes;
  }
};

// Eight consecutive 16-bit numbers.
struct Numbers {
  uint32_t words[kGroup / 2];

  __device__ __forceinline__ void Load(const void* from) {
    const uint4 four = *static_cast<const uint4*>(from);
    words[0] = four.x;
    words[1] = four.y;
    words[2] = four.z;
    words[3] = four.w;
  }
  __device__ __forceinline__ uint32_t Unsigned(uint32_t i) const {
    return words[i / 2] >> (16 * (i % 2)) & 0xFFFFu;
  }
  __device__ __forceinline__ int Signed(uint32_t i) const {
    return static_cast<int16_t>(Unsigned(i));
  }
};

__device__ __forceinline__ int Saturate(int x) { return max(-32768, min(32767, x)); }

__device__ __forceinline__ uint32_t WarpMinimum(uint32_t x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    x = min(x, __shfl_xor_sync(kAllLanes, x, distance));
  }
  return x;
}

// The least over the block, for all its threads. The block must be synchronized before the next.
__device__ __forceinline__ uint32_t BlockMinimum(uint32_t x, uint32_t* least) {
  x = WarpMinimum(x);
  if (threadIdx.x % 32 == 0) least[threadIdx.x / 32] = x;
  __syncthreads();
  return WarpMinimum(least[threadIdx.x % kWarps]);
}

struct Shared {
  uint32_t least[kWarps];
  uint32_t survivor;
  uint32_t bits[kMaxTileWords];
};

// The search of one block.
class Search {
 public:
  __device__ Search(const TrellisEncoding& encoding, uint32_t tile, Shared& shared,
                    uint16_t* metrics)
      : encoding_(encoding),
        rate_{encoding.half_bits, encoding.weights_per_step},
        tile_(tile),
        choice_bytes_(rate_.ChoiceBytes()),
        choices_(encoding.choices +
                 static_cast<size_t>(blockIdx.x) * rate_.Steps() * choice_bytes_),
        shared_(shared),
        from_(metrics),
        to_(metrics + Survivors(rate_.In(0))) {}

  // The bits of a path that ends where it began, to shared.bits.
  __device__ void Run() {
    FindWrap();
    const uint32_t steps = rate_.Steps();
    const uint32_t wrap = shared_.survivor;
    Fill(Survivors(rate_.In(steps - 1)), kUnreachable, wrap);
    for (uint32_t step = steps; step-- > 0;) Advance(step, true);
    if (threadIdx.x == 0) {
      for (uint32_t& word : shared_.bits) word = 0;
      uint32_t survivor = wrap;
      for (uint32_t step = 0; step < steps; ++step) {
        const uint32_t state = StateBefore(step, survivor);
        PutBits(rate_.Offset(step), state & ((1u << rate_.In(step)) - 1));
        survivor = state >> rate_.In(step);
      }
    }
    __syncthreads();
  }

 private:
  // All survivors' metrics, but 0 for one.
  __device__ void Fill(uint32_t survivors, uint32_t metric, uint32_t one) {
    for (uint32_t r = threadIdx.x; r < survivors; r += 32 * kWarps) {
      from_[r] = static_cast<uint16_t>(r == one ? 0 : metric);
    }
    lower_ = 0;
    __syncthreads();
  }

  // The survivor between step 0 and the last one: of the path that is best around them.
  __device__ void FindWrap() {
    const uint32_t steps = rate_.Steps();
    const uint32_t half = steps / 2;
    Fill(Survivors(rate_.In(half - 1)), 0, 0);
    for (uint32_t step = half; step-- > 0;) Advance(step, false);
    for (uint32_t step = steps; step-- > half;) Advance(step, true);
    // The first of the best.
    uint32_t best = 0xFFFFFFFFu;
    for (uint32_t r = threadIdx.x; r < Survivors(rate_.Out(half)); r += 32 * kWarps) {
      best = min(best, static_cast<uint32_t>(from_[r]) << 16 | r);
    }
    best = BlockMinimum(best, shared_.least);
    if (threadIdx.x == 0) {
      uint32_t survivor = best & 0xFFFFu;
      for (uint32_t step = half; step < steps; ++step) {
        survivor = StateBefore(step, survivor) >> rate_.In(step);
      }
      shared_.survivor = survivor;
    }
    __syncthreads();
  }

  // One step (core/codec/trellis_viterbi.h); ends synchronized.
  __device__ void Advance(uint32_t step, bool traced) {
    const uint32_t in = rate_.In(step);
    const uint32_t out = rate_.Out(step);
    const uint32_t doublings = rate_.Doublings();
    uint32_t least = kUnreachable;
    for (uint32_t r = kGroup * threadIdx.x; r < Survivors(out); r += kGroup * 32 * kWarps) {
      uint32_t best[kGroup];
#pragma unroll
      for (uint32_t& metric : best) metric = uint32_t{kUnreachable} + 1;
      uint64_t chosen = 0;
      for (uint32_t x = 0; x < 1u << out; ++x) {
        const uint32_t state = x << (kStateBits - out) | r;
        uint32_t metrics[kGroup];
#pragma unroll
        for (uint32_t i = 0; i < kGroup; ++i) {
          const uint32_t metric = from_[(state + i) >> in];
          metrics[i] = metric == kUnreachable ? metric : metric - lower_;
        }
        for (uint32_t v = 0; v < rate_.weights_per_step; ++v) {
          const uint32_t weight = tile_ * kTileWeights + step * rate_.weights_per_step + v;
          if (encoding_.ignored != nullptr && encoding_.ignored[weight] != 0) continue;
          const int target = encoding_.targets[weight];
          Numbers values;
          values.Load(encoding_.values + (v << kStateBits) + state);
#pragma unroll
          for (uint32_t i = 0; i < kGroup; ++i) {
            int difference = Saturate(target - values.Signed(i));
            for (uint32_t d = 0; d < doublings; ++d) difference = Saturate(2 * difference);
            const auto error = static_cast<uint32_t>(difference * difference) >> 16;
            metrics[i] = min(metrics[i] + error, uint32_t{kUnreachable});
          }
        }
#pragma unroll
        for (uint32_t i = 0; i < kGroup; ++i) {
          const uint32_t at = i * BitsOfChoice(out);
          if (metrics[i] < best[i]) {
            best[i] = metrics[i];
            chosen &= ~(((uint64_t{1} << BitsOfChoice(out)) - 1) << at);
            chosen |= uint64_t{x} << at;
          }
        }
      }
#pragma unroll
      for (uint32_t i = 0; i < kGroup; ++i) {
        to_[r + i] = static_cast<uint16_t>(best[i]);
        least = min(least, best[i]);
      }
      if (traced) {
        uint8_t* const choice = Choices(step) + r / 8 * BitsOfChoice(out);
        for (uint32_t byte = 0; byte < BitsOfChoice(out); ++byte) {
          choice[byte] = static_cast<uint8_t>(chosen >> (8 * byte));
        }
      }
    }
    least = BlockMinimum(least, shared_.least);
    // What the host subtracts from metrics, the next step does when it reads them.
    lower_ = least >= kLowerAt ? least : 0;
    uint16_t* const read = from_;
    from_ = to_;
    to_ = read;
    __syncthreads();
  }

  __device__ uint8_t* Choices(uint32_t step) const {
    return choices_ + static_cast<size_t>(step) * choice_bytes_;
  }

  // The state of `step` that led to survivor r.
  __device__ uint32_t StateBefore(uint32_t step, uint32_t r) const {
    const uint32_t out = rate_.Out(step);
    const uint32_t bits = BitsOfChoice(out);
    const uint32_t byte = Choices(step)[r * bits / 8];
    const uint32_t x = byte >> (r * bits % 8) & ((1u << bits) - 1);
    return x << (kStateBits - out) | r;
  }

  __device__ void PutBits(uint32_t offset, uint32_t value) {
    const uint64_t shifted = uint64_t{value} << (offset % 32);
    shared_.bits[offset / 32] |= static_cast<uint32_t>(shifted);
    if (shifted >> 32 != 0) shared_.bits[offset / 32 + 1] |= static_cast<uint32_t>(shifted >> 32);
  }

  const TrellisEncoding& encoding_;
  const Rate rate_;
  const uint32_t tile_;
  const uint32_t choice_bytes_;
  uint8_t* const choices_;
  Shared& shared_;
  uint16_t* from_;  // metrics, from which `lower_` is to be subtracted
  uint16_t* to_;
  uint32_t lower_ = 0;
};

__global__ void __launch_bounds__(32 * kWarps) EncodeTiles(TrellisEncoding encoding) {
  Shared& shared = *static_cast<Shared*>(DynamicShared());
  auto* const metrics = reinterpret_cast<uint16_t*>(&shared + 1);
  const uint32_t words = 4 * encoding.half_bits;
  for (uint32_t tile = blockIdx.x; tile < encoding.tiles; tile += gridDim.x) {
    Search(encoding, tile, shared, metrics).Run();
    for (uint32_t i = threadIdx.x; i < words; i += 32 * kWarps) {
      encoding.bits[static_cast<size_t>(tile) * words + i] = shared.bits[i];
    }
    __syncthreads();
  }
}

}  // namespace

size_t TrellisChoiceBytes(uint32_t half_bits, uint32_t weights_per_step) {
  const Rate rate{half_bits, weights_per_step};
  return static_cast<size_t>(rate.Steps()) * rate.ChoiceBytes();
}

size_t TrellisSharedBytes(uint32_t half_bits, uint32_t weights_per_step) {
  const Rate rate{half_bits, weights_per_step};
  return sizeof(Shared) + 2 * sizeof(uint16_t) * Survivors(rate.In(0));
}

const char* EncodeTrellisTiles(const TrellisEncoding& encoding, uint32_t blocks, Stream stream) {
  return LaunchKernel(blocks, 32 * kWarps,
                      TrellisSharedBytes(encoding.half_bits, encoding.weights_per_step), stream,
                      EncodeTiles, encoding);
}

}  // namespace quantloom::cuda
