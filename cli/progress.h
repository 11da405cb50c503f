// How far a job is, on one line.
#pragma once

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "cli/console.h"
#include "quantloom/v1/quantization.pb.h"

namespace quantloom::cli {

// "encoding", "queued", "succeeded": the phase of a running job, else the state.
std::string PhaseName(const quantloom::v1::Job& job);

// "queued", "succeeded", ...
std::string StateName(quantloom::v1::JobState state);

// A bar of exactly `width` columns, `fraction` (clamped to 0 .. 1) of it filled; eighths of a
// column with `unicode`,
// '#' and '-' without.
std::string RenderBar(double fraction, int width, bool unicode);

// The live line: phase, bar, percent, and of tensors, bits/weight, ETA, speed, error and tensor
// name what fits, in this order of importance. At most `width` columns for width >= 20.
std::string RenderProgress(const quantloom::v1::Job& job, int width, bool unicode);

// The same facts for a log, whatever their length.
std::string RenderProgressPlain(const quantloom::v1::Job& job);

// Shows a job's events on standard error. On a terminal: a line for each finished phase, and below
// them a live line, redrawn at most 20 times a second. Elsewhere: a line when the phase changes and
// every five seconds.
class ProgressDisplay {
 public:
  explicit ProgressDisplay(Console& console);
  void Show(const quantloom::v1::QuantizeEvent& event);
  // Removes the live line.
  void End();

 private:
  void ShowPhaseEnd(const quantloom::v1::QuantizeEvent& event);

  Console& console_;
  std::string phase_;  // shown now; empty before the first event
  std::optional<absl::Time>
      phase_start_;  // by the server's clock; absent when its beginning was not seen
  absl::Time shown_ = absl::InfinitePast();  // when the line was last written
};

}  // namespace quantloom::cli
