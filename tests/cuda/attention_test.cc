// Attention over the paged cache against softmax in double.
#include "kernels/cuda/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/base/float16.h"
#include "gtest/gtest.h"
#include "tests/cuda/launch_seed.h"
#include "tests/kernels/random_floats.h"

namespace quantloom::cuda {
namespace {

using cpu::RandomFloats;

constexpr uint32_t kBlockTokens = 16;

struct Shape {
  uint32_t heads;
  uint32_t kv_heads;
  uint32_t head_dim;
};

// Sequences with full caches, and a batch of some of their positions.
class Attention {
 public:
  Attention(const Shape& shape, const std::vector<uint32_t>& lengths) : shape_(shape) {
    uint32_t block_count = 0;
    for (const uint32_t length : lengths) {
      first_block_.push_back(block_count);
      block_count += (length + kBlockTokens - 1) / kBlockTokens;
    }
    blocks_.resize(block_count);
    for (uint32_t i = 0; i < block_count; ++i) blocks_[i] = static_cast<int32_t>(i);
    std::shuffle(blocks_.begin(), blocks_.end(), std::mt19937(1));
    kv_ = {nullptr, 2ull * shape.kv_heads * kBlockTokens * shape.head_dim, kBlockTokens,
           shape.kv_heads, shape.head_dim};
    // What no sequence holds is NaN: it must not matter.
    cache_.assign(block_count * kv_.block_stride, 0x7E00);
    for (uint32_t s = 0; s < lengths.size(); ++s) {
      for (uint32_t p = 0; p < lengths[s]; ++p) {
        const std::vector<float> values =
            RandomFloats(2 * shape.kv_heads * shape.head_dim, 1000 * s + p);
        for (uint32_t i = 0; i < values.size(); ++i) {
          const uint32_t plane_head = i / shape.head_dim;
          cache_[Element(s, plane_head, p) + i % shape.head_dim] = FloatToHalf(values[i]);
        }
      }
    }
    kv_.keys = cache_.data();
  }

