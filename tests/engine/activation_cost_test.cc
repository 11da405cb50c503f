// What int8 activations cost beside what the codec costs, on the demonstration model: some of its
// layers are packed, all else stays in fp32, and the divergence that quantizing those layers'
// inputs adds is compared with the codec's own. Both grow with the number of layers alike, so a few
// say what all would.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/parallel.h"
#include "core/base/status.h"
#include "engine/cpu_backend.h"
#include "engine/source_weights.h"
#include "engine/window_runner.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace quantloom {
namespace {

constexpr size_t kWindow = 256;
constexpr size_t kFirstScored = 32;  // positions before have little context

using Logits = std::vector<std::vector<float>>;

// Mean of KL(p || q) over positions, in nats.
double Divergence(const Logits& p, const Logits& q) {
  const auto log_normalizer = [](const std::vector<float>& logits) {
    double max = logits[0], sum = 0;
    for (const float logit : logits) max = std::max<double>(max, logit);
    for (const float logit : logits) sum += std::exp(logit - max);
    return max + std::log(sum);
  };
  double total = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double of_p = log_normalizer(p[i]), of_q = log_normalizer(q[i]);
    for (size_t v = 0; v < p[i].size(); ++v) {
      const double log_p = p[i][v] - of_p;
      total += std::exp(log_p) * (log_p - (q[i][v] - of_q));
    }
  }
  return total / static_cast<double>(p.size());
}

bool IsIn(const std::set<int>& layers, const std::string& name) {
  for (const int layer : layers) {
    if (name.rfind(absl::StrCat("model.layers.", layer, "."), 0) == 0) return true;
  }
  return false;
}

// The source's parameters, the matrices of some layers packed, rounded to nearest.
class PartlyPacked final : public WeightSource {
 public:
  // Encodes once; makes models on any backend.
  PartlyPacked(const SourceModel& source, const std::string& recipe, std::set<int> layers,
               ThreadTeam& team)
      : source_(source),
        codec_(CreateCodec(recipe).value()),
        layers_(std::move(layers)),
        team_(team) {}

  void Use(Backend& backend) { backend_ = &backend; }

  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Matrix(const std::string& name, uint64_t rows,
                                                       uint64_t cols) override {
    if (!IsIn(layers_, name)) return SourceWeights(source_, *backend_).Matrix(name, rows, cols);
    EncodedMatrix& encoded = encoded_[name];
    if (encoded.planes.empty()) {
      QL_ASSIGN_OR_RETURN(const std::vector<float> weights, source_.ReadFloats(name));
      QL_ASSIGN_OR_RETURN(encoded,
                          codec_->Encode({.weights = weights, .rows = rows, .cols = cols}, team_));
    }
    std::vector<PlaneView> planes;
    for (const Plane& plane : encoded.planes) planes.push_back(plane.view());
    QL_ASSIGN_OR_RETURN(auto matrix, OpenMatrix(encoded.recipe, rows, cols, planes));
    const bool keys_values =
        name.find(".k_proj.") != name.npos || name.find(".v_proj.") != name.npos;
    return backend_->MatrixFromPacked(std::move(matrix),
                                      keys_values ? MatrixUse::kKeysValues : MatrixUse::kProducts);
  }
  absl::StatusOr<std::unique_ptr<DeviceVector>> Vector(const std::string& name,
                                                       uint64_t size) override {
    return SourceWeights(source_, *backend_).Vector(name, size);
  }

 private:
  const SourceModel& source_;
  const std::unique_ptr<Codec> codec_;
  const std::set<int> layers_;
  ThreadTeam& team_;
  Backend* backend_ = nullptr;
  std::map<std::string, EncodedMatrix> encoded_;
};

// KL divergences, in nats.
struct Costs {
  double codec;        // KL(source || packed, activations in fp32)
  double activations;  // KL(packed, activations in fp32 || packed as it runs)
};

struct CostCase {
  const char* name;
  const char* recipe;
  std::set<int> layers;
};

