// How fast ICQuant encodes: weights/s of one tensor, all processors.
//
//   icquant_encode_bench --benchmark_filter=bits=2
#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/parallel.h"
#include "core/codec/codec.h"

namespace quantloom {
namespace {

// The sum of four uniform numbers: bell-shaped, cheap, the same everywhere.
std::vector<float> BellWeights(uint64_t count) {
  std::vector<float> weights(count);
  uint64_t state = 1;
  for (float& w : weights) {
    float sum = 0;
    for (int i = 0; i < 4; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      sum += static_cast<float>(static_cast<int32_t>(state >> 32)) * 0x1p-31f;
    }
    w = sum;
  }
  return weights;
}

void BM_Encode(benchmark::State& state, const std::string& recipe, uint64_t rows, uint64_t cols) {
  const std::vector<float> weights = BellWeights(rows * cols);
  const auto codec = CreateCodec(recipe);
  if (!codec.ok()) {
    state.SkipWithError(std::string(codec.status().message()).c_str());
    return;
  }
  ThreadTeam team;
  for (auto _ : state) {
    auto encoded = (*codec)->Encode({.weights = weights, .rows = rows, .cols = cols}, team);
    benchmark::DoNotOptimize(encoded);
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(rows * cols));
}

void RegisterAll() {
  struct Shape {
    uint64_t rows, cols;
  };
  const std::string recipes[] = {
      "icquant:bits=2",
      "icquant:bits=2,codebook=fp16",
      "icquant:bits=2,codebook=int8,offset=none",
      "icquant:bits=2,codebook=tensor",
      "icquant:bits=2,inner=rtn",
      "icquant:bits=3",
      "icquant:bits=4",
      "icquant:bits=4,codebook=int8,offset=none",
      "icquant:bits=8",
  };
  for (const Shape shape : {Shape{1536, 576}, Shape{256, 4096}}) {
    for (const std::string& recipe : recipes) {
      const std::string name =
          recipe + "/" + std::to_string(shape.rows) + "x" + std::to_string(shape.cols);
      benchmark::RegisterBenchmark(
          name.c_str(),
          [=](benchmark::State& state) { BM_Encode(state, recipe, shape.rows, shape.cols); })
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
    }
  }
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  quantloom::RegisterAll();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
