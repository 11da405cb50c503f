#include "services/common/token_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "access_token/access_token.h"
#include "tests/services/common/token_entry.h"

namespace quantloom {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::TokenLine;

TEST(AccessTokenTest, NewToken_CarriesItsNameAndIsEachTimeAnother) {
  for (const char* name : {"a", "alice", "a.b-c_d", "x.ql_y"}) {
    const auto token = NewToken(name);
    ASSERT_TRUE(token.ok());
    EXPECT_EQ(NameInToken(*token), name) << *token;
    EXPECT_NE(*token, *NewToken(name));
    EXPECT_EQ(token->size(), 3 + std::string(name).size() + 1 + 43);
  }
  EXPECT_FALSE(NewToken("").ok());
  EXPECT_FALSE(NewToken("a b").ok());
  EXPECT_FALSE(NewToken(std::string(129, 'a')).ok());
}

TEST(AccessTokenTest, NameInToken_RefusesWhatIsNoToken) {
  const std::string secret(43, 's');
  EXPECT_EQ(NameInToken("ql_a." + secret), "a");
  for (const std::string& text :
       {std::string(), std::string("ql_"), "ql_." + secret, "a." + secret, "ql_a" + secret,
        "ql_a." + secret.substr(1), "ql_a b." + secret}) {
    EXPECT_EQ(NameInToken(text), std::nullopt) << text;
  }
}

TEST(AccessTokenTest, TokenDigest_IsTheSha256OfSaltAndToken) {
  // printf %s 00ff'ql_a.b' | sha256sum
  EXPECT_EQ(TokenDigest("00ff", "ql_a.b"),
            "bd9c1bb36937950642d63d1442ab9de2c758de971f61737f52ec6918b6e58b77");
}

TEST(TokenSetTest, Find_KnowsTheTokensOfTheFileAndNoOthers) {
  const std::string alice = *NewToken("alice");
  const std::string newer = *NewToken("alice");
  const std::string bob = *NewToken("bob");
  const auto tokens = TokenSet::Parse(absl::StrCat("# tokens\n\n", TokenLine(alice, {"generate"}),
                                                   TokenLine(newer, {"admin"}), "  ",
                                                   TokenLine(bob, {"quantize", "generate"})));
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(tokens->size(), 3U);
  ASSERT_NE(tokens->Find(alice), nullptr);
  EXPECT_EQ(tokens->Find(alice)->name, "alice");
  EXPECT_EQ(tokens->Find(alice)->roles, std::set<Role>{Role::kGenerate});
  EXPECT_EQ(tokens->Find(newer)->roles, std::set<Role>{Role::kAdmin});
  EXPECT_EQ(tokens->Find(bob)->roles, (std::set<Role>{Role::kQuantize, Role::kGenerate}));
  EXPECT_EQ(tokens->Find(*NewToken("alice")), nullptr);
  EXPECT_EQ(tokens->Find(*NewToken("carol")), nullptr);
  EXPECT_EQ(tokens->Find(""), nullptr);
  EXPECT_EQ(tokens->Find(alice + "x"), nullptr);
}

TEST(TokenSetTest, Parse_TakesExpiryAndLimits) {
  const std::string token = *NewToken("alice");
  const auto tokens = TokenSet::Parse(
      TokenLine(token, {"generate"},
                R"("expires":"2027-01-31T12:00:00+01:00","requests_per_second":0.5,)"
                R"("burst":3,"concurrent_requests":2)"));
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  const TokenEntry& entry = *tokens->Find(token);
  EXPECT_EQ(entry.expiry, absl::FromCivil(absl::CivilHour(2027, 1, 31, 11), absl::UTCTimeZone()));
  const ClientLimits limits = entry.Limits({10, 20, 30});
  EXPECT_EQ(limits.requests_per_second, 0.5);
  EXPECT_EQ(limits.burst, 3);
  EXPECT_EQ(limits.concurrent_requests, 2);
}

TEST(TokenSetTest, Limits_AreTheDefaultsWhereTheTokenSaysNothing) {
  TokenEntry entry;
  EXPECT_EQ(entry.Limits({10, 20, 30}).burst, 20);
  entry.requests_per_second = 1;
  const ClientLimits limits = entry.Limits({10, 20, 30});
  EXPECT_EQ(limits.requests_per_second, 1);
  EXPECT_EQ(limits.bucket_size(), 1) << "the default burst belongs to the default rate";
  EXPECT_EQ(limits.concurrent_requests, 30);
}

TEST(TokenSetTest, Parse_RefusesWrongLinesAndQuotesNothingOfThem) {
  const std::string token = *NewToken("alice");
  const std::string good = TokenLine(token, {"generate"});
  const struct {
    std::string line;
    const char* problem;
  } kCases[] = {
      {token, "is not a JSON object"},
      {"{\"name\":\"alice\",\"token\":\"" + token + "\"}", "'token' is none of name, salt"},
      {TokenLine(token, {}), "roles: must be a list"},
      {TokenLine(token, {"root"}), "roles: must be a list"},
      {TokenLine(token, {"generate"}, R"("expires":"tomorrow")"), "expires: must be a time"},
      {TokenLine(token, {"generate"}, R"("expired":"2027-01-31T00:00:00Z")"), "'expired' is none"},
      {TokenLine(token, {"generate"}, R"("requests_per_second":-1)"), "must be in 0"},
      {TokenLine(token, {"generate"}, R"("concurrent_requests":1.5)"), "whole number"},
      {TokenLine(token, {"generate"}, R"("burst":"many")"), "burst"},
      {R"({"name":"a b","salt":"","sha256":"","roles":["admin"]})", "name: a name has"},
      {R"({"name":"a","salt":"12","sha256":"","roles":["admin"]})", "salt: must be 32"},
  };
  for (const auto& wrong : kCases) {
    const auto tokens = TokenSet::Parse(good + wrong.line);
    ASSERT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument) << wrong.problem;
    const std::string message(tokens.status().message());
    EXPECT_THAT(message, HasSubstr("line 2: "));
    EXPECT_THAT(message, HasSubstr(wrong.problem));
    EXPECT_THAT(message, Not(HasSubstr(token.substr(token.size() - 43))));
  }
}

TEST(TokenSetTest, Read_NamesTheFile) {
  EXPECT_THAT(std::string(TokenSet::Read("/nonexistent/tokens").status().message()),
              HasSubstr("/nonexistent/tokens"));
}

}  // namespace
}  // namespace quantloom
