// Chains of operators on rows, against the kernels that each step is elsewhere: bit for bit.
#include "kernels/cuda/row_chain.h"

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/transform/incoherence.h"
#include "gtest/gtest.h"
#include "kernels/cuda/activations.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/hadamard_factors.h"
#include "kernels/cuda/norm.h"
#include "tests/cuda/launch_seed.h"
#include "tests/kernels/random_floats.h"

namespace quantloom::cuda {
namespace {

using cpu::RandomFloats;

constexpr uint32_t kRows = 3;
constexpr float kEps = 1e-5f;
const float kNan = std::numeric_limits<float>::quiet_NaN();

void ExpectLaunched(const char* error) { ASSERT_EQ(error, nullptr) << error; }

// A transform of rows, and the memory that its view shows.
class Transform {
 public:
  Transform(uint32_t cols, HadamardBlocks blocks, Direction direction, uint64_t seed)
      : diagonal_(RandomSigns(seed, cols)),
        factors_(MakeHadamardSigns(cols, blocks, direction)),
        forward_(direction == Direction::kForward) {}
  HadamardView view() const {
    return factors_.View(factors_.words.data(), forward_ ? diagonal_.data() : nullptr,
                         forward_ ? nullptr : diagonal_.data());
  }

 private:
  std::vector<float> diagonal_;
  HadamardSigns factors_;
  bool forward_;
};

// Which steps a chain has, and what they leave.
struct Steps {
  bool swiglu = false, gather = false, output = false, sum = false, norm = false, out = false,
       input = false, prepare = false;
};

struct Results {
  std::vector<float> sum, out;
  std::vector<uint8_t> activations;

  bool operator==(const Results& other) const {
    const auto same = [](const auto& a, const auto& b) {  // NaN is itself
      return a.size() == b.size() &&
             (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0);
    };
    return same(sum, other.sum) && same(out, other.out) && same(activations, other.activations);
  }
};

// A chain's arguments, and its results as one kernel and as several.
class Chain {
 public:
  Chain(uint32_t cols, HadamardBlocks blocks, ActivationForm form, const Steps& steps)
      : cols_(cols),
        form_(form),
        steps_(steps),
        x_(RandomFloats(kRows * x_stride(), cols)),
        sum_(RandomFloats(kRows * cols, cols + 1, 5.0f)),
        norm_(RandomFloats(cols, cols + 2)),
        output_(cols, blocks, Direction::kTransposed, 3),
        input_(cols, blocks, Direction::kForward, 4) {}

  Results Fused() const {
    Results results = Empty();
    RowChain chain = {.rows = kRows, .cols = cols_, .x = x_.data(), .x_stride = x_stride()};
    chain.swiglu = steps_.swiglu;
    if (steps_.gather) chain.gather = kGathered;
    if (steps_.output) chain.output = output_.view();
    if (steps_.sum) {
      chain.sum = results.sum.data();
      chain.sum_stride = cols_;
    }
    if (steps_.norm) {
      chain.norm = norm_.data();
      chain.norm_eps = kEps;
    }
    if (steps_.out) {
      chain.out = results.out.data();
      chain.out_stride = cols_;
    }
    if (steps_.input) chain.input = input_.view();
    if (steps_.prepare) chain.activations = At(results);
    ExpectLaunched(RunRowChain(chain, Stream()));
    return results;
  }

  Results Separate() const {
    Results results = Empty();
    std::vector<float> row(kRows * cols_);
    for (uint32_t t = 0; t < kRows; ++t) {
      const uint32_t from = steps_.gather ? kGathered[t] : t;
      std::memcpy(row.data() + t * cols_, x_.data() + from * x_stride(), cols_ * sizeof(float));
    }
    if (steps_.swiglu) {
      ExpectLaunched(SwiGlu(x_.data(), kRows, cols_, row.data(), Stream()));
    }
    if (steps_.output) TransformAll(output_, row);
    if (steps_.sum) {
      ExpectLaunched(Add(results.sum.data(), cols_, row.data(), cols_, kRows, cols_, Stream()));
      row = results.sum;
    }
    if (steps_.norm) {
      std::vector<float> normed(row.size());
      ExpectLaunched(
          RmsNorm(row.data(), nullptr, kRows, cols_, norm_.data(), kEps, normed.data(), Stream()));
      row = normed;
    }
    if (steps_.out) results.out = row;
    if (steps_.input) TransformAll(input_, row);
    if (steps_.prepare) {
      ExpectLaunched(PrepareActivations(row.data(), cols_, cols_, At(results), Stream()));
    }
    return results;
  }

 private:
  static constexpr uint32_t kGathered[kRows] = {2, 0, 2};

  uint32_t x_stride() const { return steps_.swiglu ? 2 * cols_ : cols_ + 3; }

  Results Empty() const {
    return {sum_, std::vector<float>(kRows * cols_, kNan),
            std::vector<uint8_t>(ActivationBytes(form_, kRows, cols_), 0xFF)};
  }
  Activations At(Results& results) const {
    return ActivationsAt(form_, kRows, cols_, results.activations.data());
  }
  void TransformAll(const Transform& transform, std::vector<float>& rows) const {
    ExpectLaunched(
        TransformRows(transform.view(), rows.data(), cols_, kRows, rows.data(), cols_, Stream()));
  }

