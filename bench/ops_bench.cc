// The transformer's operators other than products, on one thread and the demonstration model's
// sizes. QUANTLOOM_SIMD picks the SIMD target.
#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/ops.h"

namespace quantloom::cpu {
namespace {

constexpr size_t kHidden = 576, kGate = 1536, kVocabulary = 49152;

void BM_QuantizeActivations(benchmark::State& state) {
  const std::vector<float> x(kHidden, 0.7f);
  Activations activations;
  for (auto _ : state)
    activations.Assign(x.data(), 1, kHidden, kHidden, cpu::ActivationForm::kInt8);
}
BENCHMARK(BM_QuantizeActivations);

void BM_RmsNorm(benchmark::State& state) {
  std::vector<float> x(kHidden, 0.7f), weight(kHidden, 1.0f), out(kHidden);
  for (auto _ : state) {
    RmsNorm(x.data(), weight.data(), kHidden, 1e-5f, out.data());
    benchmark::ClobberMemory();
  }
}
BENCHMARK(BM_RmsNorm);

void BM_SwiGlu(benchmark::State& state) {
  std::vector<float> gate(kGate, 0.7f), up(kGate, 1.0f), out(kGate);
  for (auto _ : state) {
    SwiGlu(gate.data(), up.data(), kGate, out.data());
    benchmark::ClobberMemory();
  }
}
BENCHMARK(BM_SwiGlu);

// Arguments: queries that share the head, cached positions. Time is per call, rate per query.
void BM_Attend(benchmark::State& state, KvType type) {
  constexpr size_t kHeadDim = 64, kBlockTokens = 32;
  const size_t block_bytes = kBlockTokens * kHeadDim * (type == KvType::kF16 ? 2 : 4);
  const auto queries = static_cast<size_t>(state.range(0));
  const auto length = static_cast<size_t>(state.range(1));
  const size_t blocks = (length + kBlockTokens - 1) / kBlockTokens;
  const std::vector<std::byte> cache(blocks * block_bytes);
  std::vector<const std::byte*> rows;
  for (size_t b = 0; b < blocks; ++b) rows.push_back(&cache[b * block_bytes]);
  std::vector<float> in(queries * kHeadDim, 0.1f), out(queries * kHeadDim);
  std::vector<AttentionQuery> list;
  for (size_t q = 0; q < queries; ++q)
    list.push_back({&in[q * kHeadDim], &out[q * kHeadDim], length});
  for (auto _ : state) {
    Attend(list, rows, rows, kBlockTokens, type, kHeadDim, 0.125f);
    benchmark::ClobberMemory();
  }
  state.counters["positions/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(queries * length),
      benchmark::Counter::kIsRate);
}
BENCHMARK_CAPTURE(BM_Attend, F16, KvType::kF16)->ArgsProduct({{1, 3, 24}, {64, 512, 2048}});
BENCHMARK_CAPTURE(BM_Attend, F32, KvType::kF32)->ArgsProduct({{3}, {512}});

void BM_LogSumExp(benchmark::State& state) {
  const std::vector<float> logits(kVocabulary, 0.7f);
  for (auto _ : state) benchmark::DoNotOptimize(LogSumExp(logits.data(), logits.size()));
}
BENCHMARK(BM_LogSumExp);

void BM_ArgMax(benchmark::State& state) {
  const std::vector<float> logits(kVocabulary, 0.7f);
  for (auto _ : state) benchmark::DoNotOptimize(ArgMax(logits.data(), logits.size()));
}
BENCHMARK(BM_ArgMax);

}  // namespace
}  // namespace quantloom::cpu

BENCHMARK_MAIN();
