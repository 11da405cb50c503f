// E8P: weights encoded per second on one core, and the distortion of N(0, 1) weights by the rms
// that they are scaled to (the error is divided by its square) and by the scale of the residual.
//
//   e8p_bench --benchmark_filter=Encode
//   e8p_bench --benchmark_filter=Distortion
#include <benchmark/benchmark.h>

#include <cstdint>
#include <random>
#include <vector>

#include "core/base/parallel.h"
#include "core/codec/e8p.h"

namespace quantloom {
namespace {

constexpr size_t kRows = 1 << 18;  // 2^21 weights

const std::vector<float>& Weights() {
  static const auto* const weights = [] {
    std::mt19937_64 random(1);
    std::normal_distribution<float> normal;
    auto* values = new std::vector<float>(8 * kRows);
    for (float& value : *values) value = normal(random);
    return values;
  }();
  return *weights;
}

// Encodes the weights scaled by `scale`; the mean squared error relative to their variance.
double Distortion(const E8pRate& rate, float scale, ThreadTeam& team) {
  std::vector<float> targets = Weights();
  for (float& target : targets) target *= scale;
  std::vector<uint16_t> codes(kRows), residual_codes(kRows);
  std::vector<float> decoded(targets.size());
  EncodeE8p(rate, targets.data(), nullptr, kRows, codes.data(), residual_codes.data(),
            decoded.data(), team);
  double error = 0;
  for (size_t i = 0; i < targets.size(); ++i) {
    const double miss = static_cast<double>(targets[i]) - decoded[i];
    error += miss * miss;
  }
  return error / static_cast<double>(targets.size()) / (static_cast<double>(scale) * scale);
}

// Argument: bits.
void BM_Encode(benchmark::State& state) {
  const E8pRate rate = *E8pRateOfBits(static_cast<int>(state.range(0)));
  constexpr size_t kEncoded = 1 << 14;
  ThreadTeam team(1);
  std::vector<uint16_t> codes(kEncoded), residual_codes(kEncoded);
  std::vector<float> decoded(8 * kEncoded);
  for (auto _ : state) {
    EncodeE8p(rate, Weights().data(), nullptr, kEncoded, codes.data(), residual_codes.data(),
              decoded.data(), team);
    benchmark::DoNotOptimize(decoded.data());
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(8 * kEncoded));
}
BENCHMARK(BM_Encode)->Arg(2)->Arg(3)->Arg(4)->ArgName("bits")->Unit(benchmark::kMillisecond);

// Arguments: bits, input rms and residual scale in hundredths. The counter "mse" is the result.
void BM_Distortion(benchmark::State& state) {
  E8pRate rate = *E8pRateOfBits(static_cast<int>(state.range(0)));
  if (rate.residual_scale != 0.0f) {
    rate.residual_scale = static_cast<float>(state.range(2)) / 100.0f;
  }
  ThreadTeam team;
  double mse = 0;
  for (auto _ : state) mse = Distortion(rate, static_cast<float>(state.range(1)) / 100.0f, team);
  state.counters["mse"] = mse;
}
BENCHMARK(BM_Distortion)
    ->ArgsProduct({{2}, benchmark::CreateDenseRange(90, 110, 1), {0}})
    ->ArgsProduct({{3}, {90, 94, 96, 98, 100, 103}, {190, 198, 204, 210, 220}})
    ->ArgsProduct({{4}, {85, 90, 93, 96, 103}, {325, 345, 360, 380, 400}})
    ->ArgNames({"bits", "rms*100", "scale*100"})
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace quantloom

BENCHMARK_MAIN();
