// How far `score` is.
#pragma once

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "cli/session.h"

namespace quantloom::cli {

// On a terminal a live line with a bar and the time left; elsewhere a line every five seconds;
// nothing with --json.
class ScoreProgress {
 public:
  explicit ScoreProgress(Session& session);
  ~ScoreProgress() { End(); }
  ScoreProgress(const ScoreProgress&) = delete;
  ScoreProgress& operator=(const ScoreProgress&) = delete;

  // What happens before the first window.
  void Prepare(std::string_view what);
  // `done` of `count` windows are scored. `figures` of what is scored so far may be empty. The time
  // left follows from the pace since the first call.
  void Show(size_t done, size_t count, const std::string& figures);
  // Removes the live line.
  void End();

 private:
  struct Start {
    size_t done;
    absl::Time time;
  };

  Console& console_;
  const bool shown_;
  std::optional<Start> start_;
  absl::Time last_ = absl::InfinitePast();  // when a line was last written
};

}  // namespace quantloom::cli