void PrintTo(const CostCase& c, std::ostream* out) { *out << c.recipe; }

// The demonstration model and what it makes of a text, loaded for all cases.
struct Demonstration {
  explicit Demonstration(const std::string& path)
      : source(SourceModel::Open(path).value()), tokens(Window()) {
    const auto backend = CreateCpuBackend(team).value();
    SourceWeights weights(*source, *backend);
    logits = Run(weights, *backend);
  }

  Logits Run(WeightSource& weights, Backend& backend) const {
    const auto model = Model::Create(source->config(), weights, backend).value();
    const auto runner = WindowRunner::Create(*model, kWindow, KvElement::kF32).value();
    EXPECT_TRUE(runner->Forward(tokens).ok());
    Logits all;
    const absl::Status visited =
        runner->VisitLogits(kFirstScored, kWindow, [&](size_t, absl::Span<const float> position) {
          all.emplace_back(position.begin(), position.end());
        });
    EXPECT_TRUE(visited.ok()) << visited;
    return all;
  }

  Costs Measure(const std::string& recipe, const std::set<int>& layers) const {
    PartlyPacked weights(*source, recipe, layers, team);
    const auto run = [&](std::optional<cpu::ActivationForm> form) {
      const auto backend = CreateCpuBackend(team, form).value();
      weights.Use(*backend);
      return Run(weights, *backend);
    };
    const Logits exact = run(cpu::ActivationForm::kFloat);
    const Costs costs = {Divergence(logits, exact), Divergence(exact, run(std::nullopt))};
    std::printf("%s: codec %.3e nats, activations %.3e: %.3f %%\n", recipe.c_str(), costs.codec,
                costs.activations, 100 * costs.activations / costs.codec);
    return costs;
  }

  static std::vector<int32_t> Window() {
    const std::string golden =
        ReadFile(std::string(QUANTLOOM_TESTS_DIR) + "/golden/smollm2_logprobs.json").value();
    auto tokens = nlohmann::json::parse(golden)["windows"][0]["tokens"].get<std::vector<int32_t>>();
    tokens.resize(kWindow);
    return tokens;
  }

  mutable ThreadTeam team;
  const std::unique_ptr<const SourceModel> source;
  const std::vector<int32_t> tokens;
  Logits logits;
};

class ActivationCost : public ::testing::TestWithParam<CostCase> {
 protected:
  void SetUp() override {
    const char* path = std::getenv("QUANTLOOM_TEST_MODEL");
    if (path == nullptr) {
      GTEST_SKIP() << "set QUANTLOOM_TEST_MODEL to SmolLM2-135M-Instruct.Q4_1.gguf to measure "
                      "what int8 activations cost";
    }
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "a whole model in fp32 takes minutes here";
#endif
    demonstration_ = std::make_unique<Demonstration>(path);
  }
  std::unique_ptr<Demonstration> demonstration_;
};

// Some layers are packed, all else stays in fp32. Both divergences grow with the number of layers
// alike, so that a few say what all would.
TEST_P(ActivationCost, IsBelowOnePercentOfTheCodecsOwn) {
  const Costs costs = demonstration_->Measure(GetParam().recipe, GetParam().layers);
  EXPECT_GT(costs.activations, 0) << "both ran with the same activations";
  EXPECT_LT(costs.activations, 0.01 * costs.codec);
}

INSTANTIATE_TEST_SUITE_P(, ActivationCost,
                         ::testing::Values(CostCase{"Icquant2", "icquant:bits=2", {3, 11, 19, 27}},
                                           CostCase{"Icquant4", "icquant:bits=4", {3, 11, 19, 27}},
                                           CostCase{"QtipMul1", "qtip:bits=2,code=mul1", {15}},
                                           CostCase{"QtipMul4", "qtip:bits=4,code=mul1", {15}},
                                           CostCase{"Quip4", "quip:bits=4", {3, 11, 19, 27}},
                                           CostCase{"Quip", "quip:bits=2", {3, 11, 19, 27}}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace quantloom
