#include "engine/prefix_index.h"

#include <map>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace quantloom {
namespace {

using Tokens = std::vector<int32_t>;

uint64_t Collide(uint64_t, absl::Span<const int32_t>) { return 42; }

TEST(PrefixIndex, FindsABlockByItsTokensAndThoseBeforeThem) {
  PrefixIndex index(8);
  index.Insert(3, {}, Tokens{1, 2});
  index.Insert(5, {.parent = 3}, Tokens{3, 4});
  EXPECT_EQ(index.Find({}, Tokens{1, 2}), 3);
  EXPECT_EQ(index.Find({.parent = 3}, Tokens{3, 4}), 5);
  EXPECT_EQ(index.Find({}, Tokens{3, 4}), PrefixIndex::kNone) << "not at the start";
  EXPECT_EQ(index.Find({.parent = 5}, Tokens{3, 4}), PrefixIndex::kNone);
  EXPECT_EQ(index.Find({.parent = 3}, Tokens{3}), PrefixIndex::kNone);
  EXPECT_FALSE(index.IsLeaf(3));
  index.Erase(5);
  EXPECT_TRUE(index.IsLeaf(3));
  EXPECT_FALSE(index.Contains(5));
  EXPECT_EQ(index.Find({.parent = 3}, Tokens{3, 4}), PrefixIndex::kNone);
}

TEST(PrefixIndex, ACollisionIsNotTakenForAMatch) {
  PrefixIndex index(8, Collide);
  index.Insert(0, {}, Tokens{1, 2});
  index.Insert(1, {}, Tokens{2, 1});
  index.Insert(2, {.salt = "s"}, Tokens{1, 2});
  index.Insert(3, {.parent = 0}, Tokens{1, 2});
  index.Insert(4, {.parent = 1}, Tokens{1, 2});
  EXPECT_EQ(index.Find({}, Tokens{1, 2}), 0);
  EXPECT_EQ(index.Find({}, Tokens{2, 1}), 1);
  EXPECT_EQ(index.Find({.salt = "s"}, Tokens{1, 2}), 2);
  EXPECT_EQ(index.Find({.salt = "s"}, Tokens{2, 1}), PrefixIndex::kNone);
  EXPECT_EQ(index.Find({.parent = 0}, Tokens{1, 2}), 3);
  EXPECT_EQ(index.Find({.parent = 1}, Tokens{1, 2}), 4);
  EXPECT_EQ(index.Find({.parent = 2}, Tokens{1, 2}), PrefixIndex::kNone);
  index.Erase(3);
  EXPECT_EQ(index.Find({.parent = 1}, Tokens{1, 2}), 4);
  EXPECT_EQ(index.Find({.parent = 0}, Tokens{1, 2}), PrefixIndex::kNone);
}

TEST(PrefixIndex, OverlapIsTheLongestAgreementFromTheStart) {
  PrefixIndex index(8);
  index.Insert(0, {}, Tokens{1, 2, 3, 4});
  index.Insert(1, {}, Tokens{1, 2, 5});
  index.Insert(2, {.parent = 0}, Tokens{9, 9});
  const auto overlap = [&](const Tokens& tokens) {
    const PrefixIndex::Overlap found = index.FindOverlap({}, tokens);
    return std::make_pair(found.block, found.tokens);
  };
  EXPECT_EQ(overlap({1, 2, 3, 9}), std::make_pair(0, 3u));
  EXPECT_EQ(overlap({1, 2, 5, 9}), std::make_pair(1, 3u));
  EXPECT_EQ(overlap({2, 2, 3, 4}), std::make_pair(PrefixIndex::kNone, 0u));
  EXPECT_EQ(index.FindOverlap({.salt = "s"}, Tokens{1}).block, PrefixIndex::kNone);
  EXPECT_EQ(index.FindOverlap({.parent = 0}, Tokens{9, 8}).tokens, 1u);
}

TEST(PrefixIndex, HashesOfNeighbouringContentsDiffer) {
  std::map<uint64_t, Tokens> seen;
  for (int32_t a = 0; a < 200; ++a) {
    for (int32_t b = 0; b < 200; ++b) {
      const auto [entry, inserted] = seen.emplace(HashContent(7, Tokens{a, b}), Tokens{a, b});
      ASSERT_TRUE(inserted) << a << "," << b;
    }
  }
  EXPECT_NE(HashContent(7, Tokens{1}), HashContent(8, Tokens{1}));
  EXPECT_NE(HashContent(7, Tokens{0}), HashContent(7, Tokens{0, 0}));
}

}  // namespace
}  // namespace quantloom
