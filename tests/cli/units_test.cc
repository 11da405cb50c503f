#include "cli/units.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace quantloom::cli {
namespace {

TEST(UnitsTest, FormatBytes_GivesThreeDigitsAndAPowerOfThousand) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(512), "512 B");
  EXPECT_EQ(FormatBytes(999), "999 B");
  EXPECT_EQ(FormatBytes(1000), "1.00 kB");
  EXPECT_EQ(FormatBytes(98'304'000), "98.3 MB");
  EXPECT_EQ(FormatBytes(999'999), "1.00 MB");
  EXPECT_EQ(FormatBytes(std::numeric_limits<uint64_t>::max()), "18.4 EB");
}

TEST(UnitsTest, FormatCount_ToleratesWhatIsNoCount) {
  EXPECT_EQ(FormatCount(134'515'008), "135 M");
  EXPECT_EQ(FormatCount(1234), "1.23 k");
  EXPECT_EQ(FormatCount(0.5), "0.50");
  EXPECT_EQ(FormatCount(-3), "0");
  EXPECT_EQ(FormatCount(std::nan("")), "0");
}

TEST(UnitsTest, FormatGrouped_SeparatesThousands) {
  EXPECT_EQ(FormatGrouped(0), "0");
  EXPECT_EQ(FormatGrouped(999), "999");
  EXPECT_EQ(FormatGrouped(1000), "1,000");
  EXPECT_EQ(FormatGrouped(1234567), "1,234,567");
}

TEST(UnitsTest, FormatElapsed_ChangesUnitBeforeItRoundsIntoIt) {
  EXPECT_EQ(FormatElapsed(absl::Milliseconds(420)), "0.42s");
  EXPECT_EQ(FormatElapsed(absl::Milliseconds(9994)), "9.99s");
  EXPECT_EQ(FormatElapsed(absl::Milliseconds(9996)), "10.0s");
  EXPECT_EQ(FormatElapsed(absl::Milliseconds(59'960)), "1m 00s");
  EXPECT_EQ(FormatElapsed(absl::Seconds(247)), "4m 07s");
  EXPECT_EQ(FormatElapsed(absl::Milliseconds(3'599'600)), "1h 00m");
  EXPECT_EQ(FormatElapsed(absl::Seconds(7500)), "2h 05m");
  EXPECT_EQ(FormatElapsed(-absl::Seconds(1)), "0.00s");
  EXPECT_EQ(FormatElapsed(absl::InfiniteDuration()).back(), 'm');
}

TEST(UnitsTest, ParseTimeout_TakesDurationsAndSeconds) {
  absl::Duration duration;
  ASSERT_TRUE(ParseTimeout("90", &duration));
  EXPECT_EQ(duration, absl::Seconds(90));
  ASSERT_TRUE(ParseTimeout("1m30s", &duration));
  EXPECT_EQ(duration, absl::Seconds(90));
  ASSERT_TRUE(ParseTimeout("0.25", &duration));
  EXPECT_EQ(duration, absl::Milliseconds(250));
  for (const char* text : {"", "0", "-1", "-5s", "soon", "5x", "inf", "nan"}) {
    EXPECT_FALSE(ParseTimeout(text, &duration)) << text;
  }
}

}  // namespace
}  // namespace quantloom::cli
