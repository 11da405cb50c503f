#include "engine/quantize/quantize_model.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/sha256.h"
#include "engine/loaded_model.h"
#include "engine/quantize/calibration.h"
#include "engine/quantize/evaluation.h"
#include "engine/quantize/quality_report.h"
#include "engine/quantize/tensor_plan.h"
#include "engine/window_runner.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/reference_model.h"
#include "tests/kernels/every_target.h"
#include "tests/tiny_model.h"

namespace quantloom {
namespace {

using ::testing::HasSubstr;
using Phase = QuantizeProgress::Phase;

constexpr char kText[] =
    "The river ran low that summer, and the stones along its bed, which in other years no one had "
    "seen, lay white and dry. Children walked out on them to where the ferry used to land. There "
    "the water was still deep enough to swim in, and there they stayed until evening.";

// File name -> SHA-256 of every file below a directory.
std::map<std::string, std::string> Digests(const std::filesystem::path& directory) {
  std::map<std::string, std::string> digests;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    const std::string contents = ReadFile(entry.path()).value();
    digests[std::filesystem::relative(entry.path(), directory).string()] =
        Sha256::Of({reinterpret_cast<const uint8_t*>(contents.data()), contents.size()});
  }
  return digests;
}

class QuantizeModelTest : public ::testing::Test {
 protected:
  QuantizeModelTest() {
    testing::WriteTinyModel(directory_.path() / "source", 7);
    options_.source = directory_.path() / "source";
    options_.recipe = "icquant:bits=2,outliers=0.05,inner=kmeans";
    options_.calibration_tokens = 256;
    options_.evaluation_text = kText;
    options_.evaluation_name = "river";
    options_.evaluation_window_tokens = 64;
    options_.seed = 3;
  }

  std::filesystem::path Staging(const std::string& name) const { return directory_.path() / name; }

  absl::StatusOr<QuantizeResult> Run(
      const std::string& name, int threads = 2,
      const std::function<bool()>& cancelled = [] { return false; }) {
    ThreadTeam team(threads);
    return QuantizeModel(
        options_, Staging(name), team,
        [this](const QuantizeProgress& progress) { progress_.push_back(progress); }, cancelled);
  }

