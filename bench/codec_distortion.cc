// What each codec makes of independent Gaussian weights: mean squared error at the bits it stores.
//
//   codec_distortion                          the table of docs/quality.md
//   codec_distortion qtip:bits=2,code=1mad    of given recipes
//   codec_distortion --json                   [{"recipe", "mse", "bits_per_weight"}, ...]
//
// No calibration: rounding is to nearest. `gap` is the distance to the rate distortion function of
// a Gaussian source, 2^(-2 b) at b bits per weight, in dB.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "core/base/parallel.h"
#include "core/base/status.h"
#include "core/codec/codec.h"
#include "nlohmann/json.hpp"

namespace quantloom {
namespace {

constexpr uint64_t kCols = 1024;

struct Distortion {
  std::string recipe;  // as given
  double mse = 0;
  double bits_per_weight = 0;
  double weights_per_second = 0;  // of encoding, all threads
};

std::vector<std::string> DefaultRecipes() {
  std::vector<std::string> recipes;
  for (const char* bits : {"1", "1.5", "2", "2.5", "3", "3.5", "4"}) {
    for (const char* code : {"mul1", "1mad", "3inst", "hyb"}) {
      recipes.push_back(std::string("qtip:bits=") + bits + ",code=" + code);
    }
  }
  for (const char* bits : {"5", "6", "7", "8"}) {
    for (const char* code : {"mul1", "1mad", "3inst"}) {
      recipes.push_back(std::string("qtip:bits=") + bits + ",code=" + code);
    }
  }
  for (const char* bits : {"2", "3", "4"}) recipes.push_back(std::string("quip:bits=") + bits);
  for (const char* codec : {"icquant", "rtn"}) {
    for (const char* bits : {"1", "2", "3", "4", "8"}) {
      recipes.push_back(std::string(codec) + ":bits=" + bits);
    }
  }
  return recipes;
}

absl::StatusOr<Distortion> Measure(const std::string& recipe, absl::Span<const float> weights,
                                   ThreadTeam& team) {
  QL_ASSIGN_OR_RETURN(const auto codec, CreateCodec(recipe));
  const uint64_t rows = weights.size() / kCols;
  const absl::Time begin = absl::Now();
  QL_ASSIGN_OR_RETURN(const EncodedMatrix encoded,
                      codec->Encode({.weights = weights, .rows = rows, .cols = kCols}, team));
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  std::vector<PlaneView> planes;
  for (const Plane& plane : encoded.planes) planes.push_back(plane.view());
  QL_ASSIGN_OR_RETURN(const auto matrix, OpenMatrix(encoded.recipe, rows, kCols, planes));
  const std::vector<float> decoded = Dequantize(*matrix, team);
  double error = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    const double miss = static_cast<double>(weights[i]) - static_cast<double>(decoded[i]);
    error += miss * miss;
  }
  const auto count = static_cast<double>(weights.size());
  return Distortion{.recipe = recipe,
                    .mse = error / count,
                    .bits_per_weight = matrix->bits().total(),
                    .weights_per_second = count / seconds};
}

void PrintRow(const Distortion& d) {
  std::printf("%-28s %10.5f %8.3f %8.2f %12.0f\n", d.recipe.c_str(), d.mse, d.bits_per_weight,
              10 * std::log10(d.mse * std::exp2(2 * d.bits_per_weight)), d.weights_per_second);
  std::fflush(stdout);
}

int Run(const std::vector<std::string>& recipes, uint64_t weight_count, int threads, bool json) {
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  std::vector<float> weights((weight_count + kCols - 1) / kCols * kCols);
  for (float& weight : weights) weight = static_cast<float>(normal(random));
  ThreadTeam team(threads);
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  if (!json) {
    std::printf("%-28s %10s %8s %8s %12s\n", "recipe", "mse", "bits/w", "gap dB", "weights/s");
  }
  for (const std::string& recipe : recipes) {
    const absl::StatusOr<Distortion> distortion = Measure(recipe, weights, team);
    if (!distortion.ok()) {
      std::cerr << recipe << ": " << distortion.status().message() << "\n";
      return 1;
    }
    if (!json) PrintRow(*distortion);
    list.push_back({{"recipe", distortion->recipe},
                    {"mse", distortion->mse},
                    {"bits_per_weight", distortion->bits_per_weight}});
  }
  if (json) std::cout << list.dump(2) << "\n";
  return 0;
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  std::vector<std::string> recipes;
  uint64_t weights = uint64_t{1} << 20;
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  bool json = false;
  CLI::App app("Distortion of the codecs on independent N(0, 1) weights");
  app.add_option("recipes", recipes, "Recipes to measure; by default every codec at every rate");
  app.add_option("--weights", weights, "How many, rounded up to rows of 1024")
      ->capture_default_str()
      ->check(CLI::Range(quantloom::kCols, uint64_t{1} << 32));
  app.add_option("--threads", threads)->capture_default_str()->check(CLI::Range(1, 1024));
  app.add_flag("--json", json, "A JSON list of {recipe, mse, bits_per_weight}");
  CLI11_PARSE(app, argc, argv);
  if (recipes.empty()) recipes = quantloom::DefaultRecipes();
  return quantloom::Run(recipes, weights, threads, json);
}