  void AddRow(uint32_t sequence, int32_t position) {
    sequences_.push_back(sequence);
    positions_.push_back(position);
    tables_.push_back(first_block_[sequence]);
    const std::vector<float> row = RandomFloats(
        (shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim,
        77 * sequence + static_cast<uint32_t>(position));  // its own, whatever the batch
    qkv_.insert(qkv_.end(), row.begin(), row.end());
  }
  size_t rows() const { return positions_.size(); }
  size_t columns() const { return size_t{shape_.heads} * shape_.head_dim; }

  // With tiles, or each row for itself; with partitions in different blocks, or one after another.
  std::vector<float> Run(const std::vector<AttentionTile>& tiles, bool split) const {
    std::vector<float> out(rows() * columns(), std::numeric_limits<float>::quiet_NaN());
    const int32_t longest = *std::max_element(positions_.begin(), positions_.end()) + 1;
    // One more than are needed.
    const uint32_t partitions = static_cast<uint32_t>(longest) / kAttentionPartition + 2;
    std::vector<float> partials(
        rows() * shape_.heads * partitions * AttentionPartialFloats(shape_.head_dim),
        std::numeric_limits<float>::quiet_NaN());
    const AttentionArguments arguments = {.qkv = qkv_.data(),
                                          .heads = shape_.heads,
                                          .scale = Scale(),
                                          .out = out.data(),
                                          .tiles = tiles.empty() ? nullptr : tiles.data(),
                                          .tile_count = static_cast<uint32_t>(tiles.size()),
                                          .partials = split ? partials.data() : nullptr,
                                          .partitions = partitions};
    const char* const error = Attend(
        {nullptr, positions_.data(), tables_.data(), blocks_.data(), static_cast<uint32_t>(rows())},
        kv_, arguments, Stream());
    EXPECT_EQ(error, nullptr) << error;
    return out;
  }

  // Element by element: the softmax-weighted sum, and what the computed one may differ by.
  //
  // A score's error is at most (d/4 + 4) roundings of |q| |k| scale, which bounds the relative
  // error of its weight; expf adds 2 units in the last place and the subtraction before it a
  // rounding of its result. Weighted sums add a rounding for each position and three for each chunk
  // and partition; numerator and denominator share the weights' errors, which therefore count twice
  // at most.
  void ExpectNear(const std::vector<float>& out) const {
    constexpr double kEpsilon = 0x1p-24;
    const uint32_t group = shape_.heads / shape_.kv_heads;
    for (size_t t = 0; t < rows(); ++t) {
      const auto length = static_cast<uint32_t>(positions_[t] + 1);
      for (uint32_t h = 0; h < shape_.heads; ++h) {
        const float* const q =
            qkv_.data() + (t * (shape_.heads + 2 * shape_.kv_heads) + h) * shape_.head_dim;
        std::vector<double> scores(length);
        double score_error = 0, largest = -std::numeric_limits<double>::infinity(), widest = 0;
        for (uint32_t p = 0; p < length; ++p) {
          double magnitude = 0;
          for (uint32_t c = 0; c < shape_.head_dim; ++c) {
            const double product = double{q[c]} * Key(t, h / group, p, c);
            scores[p] += product * Scale();
            magnitude += std::abs(product) * Scale();
          }
          score_error = std::max(score_error, (shape_.head_dim / 4.0 + 4) * kEpsilon * magnitude);
          largest = std::max(largest, scores[p]);
          widest = std::max(widest, largest - scores[p]);
        }
        const double weight_error = 2 * score_error + (widest + 4) * kEpsilon;
        const double roundings =
            2 * weight_error + (2 * length + 3 * (length / 32.0 + 8)) * kEpsilon;
        double sum = 0;
        for (const double score : scores) sum += std::exp(score - largest);
        for (uint32_t c = 0; c < shape_.head_dim; ++c) {
          double value = 0, magnitude = 0;
          for (uint32_t p = 0; p < length; ++p) {
            const double weight = std::exp(scores[p] - largest) / sum;
            const double v = Key(t, shape_.kv_heads + h / group, p, c);
            value += weight * v;
            magnitude += weight * std::abs(v);
          }
          ASSERT_NEAR(out[t * columns() + h * shape_.head_dim + c], value, magnitude * roundings)
              << "row " << t << ", head " << h << ", column " << c;
        }
      }
    }
  }

 private:
  float Scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  size_t Element(uint32_t sequence, uint32_t plane_head, uint32_t position) const {
    const auto block =
        static_cast<size_t>(blocks_[first_block_[sequence] + position / kBlockTokens]);
    return block * kv_.block_stride +
           (size_t{plane_head} * kBlockTokens + position % kBlockTokens) * shape_.head_dim;
  }
  double Key(size_t row, uint32_t plane_head, uint32_t position, uint32_t c) const {
    return HalfToFloat(cache_[Element(sequences_[row], plane_head, position) + c]);
  }

  Shape shape_;
  std::vector<uint32_t> first_block_;
  std::vector<int32_t> blocks_;
  KvView kv_;
  std::vector<uint16_t> cache_;
  std::vector<uint32_t> sequences_;
  std::vector<int32_t> positions_;
  std::vector<uint32_t> tables_;
  std::vector<float> qkv_;
};

class AttentionTest : public testing::TestWithParam<Shape> {};

TEST_P(AttentionTest, IsSoftmaxAttentionOverTheRowsPositions) {
  const Shape shape = GetParam();
  Attention attention(shape, {1, 33, 300});
  for (const auto& [sequence, position] :
       {std::pair{0u, 0}, {1u, 31}, {1u, 32}, {2u, 255}, {2u, 256}, {2u, 299}}) {
    attention.AddRow(sequence, position);
  }
  for (launch_seed = 1; launch_seed <= 2; ++launch_seed)
    attention.ExpectNear(attention.Run({}, true));
}

TEST_P(AttentionTest, ARowIsTheSameInATileAloneAndSplit) {
  const Shape shape = GetParam();
  constexpr uint32_t kFirst = 250;
  constexpr uint32_t kRows = 11;
  Attention attention(shape, {kFirst + kRows, 40});
  std::vector<AttentionTile> tiles;
  const uint32_t tile_rows = AttentionTileRows(shape.heads / shape.kv_heads);
  for (uint32_t row = 0; row < kRows; ++row) {
    attention.AddRow(0, static_cast<int32_t>(kFirst + row));
    if (row % tile_rows == 0) tiles.push_back({row, std::min(tile_rows, kRows - row)});
  }
  attention.AddRow(1, 20);
  tiles.push_back({kRows, 1});
  const std::vector<float> in_tiles = attention.Run(tiles, false);
  attention.ExpectNear(in_tiles);
  EXPECT_EQ(in_tiles, attention.Run({}, false));
  EXPECT_EQ(in_tiles, attention.Run({}, true));
  EXPECT_EQ(in_tiles, attention.Run(tiles, true));
  Attention alone(shape, {kFirst + kRows, 40});
  alone.AddRow(0, kFirst + kRows - 1);
  const std::vector<float> of_one = alone.Run({}, true);
  EXPECT_TRUE(std::equal(of_one.begin(), of_one.end(),
                         in_tiles.begin() + (kRows - 1) * attention.columns()));
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest,
                         testing::Values(Shape{2, 2, 16}, Shape{3, 1, 64}, Shape{8, 1, 80},
                                         Shape{10, 1, 24}, Shape{2, 1, 136}));

TEST(AttentionTest, PaddingRowsDoNothing) {
  Attention attention({2, 1, 16}, {20});
  attention.AddRow(0, 19);
  attention.AddRow(0, -1);
  for (const bool split : {false, true}) {
    const std::vector<float> out = attention.Run({}, split);
    EXPECT_TRUE(std::isfinite(out[0]));
    EXPECT_TRUE(std::isnan(out[attention.columns()]));
  }
}

TEST(AttentionTest, RefusesHeadsThatItCannotLoad) {
  for (const uint32_t dim : {12u, 264u}) {
    const KvView kv = {nullptr, 0, kBlockTokens, 1, dim};
    EXPECT_NE(Attend(BatchView(), kv, AttentionArguments(), Stream()), nullptr);
  }
}

}  // namespace
}  // namespace quantloom::cuda
