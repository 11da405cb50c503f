#include "core/transform/hadamard.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "core/base/parallel.h"
#include "core/transform/small_hadamard.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/every_simd_target.h"
#include "tests/core/gaussian_values.h"

namespace quantloom {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Widths of real models' layers, and products that need several small factors.
constexpr size_t kModelSizes[] = {
    192,  384,  576,  640,   768,   896,   960,   1024,  1152,  1280,  1536,  2048,  2304,
    2560, 3072, 3200, 3584,  4096,  4864,  5120,  5632,  6144,  6912,  7168,  8192,  8640,
    8960, 9728, 9984, 11008, 11520, 11776, 13824, 14336, 14784, 14848, 16384, 18944, 28672};
constexpr size_t kOddSizes[] = {1,  2,  3,  4,  6,  7,   8,   12,  16,   17,
                                20, 24, 32, 48, 97, 100, 144, 188, 1000, 13696};

std::vector<size_t> AllSizes() {
  std::vector<size_t> sizes(std::begin(kModelSizes), std::end(kModelSizes));
  sizes.insert(sizes.end(), std::begin(kOddSizes), std::end(kOddSizes));
  return sizes;
}

// Entries of the matrix by its definition as a Kronecker product, the block-diagonal form included.
class Definition {
 public:
  explicit Definition(const HadamardFactors& factors) : factors_(factors) {
    for (const size_t order : factors.small) matrices_.push_back(SmallHadamard(order));
  }

  double operator()(size_t i, size_t j) const {
    const size_t block = factors_.block();
    if (i / block != j / block) return 0;
    const double scale = 1 / std::sqrt(static_cast<double>(block));
    int sign = std::popcount((i & j) % factors_.power) % 2 == 0 ? 1 : -1;
    i = i % block / factors_.power;
    j = j % block / factors_.power;
    for (size_t f = matrices_.size(); f-- > 0;) {
      const size_t order = factors_.small[f];
      sign *= matrices_[f][i % order * order + j % order];
      i /= order;
      j /= order;
    }
    return sign * scale;
  }

 private:
  HadamardFactors factors_;
  std::vector<std::vector<int8_t>> matrices_;
};

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - b[i]));
  }
  return largest;
}

TEST(SmallHadamard, EveryOrderIsAHadamardMatrix) {
  std::vector<size_t> missing;
  for (size_t order = 12; order <= kMaxSmallHadamardOrder; order += 8) {
    if (!HasSmallHadamard(order)) {
      missing.push_back(order);
      continue;
    }
    const std::vector<int8_t> h = SmallHadamard(order);
    ASSERT_EQ(h.size(), order * order);
    for (size_t a = 0; a < order; ++a) {
      for (size_t b = 0; b <= a; ++b) {
        int dot = 0;
        for (size_t j = 0; j < order; ++j) dot += h[a * order + j] * h[b * order + j];
        ASSERT_EQ(dot, a == b ? static_cast<int>(order) : 0)
            << order << ": rows " << a << ", " << b;
      }
    }
    ASSERT_TRUE(std::all_of(h.begin(), h.end(), [](int8_t e) { return e == 1 || e == -1; }));
  }
  EXPECT_THAT(missing, ElementsAre(188, 236));
}

TEST(SmallHadamard, OtherOrdersAreRefused) {
  for (const size_t order : {0, 1, 2, 4, 8, 13, 16, 24, 260, 268}) {
    EXPECT_FALSE(HasSmallHadamard(order)) << order;
  }
}

TEST(FactorHadamard, FollowsTheDocumentedRule) {
  struct Case {
    size_t size;
    std::vector<size_t> small;
    size_t power;
  };
  const Case cases[] = {
      {1, {}, 1},
      {2, {}, 2},
      {3, {}, 1},
      {6, {}, 2},
      {17, {}, 1},
      {100, {100}, 1},
      {192, {12}, 16},
      {576, {36}, 16},
      {640, {20}, 32},
      {960, {60}, 16},
      {1000, {100}, 2},  // 125 = 25 * 5 needs two factors and 16: two blocks of 200
      {4864, {76}, 64},
      {8640, {180, 12}, 4},  // 135 = 45 * 3
      {8960, {140}, 64},
      {11008, {172}, 64},
      {13696, {}, 128},       // 107: order 428 is beyond the small ones
      {14784, {132, 28}, 4},  // 231 = 33 * 7
      {18944, {148}, 128},
      {28672, {28}, 1024},
  };
  for (const Case& c : cases) {
    const HadamardFactors factors = FactorHadamard(c.size, HadamardBlocks::kFull);
    EXPECT_EQ(factors.small, c.small) << c.size;
    EXPECT_EQ(factors.power, c.power) << c.size;
  }
}