  uint32_t cols_;
  ActivationForm form_;
  Steps steps_;
  std::vector<float> x_, sum_, norm_;
  Transform output_, input_;
};

struct Case {
  uint32_t cols;
  HadamardBlocks blocks;
};

class RowChainTest : public testing::TestWithParam<Case> {};

TEST_P(RowChainTest, HasTheBitsOfItsStepsOneByOne) {
  const auto [cols, blocks] = GetParam();
  const Steps after_a_product = {
      .output = true, .sum = true, .norm = true, .out = true, .input = true, .prepare = true};
  const Steps after_a_gate = {.swiglu = true, .out = true, .input = true, .prepare = true};
  for (const ActivationForm form : {ActivationForm::kInt8, ActivationForm::kHalf}) {
    for (const Steps& steps : {after_a_product, after_a_gate}) {
      const Chain chain(cols, blocks, form, steps);
      const Results expected = chain.Separate();
      for (launch_seed = 1; launch_seed <= 2; ++launch_seed) {
        EXPECT_TRUE(chain.Fused() == expected) << (steps.swiglu ? "gate" : "product");
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, RowChainTest,
    testing::Values(Case{1, HadamardBlocks::kFull}, Case{9, HadamardBlocks::kFull},
                    Case{64, HadamardBlocks::kFull}, Case{576, HadamardBlocks::kFull},  // 36 x 16
                    Case{1536, HadamardBlocks::kFull},                                  // 12 x 128
                    Case{2304, HadamardBlocks::kFull},  // two small factors or a large one
                    Case{172, HadamardBlocks::kFull},   // no Sylvester factor
                    Case{8192, HadamardBlocks::kFull},  // more than kMaxSylvester
                    Case{14336, HadamardBlocks::kFull},
                    Case{kMostChainColumns, HadamardBlocks::kFull},
                    Case{1408, HadamardBlocks::k128}, Case{96, HadamardBlocks::k128}),
    [](const auto& test) {
      return absl::StrCat(test.param.cols,
                          test.param.blocks == HadamardBlocks::kFull ? "Full" : "Block128");
    });

TEST(RowChain, TakesAnyOfItsSteps) {
  for (uint32_t mask = 0; mask < 256; ++mask) {
    const auto has = [mask](uint32_t step) { return (mask >> step & 1) != 0; };
    const Steps steps = {.swiglu = has(0),
                         .gather = has(1),
                         .output = has(2),
                         .sum = has(3),
                         .norm = has(4),
                         .out = has(5),
                         .input = has(6),
                         .prepare = has(7)};
    if (steps.swiglu && steps.gather) continue;
    const Chain chain(172, HadamardBlocks::kFull, ActivationForm::kInt8, steps);
    EXPECT_TRUE(chain.Fused() == chain.Separate()) << "steps " << mask;
  }
}

TEST(FinishOutputs, HasTheBitsOfTransformsAndSums) {
  constexpr uint32_t kFirst[] = {2, 578, 706}, kCols[] = {576, 128, 40}, kStride = 750;
  const std::vector<float> bias = RandomFloats(kStride, 8);
  const std::vector<float> x = RandomFloats(kRows * kStride, 9);
  for (uint32_t mask = 0; mask < 64; ++mask) {
    std::vector<float> expected = x;
    std::vector<float> y = x;
    std::vector<Transform> transforms;
    for (const uint32_t cols : kCols) {
      transforms.emplace_back(cols, HadamardBlocks::kFull, Direction::kTransposed, cols);
    }
    OutputParts parts = {.count = 3};
    for (uint32_t i = 0; i < 3; ++i) {
      OutputPart& part = parts.parts[i];
      part = {.first = kFirst[i], .cols = kCols[i]};
      float* const at = expected.data() + kFirst[i];
      if ((mask >> i & 1) != 0) {
        part.transform = transforms[i].view();
        ExpectLaunched(TransformRows(part.transform, at, kStride, kRows, at, kStride, Stream()));
      }
      if ((mask >> (3 + i) & 1) != 0) {
        part.bias = bias.data() + kFirst[i];
        ExpectLaunched(Add(at, kStride, part.bias, 0, kRows, kCols[i], Stream()));
      }
    }
    ExpectLaunched(FinishOutputs(parts, y.data(), kStride, kRows, Stream()));
    EXPECT_EQ(y, expected) << mask;
  }
}

TEST(RowChain, RefusesRowsThatNoBlockHasRoomFor) {
  const RowChain chain = {.rows = 1, .cols = kMostChainColumns + 1};
  EXPECT_STREQ(RunRowChain(chain, Stream()), "RunRowChain: too many columns");
  OutputParts parts = {.count = 1};
  parts.parts[0].cols = kMostChainColumns + 1;
  EXPECT_STREQ(FinishOutputs(parts, nullptr, 1, 1, Stream()), "FinishOutputs: too many columns");
}

}  // namespace
}  // namespace quantloom::cuda
