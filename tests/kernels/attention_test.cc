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

// One head's cached keys or values: blocks in shuffled order, tokens `stride` bytes apart (other
// heads lie between), the rest filled with a value that would show.
class Cache {
 public:
  Cache(const std::vector<float>& rows, size_t length, size_t head_dim, size_t block_tokens,
        KvType type)
      : stride_(3 * head_dim * (type == KvType::kF16 ? 2 : 4)) {
    const size_t blocks = (length + block_tokens - 1) / block_tokens;
    bytes_.resize(blocks * block_tokens * stride_, std::byte{0x7B});
    for (size_t b = 0; b < blocks; ++b) {
      blocks_.push_back(bytes_.data() + (blocks - 1 - b) * block_tokens * stride_);
    }
    for (size_t p = 0; p < length; ++p) {
      std::byte* to =
          bytes_.data() + (blocks_[p / block_tokens] - bytes_.data()) + p % block_tokens * stride_;
      StoreKv(&rows[p * head_dim], head_dim, type, to);
    }
  }
  const std::vector<const std::byte*>& blocks() const { return blocks_; }
  size_t stride() const { return stride_; }

 private:
  size_t stride_;
  std::vector<std::byte> bytes_;
  std::vector<const std::byte*> blocks_;
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
      const Cache key_cache(keys, length, head_dim, 16, GetParam());
      const Cache value_cache(values, length, head_dim, 16, GetParam());
      const std::vector<double> expected =
          NaiveAttention(query, keys, values, length, head_dim, scale, GetParam());
      ExpectSameBitsOnEveryTarget([&] {
        std::vector<float> out(head_dim);
        Attend({{query.data(), out.data(), length}}, key_cache.blocks(), value_cache.blocks(), 16,
               key_cache.stride(), GetParam(), head_dim, scale);
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
    const Cache key_cache(keys, cached, head_dim, block_tokens, GetParam());
    const Cache value_cache(values, cached, head_dim, block_tokens, GetParam());
    std::vector<float> out(head_dim);
    Attend({{query.data(), out.data(), attended}}, key_cache.blocks(), value_cache.blocks(),
           block_tokens, key_cache.stride(), GetParam(), head_dim, 0.125f);
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
    const Cache key_cache(keys, cached, head_dim, 16, GetParam());
    const Cache value_cache(values, cached, head_dim, 16, GetParam());
    const std::vector<size_t> lengths = {1, 200, 64, 65, 63, 199, 128};
    const std::vector<float> all = RandomFloats(lengths.size() * head_dim, 4);
    OnEveryTarget([&](const std::string&) {
      std::vector<float> together(all.size()), alone(all.size());
      std::vector<AttentionQuery> queries;
      for (size_t i = 0; i < lengths.size(); ++i) {
        const size_t at = i * head_dim;
        queries.push_back({&all[at], &together[at], lengths[i]});
        Attend({{&all[at], &alone[at], lengths[i]}}, key_cache.blocks(), value_cache.blocks(), 16,
               key_cache.stride(), GetParam(), head_dim, 0.3f);
      }
      Attend(queries, key_cache.blocks(), value_cache.blocks(), 16, key_cache.stride(), GetParam(),
             head_dim, 0.3f);
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
  const Cache key_cache(keys, length, head_dim, 16, GetParam());
  const Cache value_cache(values, length, head_dim, 16, GetParam());
  OnEveryTarget([&](const std::string&) {
    std::vector<float> out(head_dim);
    Attend({{query.data(), out.data(), length}}, key_cache.blocks(), value_cache.blocks(), 16,
           key_cache.stride(), GetParam(), head_dim, 1.0f);
    for (const float value : out) EXPECT_EQ(value, 129.0f);
  });
}

INSTANTIATE_TEST_SUITE_P(Types, KvTypes, testing::Values(KvType::kF16, KvType::kF32),
                         [](const auto& param) {
                           return std::string(param.param == KvType::kF16 ? "F16" : "F32");
                         });

TEST(StoreKv, RoundsToHalfAsTheReferenceOnEveryTarget) {
  std::vector<float> values;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 65521) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (!std::isnan(value)) values.push_back(value);
  }
  values.push_back(std::numeric_limits<float>::infinity());
  OnEveryTarget([&](const std::string&) {
    std::vector<uint16_t> halves(values.size());
    StoreKv(values.data(), values.size(), KvType::kF16, halves.data());
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(halves[i], FloatToHalf(values[i])) << i;
  });
}

}  // namespace
}  // namespace quantloom::cpu
