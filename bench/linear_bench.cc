// Products with stored matrices: weights/s, bytes/s, and the shares of the read bandwidth and of
// the int8 multiply-adds that one thread of the same machine reaches in the same run.
//
//   linear_bench --benchmark_filter='icquant:bits=4'
//
// Arguments: rows, cols, tokens. One thread; QUANTLOOM_SIMD picks the SIMD target. `cold` rotates
// over copies that together exceed the last-level cache, as a model's layers do during decoding;
// the others' weights stay in the caches, so their bytes are no share of what memory gives.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/machine_limits.h"
#include "bench/random_weights.h"
#include "core/base/parallel.h"
#include "core/codec/codec.h"
#include "kernels/cpu/linear.h"

namespace quantloom::cpu {
namespace {

std::vector<float> NormalFloats(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

// One thread's.
double ReadBandwidth() {
  static const double bandwidth = [] {
    ThreadTeam one(1);
    return MeasureReadBandwidth(one);
  }();
  return bandwidth;
}
double Int8Peak() {
  static const double peak = [] {
    ThreadTeam one(1);
    return MeasureInt8Peak(one);
  }();
  return peak;
}

// A matrix with what it views.
struct Stored {
  std::shared_ptr<const EncodedMatrix> encoded;
  std::unique_ptr<LinearOperator> op;
};

Stored View(const std::shared_ptr<const EncodedMatrix>& encoded, size_t rows, size_t cols) {
  std::vector<PlaneView> views;
  for (const Plane& plane : encoded->planes) views.push_back(plane.view());
  auto matrix = OpenMatrix(encoded->recipe, rows, cols, views);
  if (!matrix.ok()) return {};
  return {encoded, LinearOperator::FromPacked(std::move(matrix).value())};
}

std::shared_ptr<const EncodedMatrix> MakeRandom(const std::string& recipe, size_t rows,
                                                size_t cols) {
  ThreadTeam team;
  const auto weights = RandomWeights::Create(recipe);
  if (!weights.ok()) return nullptr;
  return (*weights)->Make(rows, cols, team).value_or(nullptr);
}

// One operator, or as many with planes of their own as exceed the cache.
std::vector<Stored> EncodedCopies(const std::string& recipe, size_t rows, size_t cols, bool cold) {
  // A benchmark runs its function several times, neighbours share a matrix: the last one is kept.
  static std::string last_key;
  static std::shared_ptr<const EncodedMatrix> last;
  if (std::string key = absl::StrCat(recipe, " ", rows, " ", cols); key != last_key) {
    last = MakeRandom(recipe, rows, cols);
    last_key = key;
  }
  if (last == nullptr) return {};
  std::vector<Stored> copies;
  size_t bytes = 0;
  do {
    copies.push_back(View(std::make_shared<const EncodedMatrix>(*last), rows, cols));
    if (copies.back().op == nullptr) return {};
    bytes += copies.back().op->weight_bytes();
  } while (cold && bytes < BytesBeyondCaches());
  return copies;
}

void MeasureProducts(benchmark::State& state, const std::vector<Stored>& copies) {
  if (copies.empty()) {
    state.SkipWithError("cannot encode");
    return;
  }
  const LinearOperator& first = *copies[0].op;
  const auto tokens = static_cast<size_t>(state.range(2));
  Activations x;
  x.Assign(NormalFloats(tokens * first.cols(), 2).data(), tokens, first.cols(), first.cols(),
           first.activation_form());
  std::vector<float> y(tokens * first.rows());
  size_t next = 0;
  for (auto _ : state) {
    copies[next].op->Multiply(x, 0, first.rows(), y.data(), first.rows());
    benchmark::ClobberMemory();
    if (++next == copies.size()) next = 0;
  }
  const auto products = static_cast<double>(state.iterations());
  const auto bytes = static_cast<double>(first.weight_bytes());
  using benchmark::Counter;
  state.counters["weights/s"] = Counter(
      products * static_cast<double>(first.rows() * first.cols() * tokens), Counter::kIsRate);
  state.counters["bytes/s"] = Counter(products * bytes, Counter::kIsRate, Counter::kIs1024);
  if (copies.size() > 1) {
    state.counters["of_read_bandwidth"] =
        Counter(products * bytes / ReadBandwidth(), Counter::kIsRate);
  }
  state.counters["of_int8_peak"] =
      Counter(products * static_cast<double>(first.rows() * first.cols() * tokens) / Int8Peak(),
              Counter::kIsRate);
  state.SetLabel(ActiveTarget());
}

void Register(const std::string& recipe) {
  // The demonstration model's layers, a wide and a tall one, and for 8 bits its output head.
  std::vector<std::vector<int64_t>> shapes = {{1536, 576}, {576, 1536}, {2048, 8192}, {8192, 2048}};
  if (recipe.find("bits=8") != std::string::npos) shapes.push_back({49152, 576});
  for (const std::vector<int64_t>& shape : shapes) {
    for (const int64_t tokens : {1, 2, 4, 8, 128, 512}) {
      for (const bool cold : {false, true}) {
        if (cold && tokens != 1) continue;
        benchmark::RegisterBenchmark(
            absl::StrCat(recipe, cold ? "/cold" : "").c_str(),
            [recipe, cold](benchmark::State& state) {
              MeasureProducts(state, EncodedCopies(recipe, static_cast<size_t>(state.range(0)),
                                                   static_cast<size_t>(state.range(1)), cold));
            })
            ->Args({shape[0], shape[1], tokens});
      }
    }
  }
}

void BM_Dense(benchmark::State& state, DType dtype) {
  const auto rows = static_cast<size_t>(state.range(0)), cols = static_cast<size_t>(state.range(1));
  const std::vector<uint8_t> zeros(rows * cols * DTypeSize(dtype));
  auto op = LinearOperator::FromDense(rows, cols, dtype, zeros);
  if (!op.ok()) return state.SkipWithError("cannot build");
  std::vector<Stored> one(1);
  one[0].op = std::move(op).value();
  MeasureProducts(state, one);
}
BENCHMARK_CAPTURE(BM_Dense, F32, DType::kF32)->Args({1536, 576, 1})->Args({1536, 576, 128});
BENCHMARK_CAPTURE(BM_Dense, F16, DType::kF16)->Args({1536, 576, 1})->Args({1536, 576, 128});
BENCHMARK_CAPTURE(BM_Dense, BF16, DType::kBF16)->Args({1536, 576, 1})->Args({1536, 576, 128});

}  // namespace
}  // namespace quantloom::cpu

int main(int argc, char** argv) {
  if (const absl::Status status = quantloom::cpu::RequireSupportedCpu(); !status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return 1;
  }
  for (const char* options :
       {"bits=2,codebook=int8", "bits=3,codebook=int8", "bits=4,codebook=int8",
        "bits=4,codebook=int8,outliers=0", "bits=4,codebook=fp16", "bits=8"}) {
    quantloom::cpu::Register(absl::StrCat("icquant:", options));
  }
  for (const char* options :
       {"bits=2,code=mul1", "bits=3,code=mul1", "bits=4,code=mul1", "bits=2.5,code=mul1",
        "bits=2,code=1mad", "bits=2,code=3inst", "bits=2,code=hyb"}) {
    quantloom::cpu::Register(absl::StrCat("qtip:", options));
  }
  for (const char* options : {"bits=2", "bits=3", "bits=4"}) {
    quantloom::cpu::Register(absl::StrCat("quip:", options));
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