TEST(FactorHadamard, RealModelsGetOneBlock) {
  for (const size_t size : kModelSizes) {
    EXPECT_EQ(FactorHadamard(size, HadamardBlocks::kFull).block(), size);
  }
}

TEST(FactorHadamard, BlocksOf128ArePowersOfTwo) {
  struct Case {
    size_t size, block;
  };
  for (const Case c :
       {Case{1, 1}, {7, 1}, {100, 4}, {192, 64}, {576, 64}, {4096, 128}, {11008, 128}}) {
    const HadamardFactors factors = FactorHadamard(c.size, HadamardBlocks::k128);
    EXPECT_THAT(factors.small, IsEmpty());
    EXPECT_EQ(factors.power, c.block) << c.size;
  }
}

TEST(HadamardTransform, ColumnsOfTheMatrixAreThoseOfTheDefinition) {
  for (const size_t size : AllSizes()) {
    const HadamardTransform transform(size);
    const Definition definition(transform.factors());
    for (const size_t column : {size_t{0}, size / 3, size - 1}) {
      for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
        std::vector<float> x(size);
        x[column] = 1;
        transform.Apply(direction, absl::MakeSpan(x));
        for (size_t i = 0; i < size; ++i) {
          const bool forward = direction == Direction::kForward;
          const double entry = forward ? definition(i, column) : definition(column, i);
          ASSERT_EQ(x[i], static_cast<float>(entry))
              << size << ": row " << i << ", column " << column;
        }
      }
    }
  }
}

TEST(HadamardTransform, EqualsTheDenseProduct) {
  for (const HadamardBlocks blocks : {HadamardBlocks::kFull, HadamardBlocks::k128}) {
    for (const size_t size : AllSizes()) {
      if (size > 1536) continue;
      const HadamardTransform transform(size, blocks);
      const Definition definition(transform.factors());
      const std::vector<float> x = GaussianValues(size, 1);
      std::vector<float> forward = x, transposed = x, expected(size), expected_transposed(size);
      transform.Apply(Direction::kForward, absl::MakeSpan(forward));
      transform.Apply(Direction::kTransposed, absl::MakeSpan(transposed));
      for (size_t i = 0; i < size; ++i) {
        double sum = 0, sum_transposed = 0;
        for (size_t j = 0; j < size; ++j) {
          sum += definition(i, j) * x[j];
          sum_transposed += definition(j, i) * x[j];
        }
        expected[i] = static_cast<float>(sum);
        expected_transposed[i] = static_cast<float>(sum_transposed);
      }
      EXPECT_LT(LargestDifference(forward, expected), 4e-6) << size;
      EXPECT_LT(LargestDifference(transposed, expected_transposed), 4e-6) << size;
    }
  }
}

TEST(HadamardTransform, TransposeDiffersWhereTheMatrixIsNotSymmetric) {
  // 12 and 172 come from a skew and from Williamson's array; 28 and powers of two are symmetric.
  for (const size_t size : {size_t{12}, size_t{192}, size_t{1536}, size_t{11008}}) {
    std::vector<float> forward = GaussianValues(size, 2), transposed = forward;
    HadamardTransform(size).Apply(Direction::kForward, absl::MakeSpan(forward));
    HadamardTransform(size).Apply(Direction::kTransposed, absl::MakeSpan(transposed));
    EXPECT_GT(LargestDifference(forward, transposed), 0.5) << size;
  }
  for (const size_t size : {size_t{896}, size_t{1024}}) {
    std::vector<float> forward = GaussianValues(size, 2), transposed = forward;
    HadamardTransform(size).Apply(Direction::kForward, absl::MakeSpan(forward));
    HadamardTransform(size).Apply(Direction::kTransposed, absl::MakeSpan(transposed));
    EXPECT_EQ(forward, transposed) << size;
  }
}

TEST(HadamardTransform, TransposeUndoesIt) {
  for (const HadamardBlocks blocks : {HadamardBlocks::kFull, HadamardBlocks::k128}) {
    for (const size_t size : AllSizes()) {
      const HadamardTransform transform(size, blocks);
      const std::vector<float> x = GaussianValues(size, 3);
      std::vector<float> y = x;
      transform.Apply(Direction::kForward, absl::MakeSpan(y));
      double before = 0, after = 0;
      for (const float v : x) before += static_cast<double>(v) * v;
      for (const float v : y) after += static_cast<double>(v) * v;
      EXPECT_NEAR(after / before, 1, 1e-5) << size;
      transform.Apply(Direction::kTransposed, absl::MakeSpan(y));
      EXPECT_LT(LargestDifference(x, y), 1e-5) << size;
    }
  }
}

