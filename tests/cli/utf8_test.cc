#include "cli/utf8.h"

#include <gtest/gtest.h>

namespace quantloom::cli {
namespace {

TEST(Utf8Test, IsUtf8_FollowsTheUnicodeStandard) {
  struct Case {
    std::string_view text;
    bool valid;
  };
  // Unicode 15, section 3.9, tables 3-7 to 3-11.
  const Case cases[] = {
      {"", true},
      {"plain", true},
      {"\x7F", true},
      {"\xC2\x80", true},
      {"\xE0\xA0\x80", true},
      {"\xED\x9F\xBF", true},
      {"\xF0\x90\x80\x80", true},
      {"\xF4\x8F\xBF\xBF", true},
      {"\x80", false},              // continuation alone
      {"\xC0\xAF", false},          // overlong
      {"\xC1\xBF", false},          // overlong
      {"\xE0\x9F\xBF", false},      // overlong
      {"\xF0\x8F\xBF\xBF", false},  // overlong
      {"\xED\xA0\x80", false},      // surrogate
      {"\xF4\x90\x80\x80", false},  // past U+10FFFF
      {"\xF5\x80\x80\x80", false},
      {"\xFF", false},
      {"\xE2\x82", false},  // cut
      {"a\xE2\x82z", false},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(IsUtf8(c.text), c.valid) << testing::PrintToString(std::string(c.text));
  }
}

TEST(Utf8Test, DisplayWidth_CountsColumns) {
  EXPECT_EQ(DisplayWidth(""), 0);
  EXPECT_EQ(DisplayWidth("abc"), 3);
  EXPECT_EQ(DisplayWidth("größe"), 5);
  EXPECT_EQ(DisplayWidth("e\xCC\x81"), 1);  // combining acute accent
  EXPECT_EQ(DisplayWidth("模型"), 4);
  EXPECT_EQ(DisplayWidth("한국"), 4);
  EXPECT_EQ(DisplayWidth("🙂"), 2);
  EXPECT_EQ(DisplayWidth("▏█"), 2);
  EXPECT_EQ(DisplayWidth("\n\x1b"), 0);
}

TEST(Utf8Test, ElideMiddle_KeepsBothEndsWithinTheWidth) {
  EXPECT_EQ(ElideMiddle("layers.12.mlp", 13), "layers.12.mlp");
  EXPECT_EQ(ElideMiddle("layers.12.mlp.down_proj", 11), "layer…_proj");
  EXPECT_EQ(ElideMiddle("layers.12.mlp.down_proj", 11, false), "layer~_proj");
  EXPECT_EQ(ElideMiddle("abc", 1), "…");
  EXPECT_EQ(ElideMiddle("abc", 0), "");
}

TEST(Utf8Test, ElideMiddle_NeverExceedsTheWidthNorSplitsACharacter) {
  const std::string text = "模型 größe 🙂 e\xCC\x81 layers 한국 z";
  for (int width = 1; width <= DisplayWidth(text) + 1; ++width) {
    const std::string cut = ElideMiddle(text, width);
    EXPECT_LE(DisplayWidth(cut), width);
    EXPECT_TRUE(IsUtf8(cut));
  }
}

TEST(Utf8Test, TerminalSafe_RemovesWhatSteersATerminal) {
  EXPECT_EQ(TerminalSafe("a\x1b[2Jb\x07\r\x08z"), "a[2Jbz");
  EXPECT_EQ(TerminalSafe("line\n\tnext"), "line\n\tnext");
  EXPECT_EQ(TerminalSafe("a\xC2\x9B"
                         "31mb"),
            "a31mb");  // C1 control sequence introducer
  EXPECT_EQ(TerminalSafe("\xFF"), "\xEF\xBF\xBD");
  EXPECT_EQ(TerminalSafe("größe 🙂"), "größe 🙂");
}

TEST(Utf8Test, OneLine_HasNoLineBreaks) { EXPECT_EQ(OneLine("a\nb\tc\x1b"), "a b c"); }

}  // namespace
}  // namespace quantloom::cli
