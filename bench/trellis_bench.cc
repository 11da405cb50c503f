// How fast and how well the trellis encodes independent Gaussian weights, one thread.
//
//   trellis_bench --benchmark_filter=mul1        weights/s and distortion of one code
//   trellis_bench --tiles=4096                   distortion over 2^20 weights
//   trellis_bench --t=0.95                       with another scale factor than
//   TrellisScaleFactor's
//
// `mse` is the mean squared error over the weights' mean square, `over_bound` its ratio to the rate
// distortion bound 2^(-2 K).
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/codec/trellis.h"

namespace quantloom {
namespace {

struct Options {
  int tiles = 0;  // per benchmark; 0 lets the library choose
  double t = 0;   // 0: TrellisScaleFactor
};

constexpr struct {
  TrellisCode code;
  const char* name;
} kCodes[] = {{TrellisCode::k1Mad, "1mad"},
              {TrellisCode::kMul1, "mul1"},
              {TrellisCode::k3Inst, "3inst"},
              {TrellisCode::kHyb, "hyb"}};

void BM_Encode(benchmark::State& state, const TrellisFormat& format, double t) {
  TileEncoder encoder(format);
  const double scale = t * TrellisCodebookRms(format.code());
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  std::vector<float> targets(kTileWeights), decoded(kTileWeights);
  std::vector<uint8_t> bits(format.tile_bytes());
  double error = 0, power = 0;
  for (auto _ : state) {
    state.PauseTiming();
    for (float& target : targets) target = static_cast<float>(scale * normal(random));
    state.ResumeTiming();
    encoder.Encode(targets.data(), bits.data(), decoded.data());
    state.PauseTiming();
    for (size_t i = 0; i < kTileWeights; ++i) {
      error += std::pow(static_cast<double>(targets[i]) - decoded[i], 2);
      power += std::pow(static_cast<double>(targets[i]), 2);
    }
    state.ResumeTiming();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kTileWeights));
  state.counters["mse"] = error / power;
  state.counters["over_bound"] = error / power * std::exp2(2 * format.bits());
}

void RegisterAll(const Options& options) {
  for (const auto& [code, name] : kCodes) {
    for (int half_bits = 1; half_bits <= 16; ++half_bits) {
      const auto format = TrellisFormat::Create(code, half_bits);
      if (!format.ok()) continue;
      const double t = options.t > 0 ? options.t : TrellisScaleFactor(*format);
      auto* registered = benchmark::RegisterBenchmark(
          absl::StrCat(name, "/bits=", format->bits()).c_str(),
          [format = *format, t](benchmark::State& state) { BM_Encode(state, format, t); });
      registered->Unit(benchmark::kMicrosecond);
      if (options.tiles > 0) registered->Iterations(options.tiles);
    }
  }
}

// Takes this program's own options out of the arguments; false if one is malformed.
bool TakeOptions(int& argc, char** argv, Options& options) {
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "--tiles=")) {
      if (!absl::SimpleAtoi(argument, &options.tiles) || options.tiles < 1) return false;
    } else if (absl::ConsumePrefix(&argument, "--t=")) {
      if (!absl::SimpleAtod(argument, &options.t) || !(options.t > 0)) return false;
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  return true;
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  quantloom::Options options;
  if (!quantloom::TakeOptions(argc, argv, options)) return 1;
  quantloom::RegisterAll(options);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