TEST(HadamardTransform, SignsComeBeforeTheMatrix) {
  const size_t size = 60;
  std::vector<float> signs(size, 1.0f);
  for (size_t i = 0; i < size; i += 3) signs[i] = -1;
  const HadamardTransform plain(size), signed_transform(size, HadamardBlocks::kFull, signs);
  const std::vector<float> x = GaussianValues(size, 4);

  std::vector<float> expected = x, y = x;
  for (size_t i = 0; i < size; ++i) expected[i] *= signs[i];
  plain.Apply(Direction::kForward, absl::MakeSpan(expected));
  signed_transform.Apply(Direction::kForward, absl::MakeSpan(y));
  EXPECT_EQ(y, expected);

  expected = y = x;
  plain.Apply(Direction::kTransposed, absl::MakeSpan(expected));
  for (size_t i = 0; i < size; ++i) expected[i] *= signs[i];
  signed_transform.Apply(Direction::kTransposed, absl::MakeSpan(y));
  EXPECT_EQ(y, expected);
}

// Rows and columns of a matrix have the bits that single vectors have, with any team.
template <typename T>
void ExpectMatrixFormsEqualVectors(size_t size, HadamardBlocks blocks) {
  std::vector<float> signs(size, 1.0f);
  signs[size / 2] = -1;
  const HadamardTransform transform(size, blocks, signs);
  const size_t count = 37;  // not a multiple of a panel
  const std::vector<T> rows = GaussianValues<T>(count * size, 5);
  std::vector<T> columns(rows.size());
  for (size_t r = 0; r < count; ++r) {
    for (size_t i = 0; i < size; ++i) columns[i * count + r] = rows[r * size + i];
  }
  for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
    std::vector<T> single = rows;
    ThreadTeam alone(1);
    for (size_t r = 0; r < count; ++r) {
      if constexpr (sizeof(T) == sizeof(float)) {
        transform.Apply(direction, absl::MakeSpan(single.data() + r * size, size));
      } else {
        transform.ApplyToRows(direction, absl::MakeSpan(single.data() + r * size, size), alone);
      }
    }
    for (const int threads : {1, 2}) {
      ThreadTeam team(threads);
      std::vector<T> by_rows = rows, by_columns = columns;
      transform.ApplyToRows(direction, absl::MakeSpan(by_rows), team);
      transform.ApplyToColumns(direction, absl::MakeSpan(by_columns), team);
      ASSERT_EQ(by_rows, single) << size;
      for (size_t r = 0; r < count; ++r) {
        for (size_t i = 0; i < size; ++i) {
          ASSERT_EQ(by_columns[i * count + r], single[r * size + i]) << size << ": " << i;
        }
      }
    }
  }
}

TEST(HadamardTransform, RowsAndColumnsHaveTheBitsOfSingleVectors) {
  for (const size_t size : {1, 2, 3, 7, 12, 24, 36, 100, 144, 576, 1000, 8192, 11008, 14784}) {
    ExpectMatrixFormsEqualVectors<float>(size, HadamardBlocks::kFull);
    ExpectMatrixFormsEqualVectors<double>(size, HadamardBlocks::kFull);
  }
  ExpectMatrixFormsEqualVectors<float>(576, HadamardBlocks::k128);
  ExpectMatrixFormsEqualVectors<double>(576, HadamardBlocks::k128);
}

TEST(HadamardTransform, EverySimdTargetGivesTheSameBits) {
  ThreadTeam team(1);
  for (const size_t size : AllSizes()) {
    const HadamardTransform transform(size);
    for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
      const std::vector<float> x = GaussianValues(size, 6);
      const std::vector<double> wide(x.begin(), x.end());
      std::vector<float> first;
      std::vector<double> first_wide;
      int targets = 0;
      OnEverySimdTarget([&](const char* target) {
        std::vector<float> y = x, z = x;
        std::vector<double> y_wide = wide;
        transform.Apply(direction, absl::MakeSpan(y));
        transform.ApplyToColumns(direction, absl::MakeSpan(z), team);
        transform.ApplyToRows(direction, absl::MakeSpan(y_wide), team);
        if (targets++ == 0) {
          first = y;
          first_wide = y_wide;
        }
        EXPECT_EQ(y, first) << size << " on " << target;
        EXPECT_EQ(z, first) << size << " on " << target;
        EXPECT_EQ(y_wide, first_wide) << size << " on " << target;
      });
      EXPECT_GE(targets, 1);
    }
  }
}

TEST(HadamardTransform, AnEmptyMatrixIsLeftAlone) {
  ThreadTeam team(1);
  const HadamardTransform transform(12);
  std::vector<float> none;
  transform.ApplyToRows(Direction::kForward, absl::MakeSpan(none), team);
  transform.ApplyToColumns(Direction::kForward, absl::MakeSpan(none), team);
  EXPECT_THAT(none, IsEmpty());
}

}  // namespace
}  // namespace quantloom
