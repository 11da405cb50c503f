#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/base/float16.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/ops.h"
#include "tests/kernels/every_target.h"

namespace quantloom::cpu {
namespace {

// One head's cached keys and values: blocks in shuffled order, other heads between them, and where
// nothing is stored a value that would show.
class Cache {
 public:
  Cache(const std::vector<float>& keys, const std::vector<float>& values, size_t length,
        size_t head_dim, size_t block_tokens, KvType type)
      : block_tokens_(block_tokens), type_(type), head_dim_(head_dim) {
    const size_t blocks = (length + block_tokens - 1) / block_tokens;
    const size_t block_bytes = head_dim * block_tokens * (type == KvType::kF16 ? 2 : 4);
    bytes_.resize(3 * blocks * block_bytes, std::byte{0x7B});
    for (size_t b = 0; b < blocks; ++b) {
      std::byte* block = bytes_.data() + 3 * (blocks - 1 - b) * block_bytes;
      keys_.push_back(block);
      values_.push_back(block + block_bytes);
      const size_t first = b * block_tokens;
      for (size_t slot = 0; slot < std::min(block_tokens, length - first); ++slot) {
        const size_t at = (first + slot) * head_dim;
        StoreKey(&keys[at], head_dim, type, block_tokens, slot, block);
        StoreValue(&values[at], head_dim, type, slot, block + block_bytes);
      }
    }
  }
  void Attend(absl::Span<const AttentionQuery> queries, float scale) const {
    cpu::Attend(queries, keys_, values_, block_tokens_, type_, head_dim_, scale);
  }

