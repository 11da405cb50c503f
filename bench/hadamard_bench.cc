// The Hadamard transform: time per vector and bytes/s (each element read and written once), beside
// a bound: the same vectors multiplied by a constant, which is one pass over them.
//
//   hadamard_bench --benchmark_filter=Vector/576
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/base/parallel.h"
#include "core/transform/hadamard.h"

namespace quantloom {
namespace {

constexpr size_t kSizes[] = {192,  576,  640,   896,   960,   1152,  1536,  2048,
                             2560, 3072, 3584,  4096,  4864,  5120,  6912,  7168,
                             8192, 8960, 11008, 13824, 14336, 16384, 18944, 28672};

void CountBytes(benchmark::State& state, size_t elements) {
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(2 * elements * sizeof(float)));
}

// An orthonormal transform keeps the energy, so repeating it in place never overflows.
void BM_Vector(benchmark::State& state, size_t size, HadamardBlocks blocks) {
  const HadamardTransform transform(size, blocks);
  std::vector<float> x(size, 1.0f);
  for (auto _ : state) {
    transform.Apply(Direction::kForward, absl::MakeSpan(x));
    benchmark::ClobberMemory();
  }
  CountBytes(state, size);
}

void BM_Scale(benchmark::State& state, size_t size) {
  std::vector<float> x(size, 1.0f);
  float factor = 1.0f;
  benchmark::DoNotOptimize(factor);
  for (auto _ : state) {
    for (float& v : x) v *= factor;
    benchmark::ClobberMemory();
  }
  CountBytes(state, size);
}

constexpr size_t kMatrixOther = 1024;

void BM_Rows(benchmark::State& state, size_t size) {
  const HadamardTransform transform(size);
  ThreadTeam team;
  std::vector<float> x(kMatrixOther * size, 1.0f);
  for (auto _ : state) {
    transform.ApplyToRows(Direction::kForward, absl::MakeSpan(x), team);
    benchmark::ClobberMemory();
  }
  CountBytes(state, x.size());
}

void BM_Columns(benchmark::State& state, size_t size) {
  const HadamardTransform transform(size);
  ThreadTeam team;
  std::vector<float> x(kMatrixOther * size, 1.0f);
  for (auto _ : state) {
    transform.ApplyToColumns(Direction::kForward, absl::MakeSpan(x), team);
    benchmark::ClobberMemory();
  }
  CountBytes(state, x.size());
}

void RegisterAll() {
  for (const size_t size : kSizes) {
    const std::string n = std::to_string(size);
    benchmark::RegisterBenchmark(("Vector/" + n).c_str(), [=](benchmark::State& state) {
      BM_Vector(state, size, HadamardBlocks::kFull);
    });
    benchmark::RegisterBenchmark(("Vector128/" + n).c_str(), [=](benchmark::State& state) {
      BM_Vector(state, size, HadamardBlocks::k128);
    });
    benchmark::RegisterBenchmark(("Scale/" + n).c_str(),
                                 [=](benchmark::State& state) { BM_Scale(state, size); });
  }
  for (const size_t size : {576, 1536, 4096, 11008}) {
    const std::string n = std::to_string(size);
    benchmark::RegisterBenchmark(("Rows/" + n).c_str(), [=](benchmark::State& state) {
      BM_Rows(state, size);
    })->UseRealTime();
    benchmark::RegisterBenchmark(("Columns/" + n).c_str(), [=](benchmark::State& state) {
      BM_Columns(state, size);
    })->UseRealTime();
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
