#include "cli/progress.h"

#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/match.h"
#include "cli/utf8.h"

namespace quantloom::cli {
namespace {

using ::quantloom::v1::Job;
using ::quantloom::v1::JobProgress;

Job EncodingJob() {
  Job job;
  job.set_state(quantloom::v1::JOB_STATE_RUNNING);
  JobProgress& progress = *job.mutable_progress();
  progress.set_phase(quantloom::v1::JOB_PHASE_ENCODING);
  progress.set_phase_fraction(0.5);
  progress.set_tensor("model.layers.17.mlp.down_proj.weight");
  progress.set_tensors_done(105);
  progress.set_tensors_total(210);
  progress.set_weights_per_second(3.4e6);
  progress.set_bits_per_weight(2.3412);
  progress.set_relative_error(0.0123);
  progress.mutable_eta()->set_seconds(92);
  return job;
}

TEST(ProgressTest, RenderBar_FillsEighthsOfAColumn) {
  EXPECT_EQ(RenderBar(0, 4, true), "░░░░");
  EXPECT_EQ(RenderBar(0.5, 4, true), "██░░");
  EXPECT_EQ(RenderBar(0.53125, 4, true), "██▏░");
  EXPECT_EQ(RenderBar(0.99, 4, true), "███▉");
  EXPECT_EQ(RenderBar(1, 4, true), "████");
  EXPECT_EQ(RenderBar(0.5, 4, false), "##--");
}

TEST(ProgressTest, RenderBar_ClampsWhatIsNoShare) {
  EXPECT_EQ(RenderBar(-1, 2, false), "--");
  EXPECT_EQ(RenderBar(7, 2, false), "##");
  EXPECT_EQ(RenderBar(std::nan(""), 2, false), "--");
}

TEST(ProgressTest, RenderProgress_ShowsEverythingOnAWideTerminal) {
  EXPECT_EQ(RenderProgress(EncodingJob(), 120, false),
            "encoding    #########---------  50%  105/210  17.mlp.down_proj          "
            "  3.40 M w/s   2.34 b/w  err 0.012    ETA 1m 32s");
}

TEST(ProgressTest, RenderProgress_DropsTheLeastImportantFirst) {
  const Job job = EncodingJob();
  const std::string at_80 = RenderProgress(job, 80, true);
  EXPECT_TRUE(absl::StrContains(at_80, "105/210")) << at_80;
  EXPECT_TRUE(absl::StrContains(at_80, "2.34 b/w")) << at_80;
  EXPECT_TRUE(absl::StrContains(at_80, "ETA 1m 32s")) << at_80;
  EXPECT_FALSE(absl::StrContains(at_80, "err")) << at_80;
  const std::string at_40 = RenderProgress(job, 40, true);
  EXPECT_TRUE(absl::StrContains(at_40, "105/210")) << at_40;
  EXPECT_FALSE(absl::StrContains(at_40, "ETA")) << at_40;
  EXPECT_EQ(RenderProgress(job, 18, false), "encoding  50%");
}

TEST(ProgressTest, RenderProgress_NeverExceedsTheWidth) {
  Job job = EncodingJob();
  job.mutable_progress()->set_tensor("模型.層.17.🙂.größe.weight");
  for (int width = 20; width <= 200; ++width) {
    for (const bool unicode : {false, true}) {
      EXPECT_LE(DisplayWidth(RenderProgress(job, width, unicode)), width);
    }
  }
}

TEST(ProgressTest, RenderProgress_KeepsItsPlacesWhileNumbersGrow) {
  Job early = EncodingJob();
  early.mutable_progress()->set_tensors_done(9);
  early.mutable_progress()->set_tensor("lm_head.weight");
  early.mutable_progress()->set_weights_per_second(950);
  early.mutable_progress()->set_relative_error(0.00012);
  early.mutable_progress()->mutable_eta()->set_seconds(7);
  const std::string late = RenderProgress(EncodingJob(), 140, false);
  const std::string line = RenderProgress(early, 140, false);
  for (const char* mark : {"%", "/210", "w/s", "b/w", "err", "ETA"}) {
    EXPECT_EQ(line.find(mark), late.find(mark)) << mark << "\n" << line << "\n" << late;
  }
}

TEST(ProgressTest, RenderProgress_RemovesControlCharactersFromNames) {
  Job job = EncodingJob();
  job.mutable_progress()->set_tensor("evil\x1b[2J\n.weight");
  const std::string line = RenderProgress(job, 140, false);
  EXPECT_EQ(line.find('\x1b'), std::string::npos);
  EXPECT_EQ(line.find('\n'), std::string::npos);
}

TEST(ProgressTest, RenderProgress_NamesAStateWithoutPhase) {
  Job job;
  job.set_state(quantloom::v1::JOB_STATE_QUEUED);
  EXPECT_EQ(RenderProgress(job, 80, true), "queued: waiting for a worker");
}

TEST(ProgressTest, RenderProgress_ShowsABarForEveryPhase) {
  Job job = EncodingJob();
  job.mutable_progress()->set_phase(quantloom::v1::JOB_PHASE_CALIBRATING);
  job.mutable_progress()->clear_tensor();
  const std::string line = RenderProgress(job, 100, false);
  EXPECT_TRUE(absl::StartsWith(line, "calibrating ####")) << line;
  EXPECT_FALSE(absl::StrContains(line, "105/210")) << line;
  EXPECT_TRUE(absl::StrContains(line, "50%")) << line;
}

TEST(ProgressTest, RenderProgress_RoundsThePercentDown) {
  Job job = EncodingJob();
  job.mutable_progress()->set_phase_fraction(0.9999);
  EXPECT_TRUE(absl::StrContains(RenderProgress(job, 100, true), " 99%"));
}

TEST(ProgressTest, RenderProgressPlain_HasTheSameFacts) {
  EXPECT_EQ(RenderProgressPlain(EncodingJob()),
            "encoding 50%, 105/210, 3.40 M w/s, 2.34 b/w, err 0.012, ETA 1m 32s, "
            "model.layers.17.mlp.down_proj.weight");
}

}  // namespace
}  // namespace quantloom::cli