  testing::TemporaryDirectory directory_;
  QuantizeOptions options_;
  std::vector<QuantizeProgress> progress_;
};

TEST_F(QuantizeModelTest, LeavesTheSameBytesForAnyThreadsAndSimdTarget) {
  ASSERT_TRUE(Run("first").ok());
  const auto expected = Digests(Staging("first"));
  EXPECT_TRUE(expected.count("quantloom.json") && expected.count("report.html"));
  int run = 0;
  cpu::OnEveryTarget([&](const std::string&) {
    for (int threads : {1, 2}) {
      const std::string name = "run" + std::to_string(run++);
      ASSERT_TRUE(Run(name, threads).ok());
      EXPECT_EQ(Digests(Staging(name)), expected);
    }
  });
}

TEST_F(QuantizeModelTest, ResumesWhereItWasInterruptedWithTheSameBytes) {
  ASSERT_TRUE(Run("whole").ok());
  for (const auto& [phase, least] : {std::pair{Phase::kCalibrating, 0u},
                                     {Phase::kEncoding, 5u},
                                     {Phase::kWriting, 0u},
                                     {Phase::kEvaluating, 0u}}) {
    const std::string name = "interrupted" + std::to_string(static_cast<int>(phase));
    const auto stop = [&, phase = phase, least = least] {
      return progress_.back().phase == phase && progress_.back().tensors_done >= least;
    };
    EXPECT_EQ(Run(name, 2, stop).status().code(), absl::StatusCode::kCancelled);
    const auto result = Run(name);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(Digests(Staging(name)), Digests(Staging("whole")));
    EXPECT_TRUE(result->quality.has_value());
  }
}

TEST_F(QuantizeModelTest, ResumingWhatIsFinishedNeitherCalibratesNorEncodesAgain) {
  ASSERT_TRUE(Run("finished").ok());
  progress_.clear();
  const auto result = Run("finished");
  ASSERT_TRUE(result.ok()) << result.status();
  for (const QuantizeProgress& progress : progress_) {
    EXPECT_TRUE(progress.phase == Phase::kLoading || progress.phase == Phase::kEvaluating);
  }
  EXPECT_EQ(progress_.back().weights_done, progress_.back().weights_total);
  options_.seed = 4;
  EXPECT_EQ(Run("finished").status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(QuantizeModelTest, TheSourceIsOpenedOnce) {
  // Gone from when it was opened until its digest is taken.
  const std::filesystem::path config = options_.source / "config.json";
  const std::filesystem::path away = options_.source / "away";
  ThreadTeam team(2);
  const auto result = QuantizeModel(
      options_, Staging("once"), team,
      [&](const QuantizeProgress& progress) {
        if (progress.phase < Phase::kEncoding && std::filesystem::exists(config)) {
          std::filesystem::rename(config, away);
        } else if (progress.phase == Phase::kEncoding && std::filesystem::exists(away)) {
          std::filesystem::rename(away, config);
        }
      },
      [] { return false; });
  EXPECT_TRUE(result.ok()) << result.status();
}

TEST_F(QuantizeModelTest, ResolvingSetsTheEvaluationsWindow) {
  options_.evaluation_window_tokens = 0;
  ASSERT_TRUE(ResolveQuantizeOptions(options_).ok());
  EXPECT_EQ(options_.evaluation_window_tokens, testing::TinyConfig().max_position);
  options_.evaluation_window_tokens = 64;
  ASSERT_TRUE(ResolveQuantizeOptions(options_).ok());
  EXPECT_EQ(options_.evaluation_window_tokens, 64u);
}

TEST_F(QuantizeModelTest, ProgressCountsEveryTensorAndWeightOnce) {
  const auto result = Run("counted");
  ASSERT_TRUE(result.ok()) << result.status();
  uint64_t weights = 0;
  uint32_t done = 0;
  for (const QuantizeProgress& progress : progress_) {
    EXPECT_GE(progress.tensors_done, done);
    EXPECT_GE(progress.weights_done, weights);
    EXPECT_GE(progress.phase_fraction, 0);
    EXPECT_LE(progress.phase_fraction, 1);
    done = progress.tensors_done;
    weights = progress.weights_done;
  }
  EXPECT_EQ(done, result->manifest.tensors.size());
  EXPECT_EQ(done, progress_.back().tensors_total);
  EXPECT_EQ(weights, progress_.back().weights_total);
  EXPECT_EQ(progress_.back().phase, Phase::kEvaluating);
  EXPECT_NEAR(progress_.back().bits_per_weight, result->manifest.linear_bits_per_weight, 1e-9);
}

TEST_F(QuantizeModelTest, OverridesDecideByFirstMatchAndLeaveTheRest) {
  options_.overrides = {{"*.layers.0.*down_proj*", "icquant:bits=4"},
                        {"*.layers.0.*", "icquant:bits=3"}};
  options_.evaluation_text.clear();
  const auto result = Run("overridden");
  ASSERT_TRUE(result.ok()) << result.status();
  for (const PackedTensorInfo& tensor : result->manifest.tensors) {
    const bool linear = absl::StrContains(tensor.name, "_proj");
    const bool first = absl::StrContains(tensor.name, "layers.0.");
    const char* bits = !linear  ? (absl::StrContains(tensor.name, "embed") ? "bits=8" : "raw")
                       : !first ? "bits=2"
                       : absl::StrContains(tensor.name, "down_proj") ? "bits=4"
                                                                     : "bits=3";
    EXPECT_THAT(tensor.recipe, HasSubstr(bits)) << tensor.name;
  }
  EXPECT_FALSE(result->quality.has_value());
}

TEST_F(QuantizeModelTest, RefusesWhatCannotWorkNamingTheField) {
  struct Case {
    const char* name;
    std::function<void(QuantizeOptions&)> change;
    absl::StatusCode code;
    const char* named;
  };
  const std::vector<Case> cases = {
      {"unknown codec", [](auto& o) { o.recipe = "zip:bits=2"; },
       absl::StatusCode::kInvalidArgument, "recipe"},
      {"bits", [](auto& o) { o.recipe = "icquant:bits=5"; }, absl::StatusCode::kInvalidArgument,
       "bits"},
      {"embedding", [](auto& o) { o.embedding_recipe = "icquant:gamma=1"; },
       absl::StatusCode::kInvalidArgument, "embedding_recipe"},
      {"embedding whose rows cannot be looked up",
       [](auto& o) { o.embedding_recipe = "qtip:bits=4"; }, absl::StatusCode::kInvalidArgument,
       "model.embed_tokens.weight"},
      {"override recipe",
       [](auto& o) {
         o.overrides = {{"*", "icquant:bits=99"}};
       },
       absl::StatusCode::kInvalidArgument, "overrides[0]"},
      {"idle override",
       [](auto& o) {
         o.overrides = {{"*", "icquant:bits=2"}, {"nothing", "icquant:bits=2"}};
       },
       absl::StatusCode::kInvalidArgument, "overrides[1]"},
      {"missing source", [](auto& o) { o.source = "/nonexistent/model"; },
       absl::StatusCode::kNotFound, "source"},
      {"tokens", [](auto& o) { o.calibration_tokens = 2'000'000; },
       absl::StatusCode::kInvalidArgument, "calibration.tokens"},
      {"short window", [](auto& o) { o.evaluation_window_tokens = 8; },
       absl::StatusCode::kInvalidArgument, "evaluation.window_tokens"},
      {"long window", [](auto& o) { o.evaluation_window_tokens = 1000; },
       absl::StatusCode::kInvalidArgument, "evaluation.window_tokens"},
      {"short text", [](auto& o) { o.evaluation_text = "short"; },
       absl::StatusCode::kInvalidArgument, "evaluation"},
      {"short calibration", [](auto& o) { o.calibration_text = "x"; },
       absl::StatusCode::kInvalidArgument, "calibration"},
  };
  const QuantizeOptions good = options_;
  for (const Case& test : cases) {
    options_ = good;
    test.change(options_);
    const absl::Status status = Run(std::string("bad ") + test.name).status();
    EXPECT_EQ(status.code(), test.code) << test.name << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(test.named)) << test.name;
  }
}

TEST_F(QuantizeModelTest, AnUnsupportedArchitectureIsNamed) {
  std::string config = ReadFile(options_.source / "config.json").value();
  const size_t at = config.find("LlamaForCausalLM");
  ASSERT_NE(at, std::string::npos);
  config.replace(at, 16, "MambaForCausalLM");
  ASSERT_TRUE(WriteFileAtomically(options_.source / "config.json", config).ok());
  const absl::Status status = Run("mamba").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("MambaForCausalLM"));
}

TEST_F(QuantizeModelTest, SampledCalibrationFollowsTheSeed) {
  ThreadTeam team(2);
  const auto model = LoadedModel::LoadSource(options_.source, team).value();
  const auto sample = [&](uint64_t seed) {
    return SampleCalibrationText(*model, 512, seed, [](double) { return absl::OkStatus(); })
        .value();
  };
  const CalibrationText first = sample(1), again = sample(1), other = sample(2);
  EXPECT_EQ(first.tokens(), 512u);
  EXPECT_EQ(first.windows, again.windows);
  EXPECT_EQ(first.Digest(), again.Digest());
  EXPECT_NE(first.Digest(), other.Digest());
}

TEST_F(QuantizeModelTest, PerplexityIsThatOfAnIndependentForwardPass) {
  options_.recipe = "icquant:bits=8,inner=rtn,outliers=0";
  const auto result = Run("eight");
  ASSERT_TRUE(result.ok()) << result.status();
  ThreadTeam team(2);
  const auto model = LoadedModel::LoadSource(options_.source, team).value();
  const std::vector<int32_t> tokens = model->EncodePrompt(kText, false);
  const auto weights = testing::TinyWeights(testing::TinyConfig(), 7);
  double nll = 0;
  uint64_t scored = 0;
  for (size_t w = 0; w + 64 <= tokens.size(); w += 64) {
    const std::vector<int32_t> window(tokens.begin() + w, tokens.begin() + w + 64);
    const auto logits = testing::ReferenceLogits(testing::TinyConfig(), weights, window);
    for (size_t i = 32; i < 64; ++i, ++scored) {
      double sum = 0;
      for (double logit : logits[i - 1]) sum += std::exp(logit);
      nll += std::log(sum) - logits[i - 1][window[i]];
    }
  }
  const QualityMetrics& quality = *result->quality;
  EXPECT_EQ(quality.scored_tokens, scored);
  EXPECT_NEAR(std::log(quality.perplexity_source), nll / static_cast<double>(scored), 1e-5);
  // Eight bits are nearly lossless, two are not.
  EXPECT_NEAR(quality.perplexity_packed / quality.perplexity_source, 1, 0.05);
  EXPECT_LT(quality.kl_mean, 0.01);
  EXPECT_GE(quality.kl_p99, quality.kl_mean);
  options_.recipe = "icquant:bits=2";
  EXPECT_GT(Run("two")->quality->kl_mean, 10 * quality.kl_mean);
}

// The first layer's inputs are the same either way; from there on they differ, and with them what
// is stored, unless nothing was lost before.
TEST_F(QuantizeModelTest, CalibratesOnTheActivationsThatWereAskedFor) {
  options_.calibration_text = kText;
  options_.calibration_tokens = 64;
  options_.evaluation_text.clear();
  const auto run = [&](const std::string& name, bool on_source) {
    options_.calibrate_on_source = on_source;
    EXPECT_TRUE(Run(name).ok());
    const auto packed = PackedModel::Open(Staging(name), Verify::kFull).value();
    std::map<std::string, std::string> digests;
    for (const PackedTensorInfo& tensor : packed->manifest().tensors) {
      for (const PackedPlaneInfo& plane : tensor.planes) digests[tensor.name] += plane.sha256;
    }
    return digests;
  };
  auto on_quantized = run("quantized", false);
  auto on_source = run("source_activations", true);
  EXPECT_EQ(on_quantized["model.layers.0.self_attn.q_proj.weight"],
            on_source["model.layers.0.self_attn.q_proj.weight"]);
  EXPECT_NE(on_quantized["model.layers.1.mlp.down_proj.weight"],
            on_source["model.layers.1.mlp.down_proj.weight"]);
}

TEST_F(QuantizeModelTest, AModelOfMixedCodecsIsTheModelOfItsDequantizedMatrices) {
  // Of those whose products take activations as they are.
  options_.recipe = "qtip:bits=5,code=3inst";
  options_.embedding_recipe = "qtip:bits=6,code=3inst,incoherence=input";
  options_.overrides = {
      {"*.0.self_attn.k_proj*", "qtip:bits=5,code=mul1,hadamard=128"},
      {"*.0.self_attn.v_proj*", "qtip:bits=6,code=1mad,incoherence=input"},
      {"*.1.self_attn.k_proj*", "qtip:bits=6,code=mul1,incoherence=none"},
      {"*.1.mlp.up_proj*", "icquant:bits=4,codebook=fp16"},
      {"*.1.mlp.gate_proj*", "icquant:bits=4,codebook=fp16,outliers=0,incoherence=two-sided"},
      {"*.0.mlp.down_proj*", "icquant:bits=2.5,inner=trellis"},
      {"*.1.mlp.down_proj*", "rtn:bits=4,group=16"}};
  options_.calibration_text = kText;
  options_.calibration_tokens = 64;
  options_.evaluation_text.clear();
  const auto result = Run("mixed");
  ASSERT_TRUE(result.ok()) << result.status();

  ThreadTeam team(2);
  auto weights = testing::TinyWeights(testing::TinyConfig(), 7);
  const auto packed = PackedModel::Open(Staging("mixed"), Verify::kFull).value();
  for (const PackedTensorInfo& tensor : result->manifest.tensors) {
    if (tensor.recipe == "raw") continue;
    weights[tensor.name] = Dequantize(*packed->OpenMatrix(tensor.name).value(), team);
  }
  const auto model = LoadedModel::LoadPacked(Staging("mixed"), Verify::kHeader, team);
  ASSERT_TRUE(model.ok()) << model.status();
  std::vector<int32_t> tokens = (*model)->EncodePrompt(kText, false);
  tokens.resize(40);
  const auto expected = testing::ReferenceLogits(testing::TinyConfig(), weights, tokens);
  auto runner = WindowRunner::Create((*model)->model(), tokens.size(), KvElement::kF32).value();
  ASSERT_TRUE(runner->Forward(tokens).ok());
  const absl::Status visited =
      runner->VisitLogits(0, tokens.size(), [&](size_t position, absl::Span<const float> logits) {
        for (size_t v = 0; v < logits.size(); ++v) {
          ASSERT_NEAR(logits[v], expected[position][v], 2e-4) << position << ", " << v;
        }
      });
  EXPECT_TRUE(visited.ok()) << visited;
}

TEST(QualityReport, HoldsTheFiguresAndEscapesNames) {
  PackedManifest manifest;
  manifest.recipe = "icquant:bits=2";
  manifest.linear_bits_per_weight = 2.5;
  PackedTensorInfo tensor;
  tensor.name = "model.<b>.weight";
  tensor.shape = {2, 3};
  tensor.recipe = "icquant:bits=2";
  tensor.bits_per_weight = 2.5;
  tensor.bits.codes = 2;
  tensor.bits.index = 0.5;
  tensor.relative_error = 0.0625;
  manifest.tensors = {tensor};
  QualityMetrics quality;
  quality.text_name = "a & b";
  quality.kl_mean = 0.125;

  const auto json = nlohmann::json::parse(QualityJson(manifest, quality));
  EXPECT_EQ(json["linear_bits_per_weight"], 2.5);
  EXPECT_EQ(json["quality"]["kl_mean"], 0.125);
  EXPECT_EQ(json["tensors"][0]["name"], "model.<b>.weight");
  EXPECT_FALSE(nlohmann::json::parse(QualityJson(manifest, std::nullopt)).contains("quality"));

  const std::string html = QualityHtml("<script>", manifest, quality);
  EXPECT_THAT(html, HasSubstr("<svg"));
  EXPECT_THAT(html, HasSubstr("model.&lt;b&gt;.weight"));
  EXPECT_THAT(html, HasSubstr("a &amp; b"));
  EXPECT_THAT(html, ::testing::Not(HasSubstr("<script>")));
  EXPECT_THAT(html, HasSubstr("0.06250"));
}

}  // namespace
}  // namespace quantloom
