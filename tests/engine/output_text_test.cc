#include "engine/output_text.h"

#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace quantloom {
namespace {

TEST(StopStringFilter, HoldsBackExactlyWhatMayBelongToAStopString) {
  StopStringFilter filter({"STOP", "END."});
  EXPECT_EQ(filter.Push("go S"), "go ");
  EXPECT_EQ(filter.Push("T"), "");
  EXPECT_EQ(filter.Push("AY E"), "STAY ");
  EXPECT_EQ(filter.Push("NDED"), "ENDED");
  EXPECT_FALSE(filter.stopped().has_value());
  EXPECT_EQ(filter.Push("ST"), "");
  EXPECT_EQ(filter.Push("OP and more"), "");
  EXPECT_EQ(filter.stopped(), "STOP");
  EXPECT_EQ(filter.Push("END."), "");
  EXPECT_EQ(filter.Flush(), "");
}

TEST(StopStringFilter, FlushReturnsWhatWasHeldBack) {
  StopStringFilter filter({"abc"});
  EXPECT_EQ(filter.Push("xab"), "x");
  EXPECT_EQ(filter.Flush(), "ab");
}

TEST(StopStringFilter, FindsAStringWhoseStartRepeats) {
  StopStringFilter filter({"aab"});
  EXPECT_EQ(filter.Push("a"), "");
  EXPECT_EQ(filter.Push("a"), "");
  EXPECT_EQ(filter.Push("a"), "a");
  EXPECT_EQ(filter.Push("b!"), "");
  EXPECT_EQ(filter.stopped(), "aab");
}

TEST(StopStringFilter, TheStringThatEndsFirstWinsThenTheLongest) {
  StopStringFilter nested({"abcd", "bc"});
  EXPECT_EQ(nested.Push("xabcd"), "xa");
  EXPECT_EQ(nested.stopped(), "bc");
  StopStringFilter suffix({"c", "bc"});
  EXPECT_EQ(suffix.Push("abc"), "a");
  EXPECT_EQ(suffix.stopped(), "bc");
}

// Whatever the pieces, the outcome is that of feeding one character at a time, which in turn is
// checked against a search for the first prefix of the text that ends with a stop string.
TEST(StopStringFilter, TheResultDoesNotDependOnHowTheTextIsCut) {
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    const auto text_of = [&](size_t length) {
      std::string text;
      for (size_t i = 0; i < length; ++i) text += static_cast<char>('a' + random() % 3);
      return text;
    };
    std::vector<std::string> stops;
    for (int i = 0; i < 3; ++i) stops.push_back(text_of(1 + random() % 5));
    const std::string text = text_of(20);

    std::string expected = text;
    std::string expected_stop;
    for (size_t end = 1; end <= text.size() && expected_stop.empty(); ++end) {
      for (const std::string& stop : stops) {
        const bool ends =
            end >= stop.size() && text.compare(end - stop.size(), stop.size(), stop) == 0;
        if (ends && stop.size() > expected_stop.size()) expected_stop = stop;
      }
      if (!expected_stop.empty()) expected = text.substr(0, end - expected_stop.size());
    }

    StopStringFilter filter(stops);
    std::string out;
    for (size_t i = 0; i < text.size();) {
      const size_t length = std::min<size_t>(1 + random() % 6, text.size() - i);
      out += filter.Push(text.substr(i, length));
      i += length;
    }
    out += filter.Flush();
    ASSERT_EQ(out, expected) << "text " << text;
    ASSERT_EQ(filter.stopped().value_or(""), expected_stop) << "text " << text;
  }
}

}  // namespace
}  // namespace quantloom
