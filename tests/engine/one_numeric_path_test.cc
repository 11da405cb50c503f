// Whole packed models of every codec on the CPU: what decides a token has the same bits on every
// SIMD target, with any number of threads, alone and in a batch.
#include <memory>
#include <string>
#include <vector>

#include "core/base/parallel.h"
#include "engine/device.h"
#include "engine/loaded_model.h"
#include "gtest/gtest.h"
#include "tests/engine/logits_in_chunks.h"
#include "tests/kernels/every_target.h"
#include "tests/packed_tiny_model.h"

namespace quantloom {
namespace {

using testing::LogitsInChunks;

struct RecipeCase {
  const char* name;
  const char* recipe;
};

class OneNumericPath : public ::testing::TestWithParam<RecipeCase> {};

TEST_P(OneNumericPath, LogitsAreTheSameBitsOnEveryTargetWithAnyThreadsAloneAndInABatch) {
  const std::vector<int32_t> tokens = testing::Tokens(20, 7);
  std::vector<std::vector<float>> expected;
  cpu::OnEveryTarget([&](const std::string&) {
    for (const int threads : {1, 2}) {
      SCOPED_TRACE(threads);
      ThreadTeam team(threads);
      const auto cpu = OpenCpu();
      ASSERT_TRUE(cpu.ok()) << cpu.status();
      const auto loaded = testing::Load(GetParam().recipe, **cpu, team);
      ASSERT_NE(loaded, nullptr);
      const Model& model = loaded->model();
      if (expected.empty()) {
        expected = LogitsInChunks(model, KvElement::kF16, tokens, {1}, /*with_other=*/false);
      }
      // Prefill alone; decode beside another request; chunks of every path between the two.
      EXPECT_EQ(LogitsInChunks(model, KvElement::kF16, tokens, {20}, false), expected);
      EXPECT_EQ(LogitsInChunks(model, KvElement::kF16, tokens, {1}, true), expected);
      EXPECT_EQ(LogitsInChunks(model, KvElement::kF16, tokens, {9, 1, 4}, true), expected);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(
    , OneNumericPath,
    ::testing::Values(RecipeCase{"Icquant1", "icquant:bits=1"},
                      RecipeCase{"Icquant2", "icquant:bits=2"},
                      RecipeCase{"Icquant3", "icquant:bits=3"},
                      RecipeCase{"Icquant4", "icquant:bits=4"},
                      RecipeCase{"Icquant2Fp16Codebooks", "icquant:bits=2,codebook=fp16"},
                      RecipeCase{"Icquant2Rotated",
                                 "icquant:bits=2,outliers=0,incoherence=two-sided,codebook=tensor"},
                      RecipeCase{"Icquant8", "icquant:bits=8,inner=rtn,outliers=0"},
                      RecipeCase{"QtipMul1", "qtip:bits=2,code=mul1"},
                      RecipeCase{"QtipMul1OfHalfBits", "qtip:bits=2.5,code=mul1"},
                      RecipeCase{"Qtip1Mad", "qtip:bits=2,code=1mad"},
                      RecipeCase{"Qtip3Inst", "qtip:bits=2,code=3inst"},
                      RecipeCase{"QtipHyb", "qtip:bits=2,code=hyb"},
                      RecipeCase{"QtipMul1Of5Bits", "qtip:bits=5,code=mul1"},
                      RecipeCase{"Quip2", "quip:bits=2"}, RecipeCase{"Quip3", "quip:bits=3"},
                      RecipeCase{"Quip4", "quip:bits=4"}, RecipeCase{"Rtn", "rtn:bits=4"}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace quantloom
