#include "services/common/logging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "core/base/json.h"

namespace quantloom {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::internal::CaptureStderr;
using ::testing::internal::GetCapturedStderr;

TEST(LoggingTest, Json_IsOneObjectALineWithTypedFields) {
  ConfigureLogging({.level = "info", .format = "json"});
  CaptureStderr();
  LogInfo("job \"a\"\nended", {{"job", "job-1"}, {"seconds", 1.5}, {"tensors", 3}});
  const std::string text = GetCapturedStderr();
  ASSERT_THAT(text, EndsWith("\n"));
  EXPECT_EQ(text.find('\n'), text.size() - 1);
  const auto line = ParseJsonObject(text);
  ASSERT_TRUE(line.ok()) << text;
  EXPECT_EQ((*line)["level"], "info");
  EXPECT_EQ((*line)["message"], "job \"a\"\nended");
  EXPECT_EQ((*line)["job"], "job-1");
  EXPECT_EQ((*line)["seconds"], 1.5);
  EXPECT_EQ((*line)["tensors"], 3);
  EXPECT_THAT((*line)["time"].get<std::string>(), EndsWith("Z"));
}

TEST(LoggingTest, Text_QuotesValuesThatCouldForgeALine) {
  ConfigureLogging({.level = "info", .format = "text"});
  CaptureStderr();
  LogWarning("refused", {{"name", "x\n2026 info granted"}, {"job", "job-1"}});
  const std::string text = GetCapturedStderr();
  EXPECT_THAT(text, HasSubstr(R"( warning refused name="x\n2026 info granted" job=job-1)"));
  EXPECT_EQ(text.find('\n'), text.size() - 1);
}

TEST(LoggingTest, Level_HidesLessSevereMessages) {
  ConfigureLogging({.level = "warning", .format = "text"});
  CaptureStderr();
  LogInfo("quiet");
  LogError("loud {}");  // braces are text, not a format
  const std::string text = GetCapturedStderr();
  EXPECT_EQ(text.find("quiet"), std::string::npos);
  EXPECT_THAT(text, HasSubstr("error loud {}"));
}

TEST(LoggingTest, Options_RefuseUnknownLevelsAndFormats) {
  for (const char* argument : {"--log-level=trace", "--log-format=xml"}) {
    Configuration configuration("quantloom-test", "A test.");
    LogOptions options;
    options.AddTo(configuration);
    const char* arguments[] = {"quantloom-test", argument};
    std::ostringstream out;
    std::ostringstream err;
    EXPECT_EQ(configuration.Parse(2, arguments, out, err), 2) << argument;
  }
}

}  // namespace
}  // namespace quantloom
