#include "engine/kv_cache.h"

#include <numeric>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace quantloom {
namespace {

using Tokens = std::vector<int32_t>;

uint64_t Collide(uint64_t, absl::Span<const int32_t>) { return 42; }

Tokens Ascending(size_t count, int32_t first = 0) {
  Tokens tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// A table of all the tokens, computed and published.
BlockTable Computed(BlockAllocator& blocks, const Tokens& tokens, absl::string_view salt = "") {
  BlockTable table;
  EXPECT_TRUE(blocks.Cover(tokens.size(), table));
  blocks.Publish({tokens, salt}, 0, static_cast<uint32_t>(tokens.size()), table);
  return table;
}

TEST(BlockAllocator, CoversAllOrNothing) {
  BlockAllocator blocks(4, 16);
  BlockTable first;
  BlockTable second;
  EXPECT_TRUE(blocks.Cover(33, first));
  EXPECT_EQ(first.size(), 3u);
  EXPECT_FALSE(blocks.Cover(17, second));
  EXPECT_TRUE(second.empty());
  EXPECT_TRUE(blocks.Cover(16, second));
  EXPECT_EQ(blocks.available(), 0u);
  std::set<int32_t> distinct(first.begin(), first.end());
  distinct.insert(second.begin(), second.end());
  EXPECT_EQ(distinct, (std::set<int32_t>{0, 1, 2, 3}));
  EXPECT_TRUE(blocks.Cover(48, first)) << "already covered";
  blocks.Release(first);
  EXPECT_EQ(blocks.used(), 1u);
}

TEST(BlockAllocator, SharedBlocksAreUsedUntilTheLastTableGivesThemUp) {
  BlockAllocator blocks(8, 4);
  const Tokens tokens = Ascending(10);
  BlockTable first = Computed(blocks, tokens);
  BlockTable second;
  EXPECT_EQ(blocks.Share({tokens, ""}, 0, second), 8u);
  EXPECT_EQ(second, (BlockTable{first[0], first[1]}));
  EXPECT_EQ(blocks.users(first[0]), 2u);
  EXPECT_EQ(blocks.used(), 3u);
  blocks.Release(first);
  EXPECT_EQ(blocks.used(), 2u);
  blocks.Release(second);
  EXPECT_EQ(blocks.used(), 0u);
  EXPECT_EQ(blocks.cached(), 2u);
  EXPECT_EQ(blocks.available(), 8u);
}

TEST(BlockAllocator, CollidingHashesShareNothingThatDiffers) {
  BlockAllocator blocks(16, 4, Collide);
  BlockTable first = Computed(blocks, Ascending(8));
  BlockTable second;
  EXPECT_EQ(blocks.Share({Ascending(8, 1), ""}, 0, second), 0u);
  EXPECT_EQ(blocks.Share({Ascending(8), "salt"}, 0, second), 0u);
  Tokens fork = Ascending(8);
  fork[7] = 99;
  EXPECT_EQ(blocks.Share({fork, ""}, 0, second), 4u);
}

TEST(BlockAllocator, EqualContentsComputedTwiceBecomeOneBlock) {
  BlockAllocator blocks(8, 4);
  const BlockTable first = Computed(blocks, Ascending(8));
  const BlockTable second = Computed(blocks, Ascending(9));
  EXPECT_EQ(second[0], first[0]);
  EXPECT_EQ(second[1], first[1]);
  EXPECT_NE(second[2], first[0]);
  EXPECT_EQ(blocks.used(), 3u);
}

TEST(BlockAllocator, EvictsTheLeastRecentlyUsedWhenNoBlockIsFree) {
  BlockAllocator blocks(6, 4);
  BlockTable old = Computed(blocks, Ascending(8));
  BlockTable young = Computed(blocks, Ascending(8, 100));
  blocks.Release(old);
  blocks.Release(young);
  BlockTable table;
  ASSERT_TRUE(blocks.Cover(8, table)) << "free ones first";
  EXPECT_EQ(blocks.cached(), 4u);
  ASSERT_TRUE(blocks.Cover(12, table));
  BlockTable found_old;
  BlockTable found_young;
  EXPECT_EQ(blocks.Share({Ascending(8), ""}, 0, found_old), 4u) << "a prefix's end goes first";
  EXPECT_EQ(blocks.Share({Ascending(8, 100), ""}, 0, found_young), 8u);
  // What was used again is younger than what was not.
  blocks.Release(found_young);
  blocks.Release(found_old);
  ASSERT_TRUE(blocks.Cover(20, table));
  EXPECT_EQ(blocks.Share({Ascending(8), ""}, 0, found_old), 4u);
  EXPECT_FALSE(blocks.Cover(24, table));
}

TEST(BlockAllocator, AnOverlapIsCopiedNotShared) {
  BlockAllocator blocks(8, 4);
  const Tokens tokens = Ascending(7);
  BlockTable first = Computed(blocks, tokens);
  blocks.PublishTail({tokens, ""}, 7, first);
  blocks.Release(first);
  EXPECT_EQ(blocks.cached(), 2u);

  Tokens longer = Ascending(12);
  longer[6] = 99;
  BlockTable second;
  ASSERT_EQ(blocks.Share({longer, ""}, 0, second), 4u);
  ASSERT_TRUE(blocks.Cover(12, second));
  const auto copy = blocks.CopyOverlap({longer, ""}, 4, second);
  ASSERT_TRUE(copy.has_value());
  EXPECT_EQ(copy->positions, 2u);
  EXPECT_EQ(copy->to, second[1]);
  EXPECT_NE(copy->from, second[1]);
  EXPECT_EQ(blocks.users(second[1]), 1u);
  EXPECT_EQ(blocks.users(copy->from), 0u);
}

TEST(BlockAllocator, ATailThatAddsNothingIsNotKept) {
  BlockAllocator blocks(8, 4);
  const Tokens tokens = Ascending(7);
  BlockTable first = Computed(blocks, tokens);
  BlockTable second = Computed(blocks, tokens);
  blocks.PublishTail({tokens, ""}, 7, first);
  blocks.PublishTail({tokens, ""}, 6, second);
  blocks.Release(first);
  blocks.Release(second);
  EXPECT_EQ(blocks.cached(), 2u);
}

TEST(BlockAllocator, HalfAPrefixCannotBeEvictedUnderItsUser) {
  BlockAllocator blocks(4, 4);
  const Tokens tokens = Ascending(16);
  BlockTable first = Computed(blocks, tokens);
  BlockTable second;
  ASSERT_EQ(blocks.Share({absl::MakeConstSpan(tokens).subspan(0, 8), ""}, 0, second), 8u);
  blocks.Release(first);
  EXPECT_EQ(blocks.used(), 2u);
  BlockTable other;
  EXPECT_FALSE(blocks.Cover(12, other));
  ASSERT_TRUE(blocks.Cover(8, other));
  EXPECT_EQ(blocks.available(), 0u);
  BlockTable third;
  EXPECT_EQ(blocks.Share({tokens, ""}, 0, third), 8u);
}

}  // namespace
}  // namespace quantloom
