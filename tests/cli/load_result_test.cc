#include "cli/load_result.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "cli/load_report.h"
#include "nlohmann/json.hpp"

namespace quantloom::cli {
namespace {

using ::testing::DoubleNear;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(LatencyTest, Percentiles_AreNearestRanks) {
  std::vector<double> sample(200);
  std::iota(sample.rbegin(), sample.rend(), 1);
  const Latency latency = Latency::Of(sample);
  EXPECT_EQ(latency.count, 200u);
  EXPECT_EQ(latency.mean, 100.5);
  EXPECT_EQ(latency.p50, 100);
  EXPECT_EQ(latency.p90, 180);
  EXPECT_EQ(latency.p95, 190);
  EXPECT_EQ(latency.p99, 198);
  EXPECT_EQ(latency.max, 200);
  EXPECT_EQ(Latency::Of({7}).p99, 7);
  EXPECT_EQ(Latency::Of({}).count, 0u);
}

RequestRecord Ended(double due, double sent, double first, double end) {
  RequestRecord record;
  record.due = due;
  record.sent = sent;
  record.first_token = first;
  record.end = end;
  record.queue_time = 0.25;
  record.prompt_tokens = 100;
  record.cached_tokens = 16;
  record.generated_tokens = 5;
  record.code = grpc::StatusCode::OK;
  record.measured = due >= 1;
  record.finished = true;
  return record;
}

// Ten seconds after one of warm-up: a request of the warm-up, one that was sent late, one that is
// refused, one cancelled on purpose, one that outlasts the measurement.
LoadResult SomeResult() {
  LoadResult result;
  result.warmup = 1;
  result.end = 11;
  result.requests = {Ended(0, 0, 0.5, 0.9), Ended(2, 4, 5, 6)};
  RequestRecord refused;
  refused.due = refused.sent = 3;
  refused.end = 3.01;
  refused.code = grpc::StatusCode::RESOURCE_EXHAUSTED;
  refused.measured = true;
  result.requests.push_back(refused);
  RequestRecord cancelled = Ended(4, 4, 5, 5.5);
  cancelled.finished = false;
  cancelled.cancelled = true;
  cancelled.code = grpc::StatusCode::CANCELLED;
  result.requests.push_back(cancelled);
  result.requests.push_back(Ended(10, 10, 12, 14));
  result.gaps = {0.25F, 0.5F};
  result.generated_by_tick.assign(141, 0);
  result.generated_by_tick[5] = 5;    // warm-up
  result.generated_by_tick[50] = 9;   // measured
  result.generated_by_tick[130] = 7;  // too late
  result.messages[grpc::StatusCode::RESOURCE_EXHAUSTED] = "the queue is full";
  return result;
}

TEST(LoadSummaryTest, Latencies_CountFromWhenRequestsWereDue) {
  const LoadSummary summary = LoadSummary::Of(SomeResult());
  EXPECT_THAT(summary.time_to_first_token, ::testing::ElementsAre(3, 2));
  EXPECT_THAT(summary.end_to_end, ::testing::ElementsAre(4, 4));
  EXPECT_THAT(summary.send_lag, ::testing::ElementsAre(2, 0, 0, 0));
  EXPECT_THAT(summary.inter_token, ::testing::ElementsAre(0.25, 0.5));
}

TEST(LoadSummaryTest, WarmUpAndTheTimeAfter_AreNotCounted) {
  const LoadSummary summary = LoadSummary::Of(SomeResult());
  EXPECT_EQ(summary.sent, 4u);
  EXPECT_EQ(summary.ok(), 2u);
  EXPECT_EQ(summary.by_code.at(grpc::StatusCode::RESOURCE_EXHAUSTED), 1u);
  EXPECT_EQ(summary.cancelled, 1u);
  EXPECT_EQ(summary.seconds, 10);
  EXPECT_EQ(summary.generated_tokens, 9u);
  EXPECT_EQ(summary.prompt_tokens, 200u) << "of the two whose first token came meanwhile";
  EXPECT_EQ(summary.cached_tokens, 32u);
  EXPECT_EQ(summary.Rate(summary.generated_tokens), 0.9);
}

TEST(LoadSummaryTest, Throughput_HasEveryTokenAtItsTime) {
  const LoadSummary summary = LoadSummary::Of(SomeResult());
  double generated = 0;
  double prompt = 0;
  for (const Throughput& moment : summary.throughput) {
    generated += moment.generated * summary.throughput_interval;
    prompt += moment.prompt * summary.throughput_interval;
    if (std::abs(moment.time - 5) < summary.throughput_interval / 2) {
      EXPECT_GT(moment.generated, 0);
    }
  }
  EXPECT_THAT(generated, DoubleNear(21, 1e-9));
  EXPECT_THAT(prompt, DoubleNear(400, 1e-9));
}

TEST(LoadReportTest, TextAndJson_SayTheSame) {
  const LoadResult result = SomeResult();
  const LoadSummary summary = LoadSummary::Of(result);
  const std::string text = RenderLoad(result, summary, /*color=*/false);
  EXPECT_THAT(text, HasSubstr("4 sent, 2 OK, 1 RESOURCE_EXHAUSTED, 1 cancelled as asked for\n"));
  EXPECT_THAT(text, HasSubstr("10.0s after 1.00s of warm-up"));
  EXPECT_THAT(text, HasSubstr("RESOURCE_EXHAUSTED  the queue is full"));
  EXPECT_THAT(text, HasSubstr("time to first token"));
  EXPECT_THAT(text, HasSubstr("20.0 of prompts + 0.9 generated = 20.9"));
  const nlohmann::ordered_json json = LoadJson(result, summary, {{"seed", 1}});
  EXPECT_EQ(json["settings"]["seed"], 1);
  EXPECT_EQ(json["requests"]["by_status"],
            nlohmann::ordered_json::parse(R"({"OK": 2, "RESOURCE_EXHAUSTED": 1})"));
  EXPECT_EQ(json["latency_seconds"]["time_to_first_token"]["max"], 3);
  EXPECT_EQ(json["latency_seconds"]["queue"]["count"], 2);
  EXPECT_DOUBLE_EQ(json["tokens_per_second"]["total"], 20.9);
  EXPECT_EQ(json["first_messages"]["RESOURCE_EXHAUSTED"], "the queue is full");
}

TEST(LoadPlotTest, Picture_HasItsCurvesAndNoMarkupOfOthers) {
  const LoadResult result = SomeResult();
  const std::string svg = RenderLoadPlot(LoadSummary::Of(result), result, "<b>&\"model");
  EXPECT_EQ(svg.rfind("<svg xmlns=\"http://www.w3.org/2000/svg\"", 0), 0u);
  EXPECT_THAT(svg, HasSubstr("&lt;b&gt;&amp;&quot;model"));
  size_t curves = 0;
  for (size_t at = 0; (at = svg.find("<polyline", at)) != std::string::npos; ++at) ++curves;
  EXPECT_EQ(curves, 6u) << "four latencies, two rates";
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
}

TEST(LoadPlotTest, NothingMeasured_IsAPictureToo) {
  const LoadResult result;
  const std::string svg = RenderLoadPlot(LoadSummary::Of(result), result, "");
  EXPECT_THAT(svg, HasSubstr("</svg>"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace quantloom::cli
