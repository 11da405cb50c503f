#include "bench/machine_limits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/machine_limits.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/lanes-inl.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Words = hn::ScalableTag<uint64_t>;

// The exclusive or of `n` words at a multiple of 64 bytes, `n` a multiple of 512: four streams, as
// matrices' planes and rows are several, so that the prefetchers have work.
uint64_t Sweep(const uint64_t* words, size_t n) {
  const Words d;
  constexpr size_t kStreams = 4;
  constexpr size_t kUnit = 64 / sizeof(uint64_t);  // a cache line
  const size_t stream = n / kStreams;
  auto sum0 = hn::Zero(d), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  for (size_t i = 0; i < stream; i += kUnit) {
    for (size_t j = i; j < i + kUnit; j += hn::Lanes(d)) {
      sum0 = hn::Xor(sum0, hn::Load(d, words + j));
      sum1 = hn::Xor(sum1, hn::Load(d, words + stream + j));
      sum2 = hn::Xor(sum2, hn::Load(d, words + 2 * stream + j));
      sum3 = hn::Xor(sum3, hn::Load(d, words + 3 * stream + j));
    }
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Xor(hn::Xor(sum0, sum1), hn::Xor(sum2, sum3))));
}

// One instruction, or the shortest sequence, that adds products of bytes to int32 lanes.
#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3
using Bytes = __m512i;
HWY_INLINE Bytes Fill(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
HWY_INLINE Bytes MultiplyAdd(Bytes sums, Bytes a, Bytes b) {
#if HWY_TARGET == HWY_AVX3_DL
  return _mm512_dpbusd_epi32(sums, a, b);
#else
  return _mm512_add_epi32(sums,
                          _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), _mm512_set1_epi16(1)));
#endif
}
constexpr size_t kProducts = sizeof(Bytes);
#elif HWY_TARGET == HWY_AVX2
using Bytes = __m256i;
HWY_INLINE Bytes Fill(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
HWY_INLINE Bytes MultiplyAdd(Bytes sums, Bytes a, Bytes b) {
  return _mm256_add_epi32(sums,
                          _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
}
constexpr size_t kProducts = sizeof(Bytes);
#else
struct Bytes {
  int8_t b[16];
};
HWY_INLINE Bytes Fill(int value) {
  Bytes r;
  for (int8_t& byte : r.b) byte = static_cast<int8_t>(value);
  return r;
}
// The sums are four int32 in place of sixteen bytes.
HWY_INLINE Bytes MultiplyAdd(Bytes sums, Bytes a, Bytes b) {
  int32_t s[4];
  hwy::CopyBytes<sizeof(s)>(&sums, s);
  for (size_t i = 0; i < sizeof(a.b); ++i) s[i / 4] += a.b[i] * b.b[i];
  hwy::CopyBytes<sizeof(s)>(s, &sums);
  return sums;
}
constexpr size_t kProducts = sizeof(Bytes);
#endif

// Runs `rounds` of twelve independent chains; returns the multiply-adds done. `seed` keeps the
// compiler from knowing the operands, `sink` from dropping the result.
double Multiply(size_t rounds, int seed, void* sink) {
  constexpr size_t kChains = 12;
  Bytes sums[kChains];
  for (size_t i = 0; i < kChains; ++i) sums[i] = Fill(static_cast<int>(i));
  const Bytes a = Fill(seed), b = Fill(seed + 1);
  for (size_t round = 0; round < rounds; ++round) {
    HWY_UNROLL(12)
    for (size_t i = 0; i < kChains; ++i) sums[i] = MultiplyAdd(sums[i], a, b);
  }
  Bytes all = sums[0];
  for (size_t i = 1; i < kChains; ++i) all = MultiplyAdd(all, sums[i], b);
  hwy::CopyBytes<16>(&all, sink);
  return static_cast<double>(rounds * kChains * kProducts);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>

namespace quantloom {

HWY_EXPORT(Sweep);
HWY_EXPORT(Multiply);

namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Anonymous memory of its own, in huge pages where the system gives them.
class Pages {
 public:
  explicit Pages(size_t bytes)
      : bytes_(bytes),
        memory_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (valid()) madvise(memory_, bytes_, MADV_HUGEPAGE);
  }
  ~Pages() {
    if (valid()) munmap(memory_, bytes_);
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  bool valid() const { return memory_ != MAP_FAILED; }
  uint64_t* words() const { return static_cast<uint64_t*>(memory_); }

 private:
  size_t bytes_;
  void* memory_;
};

}  // namespace

size_t BytesBeyondCaches() {
  const int64_t cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
  const size_t wanted = cache > 0 ? 8 * static_cast<size_t>(cache) : 0;
  return std::clamp(wanted, size_t{256} << 20, size_t{1} << 30) & ~((size_t{1} << 20) - 1);
}

double MeasureReadBandwidth(ThreadTeam& team) {
  constexpr size_t kPart = (size_t{1} << 20) / sizeof(uint64_t);  // what a thread takes at a time
  constexpr int kSweeps = 12;
  const size_t words = BytesBeyondCaches() / sizeof(uint64_t);
  const Pages pages(words * sizeof(uint64_t));
  if (!pages.valid()) return 0;
  team.ParallelFor(words, kPart, [&](size_t begin, size_t end, int) {
    std::fill(pages.words() + begin, pages.words() + end, begin);
  });
  std::atomic<uint64_t> sink{0};
  double best = 0;
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    const Clock::time_point begin_time = Clock::now();
    team.ParallelFor(words, kPart, [&](size_t begin, size_t end, int) {
      sink.fetch_xor(HWY_DYNAMIC_DISPATCH(Sweep)(pages.words() + begin, end - begin),
                     std::memory_order_relaxed);
    });
    best = std::max(best, static_cast<double>(words * sizeof(uint64_t)) / SecondsSince(begin_time));
  }
  return best;
}

double MeasureInt8Peak(ThreadTeam& team) {
  constexpr size_t kRounds = 1 << 19;
  constexpr int kRuns = 8;
  const auto threads = static_cast<size_t>(team.size());
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    std::atomic<double> products{0};
    const Clock::time_point begin_time = Clock::now();
    team.ParallelFor(threads, 1, [&](size_t begin, size_t end, int worker) {
      uint8_t sink[16];
      for (size_t i = begin; i < end; ++i) {
        products.fetch_add(HWY_DYNAMIC_DISPATCH(Multiply)(kRounds, worker + run, sink));
      }
    });
    best = std::max(best, products.load() / SecondsSince(begin_time));
  }
  return best;
}

}  // namespace quantloom
#endif  // HWY_ONCE
