#include "engine/fair_share.h"

#include <string>

#include "gtest/gtest.h"

namespace quantloom {
namespace {

TEST(FairShare, ANewcomerStartsWithTheLeastServedOfThoseThatHaveWork) {
  FairShare shares;
  shares.Join("a").served = 500;
  shares.Join("b").served = 300;
  EXPECT_EQ(shares.Join("c").served, 300u);
}

TEST(FairShare, TimeWithoutWorkEarnsNoCreditAndForgivesNothing) {
  FairShare shares;
  shares.Join("busy").served = 100;
  FairShare::Account& lazy = shares.Join("lazy");
  shares.Leave(lazy);
  shares.Join("busy").served = 1000;
  EXPECT_EQ(shares.Join("lazy").served, 1000u);
  FairShare::Account& eager = shares.Join("eager");
  eager.served = 5000;
  shares.Leave(eager);
  EXPECT_EQ(shares.Join("eager").served, 5000u);
}

TEST(FairShare, AnAccountLastsAsLongAsItHasRequests) {
  FairShare shares;
  FairShare::Account& first = shares.Join("a");
  FairShare::Account& second = shares.Join("a");
  EXPECT_EQ(&first, &second);
  first.served = 7;
  shares.Leave(first);
  EXPECT_EQ(second.served, 7u);
  shares.Leave(second);
  EXPECT_EQ(shares.clients(), 0u) << "nobody is left to be compared with";
}

TEST(FairShare, RemembersABoundedNumberOfClients) {
  FairShare shares;
  shares.Join("constant").served = 10;
  for (int i = 0; i < 10000; ++i) {
    FairShare::Account& passing = shares.Join(std::to_string(i));
    passing.served += static_cast<uint64_t>(i) + 1;
    shares.Leave(passing);
    ASSERT_LE(shares.clients(), FairShare::kMaxIdle + 2);
  }
}

}  // namespace
}  // namespace quantloom