 private:
  size_t block_tokens_;
  KvType type_;
  size_t head_dim_;
  std::vector<std::byte> bytes_;
  std::vector<const std::byte*> keys_;
  std::vector<const std::byte*> values_;
};

float Stored(float value, KvType type) {
  return type == KvType::kF16 ? HalfToFloat(FloatToHalf(value)) : value;
}

// Softmax attention in double precision, written from its definition.
std::vector<double> NaiveAttention(const std::vector<float>& query, const std::vector<float>& keys,
                                   const std::vector<float>& values, size_t length, size_t head_dim,
                                   double scale, KvType type) {
  std::vector<double> scores(length), out(head_dim);
  double max = -1e300, sum = 0;
  for (size_t p = 0; p < length; ++p) {
    for (size_t d = 0; d < head_dim; ++d) {
      scores[p] += static_cast<double>(query[d]) * Stored(keys[p * head_dim + d], type);
    }
    scores[p] *= scale;
    max = std::max(max, scores[p]);
  }
  for (double& score : scores) sum += score = std::exp(score - max);
  for (size_t p = 0; p < length; ++p) {
    for (size_t d = 0; d < head_dim; ++d) {
      out[d] += scores[p] / sum * Stored(values[p * head_dim + d], type);
    }
  }
  return out;
}

class KvTypes : public testing::TestWithParam<KvType> {};

TEST_P(KvTypes, MatchesTheDefinitionForAnyLengthAndHeadSize) {
  for (size_t head_dim : {4, 16, 20, 64, 80, 128, 256}) {
    for (size_t length : {1, 2, 63, 64, 65, 130, 500}) {
      const std::vector<float> query = RandomFloats(head_dim, 1, 2.0f);
      const std::vector<float> keys = RandomFloats(length * head_dim, 2);
      const std::vector<float> values = RandomFloats(length * head_dim, 3);
      const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
      const Cache cache(keys, values, length, head_dim, 16, GetParam());
      const std::vector<double> expected =
          NaiveAttention(query, keys, values, length, head_dim, scale, GetParam());
      ExpectSameBitsOnEveryTarget([&] {
        std::vector<float> out(head_dim);
        cache.Attend({{query.data(), out.data(), length}}, scale);
        for (size_t d = 0; d < head_dim; ++d) EXPECT_NEAR(out[d], expected[d], 5e-6);
        return out;
      });
    }
  }
}

TEST_P(KvTypes, BlockSizeAndLaterPositionsDoNotShow) {
  const size_t head_dim = 64, length = 200;
  const std::vector<float> query = RandomFloats(head_dim, 1);
  const std::vector<float> keys = RandomFloats(length * head_dim, 2);
  const std::vector<float> values = RandomFloats(length * head_dim, 3);
  const auto attend = [&](size_t block_tokens, size_t cached, size_t attended) {
    const Cache cache(keys, values, cached, head_dim, block_tokens, GetParam());
    std::vector<float> out(head_dim);
    cache.Attend({{query.data(), out.data(), attended}}, 0.125f);
    return out;
  };
  for (size_t attended : {1, 60, 64, 65, 150}) {
    const std::vector<float> alone = attend(16, attended, attended);
    for (size_t block_tokens : {1, 16, 32, 256}) {
      EXPECT_TRUE(SameBits(attend(block_tokens, length, attended), alone));
    }
  }
}

TEST_P(KvTypes, QueriesTogetherGiveTheBitsOfEachAlone) {
  for (size_t head_dim : {20, 64, 128}) {
    const size_t cached = 200;
    const std::vector<float> keys = RandomFloats(cached * head_dim, 2);
    const std::vector<float> values = RandomFloats(cached * head_dim, 3);
    const Cache cache(keys, values, cached, head_dim, 16, GetParam());
    const std::vector<size_t> lengths = {1,  200, 200, 200, 200, 200, 64, 64,
                                         64, 65,  65,  63,  199, 128, 129};
    const std::vector<float> all = RandomFloats(lengths.size() * head_dim, 4);
    OnEveryTarget([&](const std::string&) {
      std::vector<float> together(all.size()), alone(all.size());
      std::vector<AttentionQuery> queries;
      for (size_t i = 0; i < lengths.size(); ++i) {
        const size_t at = i * head_dim;
        queries.push_back({&all[at], &together[at], lengths[i]});
        cache.Attend({{&all[at], &alone[at], lengths[i]}}, 0.3f);
      }
      cache.Attend(queries, 0.3f);
      EXPECT_TRUE(SameBits(together, alone)) << head_dim;
    });
  }
}

TEST_P(KvTypes, ScoresFarApartNeitherOverflowNorVanish) {
  // The largest score comes last: every earlier chunk is rescaled to nothing.
  const size_t head_dim = 64, length = 130;
  std::vector<float> query(head_dim, 30.0f), keys(length * head_dim), values(length * head_dim);
  for (size_t p = 0; p < length; ++p) {
    for (size_t d = 0; d < head_dim; ++d) {
      keys[p * head_dim + d] = static_cast<float>(p) - 100.0f;
      values[p * head_dim + d] = static_cast<float>(p);
    }
  }
  const Cache cache(keys, values, length, head_dim, 16, GetParam());
  OnEveryTarget([&](const std::string&) {
    std::vector<float> out(head_dim);
    cache.Attend({{query.data(), out.data(), length}}, 1.0f);
    for (const float value : out) EXPECT_EQ(value, 129.0f);
  });
}

INSTANTIATE_TEST_SUITE_P(Types, KvTypes, testing::Values(KvType::kF16, KvType::kF32),
                         [](const auto& param) {
                           return std::string(param.param == KvType::kF16 ? "F16" : "F32");
                         });

TEST(StoreValue, RoundsToHalfAsTheReferenceOnEveryTarget) {
  std::vector<float> values;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 65521) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (!std::isnan(value)) values.push_back(value);
  }
  values.push_back(std::numeric_limits<float>::infinity());
  OnEveryTarget([&](const std::string&) {
    std::vector<uint16_t> halves(values.size());
    StoreValue(values.data(), values.size(), KvType::kF16, /*slot=*/0, halves.data());
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(halves[i], FloatToHalf(values[i])) << i;
  });
}

}  // namespace
}  // namespace quantloom::cpu
