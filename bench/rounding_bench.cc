// How fast Hessians accumulate and factor, and LDLQ's feedback runs: fused multiply-adds per second
// beside the machine's peak.
//
//   rounding_bench --benchmark_filter=Factor
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "core/base/parallel.h"
#include "core/rounding/block_ldl.h"
#include "core/rounding/hessian.h"
#include "core/rounding/ldlq.h"
#include "core/rounding/proxy_loss.h"

namespace quantloom {
namespace {

std::vector<float> Gaussian(uint64_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

class IntegerQuantizer final : public ColumnQuantizer {
 public:
  IntegerQuantizer(uint64_t width, uint64_t rows) : width_(width), rows_(rows) {}
  uint64_t width() const override { return width_; }
  absl::Status Quantize(uint64_t, uint64_t columns, const float* targets, float* decoded,
                        ThreadTeam&) override {
    for (uint64_t i = 0; i < columns * rows_; ++i) decoded[i] = std::nearbyint(targets[i]);
    return absl::OkStatus();
  }

 private:
  uint64_t width_, rows_;
};

Hessian MakeHessian(uint64_t n, uint64_t tokens, ThreadTeam& team) {
  Hessian hessian(n);
  hessian.Accumulate(Gaussian(n * tokens), team);
  return hessian;
}

void SetFmaRate(benchmark::State& state, double fmas) {
  state.counters["FMA/s"] = benchmark::Counter(fmas * static_cast<double>(state.iterations()),
                                               benchmark::Counter::kIsRate);
}

// Arguments: n, threads. 1024 tokens; n^2 / 2 FMAs (fp32) a token.
void BM_Accumulate(benchmark::State& state) {
  const auto n = static_cast<uint64_t>(state.range(0));
  ThreadTeam team(static_cast<int>(state.range(1)));
  constexpr uint64_t kTokens = 1024;
  const std::vector<float> inputs = Gaussian(n * kTokens);
  Hessian hessian(n);
  for (auto _ : state) hessian.Accumulate(inputs, team);
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kTokens));
  SetFmaRate(state, 0.5 * static_cast<double>(n * n * kTokens));
}
BENCHMARK(BM_Accumulate)
    ->ArgsProduct({{576, 1536, 4096}, {1, 2}})
    ->ArgNames({"n", "threads"})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

// Arguments: n, block, threads. n^3 / 6 FMAs (fp64).
void BM_Factor(benchmark::State& state) {
  const auto n = static_cast<uint64_t>(state.range(0));
  ThreadTeam team(static_cast<int>(state.range(2)));
  const Hessian hessian = MakeHessian(n, 256, team);
  for (auto _ : state) {
    auto ldl = BlockLdl::Factor(hessian, static_cast<uint64_t>(state.range(1)), team);
    benchmark::DoNotOptimize(ldl);
  }
  SetFmaRate(state, static_cast<double>(n) * static_cast<double>(n * n) / 6);
}
BENCHMARK(BM_Factor)
    ->ArgsProduct({{576, 1536, 4096}, {1, 16}, {1, 2}})
    ->ArgNames({"n", "block", "threads"})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

// Arguments: n, block, threads. 1536 rows, a quantizer that costs next to nothing; n^2 / 2 FMAs
// (fp32) a row.
void BM_Ldlq(benchmark::State& state) {
  const auto n = static_cast<uint64_t>(state.range(0));
  const auto block = static_cast<uint64_t>(state.range(1));
  constexpr uint64_t kRows = 1536;
  ThreadTeam team(static_cast<int>(state.range(2)));
  const auto ldl = BlockLdl::Factor(MakeHessian(n, 256, team), block, team);
  if (!ldl.ok()) {
    state.SkipWithError("factorization failed");
    return;
  }
  const std::vector<float> weights_t = Gaussian(n * kRows);
  std::vector<float> decoded(weights_t.size());
  IntegerQuantizer quantizer(block, kRows);
  for (auto _ : state) {
    const absl::Status rounded =
        Ldlq(*ldl, weights_t, kRows, quantizer, absl::MakeSpan(decoded), team);
    if (!rounded.ok()) state.SkipWithError("rounding failed");
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(n * kRows));
  SetFmaRate(state, 0.5 * static_cast<double>(n * n * kRows));
}
BENCHMARK(BM_Ldlq)
    ->ArgsProduct({{576, 1536, 4096}, {1, 8, 16}, {1, 2}})
    ->ArgNames({"n", "block", "threads"})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

// Arguments: n, threads. 1536 rows; 2 n^2 FMAs (fp64) a row.
void BM_ProxyLoss(benchmark::State& state) {
  const auto n = static_cast<uint64_t>(state.range(0));
  constexpr uint64_t kRows = 1536;
  ThreadTeam team(static_cast<int>(state.range(1)));
  const Hessian hessian = MakeHessian(n, 256, team);
  const std::vector<float> weights_t = Gaussian(n * kRows);
  std::vector<float> decoded = weights_t;
  for (float& value : decoded) value = std::nearbyint(value);
  for (auto _ : state) {
    benchmark::DoNotOptimize(ProxyLoss(hessian, weights_t, decoded, kRows, team));
  }
  SetFmaRate(state, 2.0 * static_cast<double>(n * n * kRows));
}
BENCHMARK(BM_ProxyLoss)
    ->ArgsProduct({{576, 1536}, {1, 2}})
    ->ArgNames({"n", "threads"})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace quantloom

BENCHMARK_MAIN();
