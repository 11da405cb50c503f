// Expectations from https://www.w3.org/TR/trace-context/, sections 3.2.2 and 4.
#include "services/common/trace_context.h"

#include <gtest/gtest.h>

namespace quantloom {
namespace {

constexpr char kTrace[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kParent[] = "00f067aa0ba902b7";
const std::string kValid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(TraceContextTest, ParseTraceparent_ReadsTheSpecificationsExample) {
  const auto trace = ParseTraceparent(kValid);
  ASSERT_TRUE(trace.has_value());
  EXPECT_EQ(trace->trace_id, kTrace);
  EXPECT_EQ(trace->parent_id, kParent);
  EXPECT_TRUE(trace->sampled);
  EXPECT_FALSE(ParseTraceparent(kValid.substr(0, 53) + "00")->sampled);
  EXPECT_FALSE(ParseTraceparent(kValid.substr(0, 53) + "fe")->sampled) << "other bits are unknown";
  EXPECT_TRUE(ParseTraceparent(kValid.substr(0, 53) + "0b")->sampled);
}

TEST(TraceContextTest, ParseTraceparent_RefusesWhatTheSpecificationCallsInvalid) {
  const std::string zeros(32, '0');
  for (const std::string& header : std::vector<std::string>{
           std::string(),
           std::string("00"),
           kValid.substr(0, 54),
           kValid + "0",
           kValid + "-",
           kValid + "-what-the-future-will-be-like",
           " " + kValid,
           "ff" + kValid.substr(2),
           "0x" + kValid.substr(2),
           "00-" + zeros + kValid.substr(35),
           kValid.substr(0, 36) + zeros.substr(16) + "-01",
           "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
           "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
           "cc" + kValid.substr(2) + "what",
       }) {
    EXPECT_FALSE(ParseTraceparent(header).has_value()) << header;
  }
}

TEST(TraceContextTest, ParseTraceparent_ReadsLaterVersionsAsVersion00) {
  EXPECT_TRUE(ParseTraceparent("cc" + kValid.substr(2)).has_value());
  EXPECT_TRUE(ParseTraceparent("cc" + kValid.substr(2) + "-what-the-future").has_value());
}

TEST(TraceContextTest, ContinueTrace_KeepsAValidTraceAndBeginsOneOtherwise) {
  const TraceContext continued = ContinueTrace({kValid});
  EXPECT_EQ(continued.trace_id, kTrace);
  EXPECT_EQ(continued.parent_id, kParent);
  EXPECT_NE(continued.span_id, kParent);
  EXPECT_EQ(FormatTraceparent(continued),
            "00-" + std::string(kTrace) + "-" + continued.span_id + "-01");
  for (const TraceContext& begun :
       {ContinueTrace({}), ContinueTrace({"nonsense"}), ContinueTrace({kValid, kValid})}) {
    EXPECT_NE(begun.trace_id, kTrace);
    EXPECT_EQ(begun.parent_id, "");
    EXPECT_TRUE(ParseTraceparent(FormatTraceparent(begun)).has_value());
  }
  EXPECT_NE(ContinueTrace({}).trace_id, ContinueTrace({}).trace_id);
}

TEST(TraceContextTest, ChooseRequestId_TakesOnePrintableIdOfBoundedLength) {
  EXPECT_EQ(ChooseRequestId({"order-17/3"}), "order-17/3");
  const std::string longest(kMaxRequestIdBytes, 'x');
  EXPECT_EQ(ChooseRequestId({longest}), longest);
  const std::string too_long = longest + "x";
  for (const std::vector<absl::string_view>& given :
       std::vector<std::vector<absl::string_view>>{{},
                                                   {""},
                                                   {too_long},
                                                   {"a b"},
                                                   {"a\tb"},
                                                   {"a\nb"},
                                                   {"caf\xc3\xa9"},
                                                   {"\x7f"},
                                                   {"a", "b"}}) {
    const std::string chosen = ChooseRequestId(given);
    EXPECT_EQ(chosen.size(), 32u);
    EXPECT_TRUE(IsValidRequestId(chosen));
  }
}

}  // namespace
}  // namespace quantloom
