// How a load run goes, while it runs.
#pragma once

#include "absl/time/time.h"
#include "cli/load_generator.h"
#include "cli/session.h"

namespace quantloom::cli {

// On a terminal a live line; elsewhere a line every five seconds; nothing with --json.
class LoadProgress {
 public:
  LoadProgress(Session& session, const LoadSchedule& schedule);
  ~LoadProgress();
  LoadProgress(const LoadProgress&) = delete;
  LoadProgress& operator=(const LoadProgress&) = delete;

  void Show(const LoadGenerator::Progress& progress);

 private:
  Console& console_;
  const LoadSchedule& schedule_;
  const bool shown_;
  LoadGenerator::Progress last_{};  // when a rate was last computed
  double tokens_per_second_ = 0;
  double shown_at_ = 0;  // seconds since the start
};

}  // namespace quantloom::cli
