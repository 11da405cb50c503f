#include "cli/score_progress.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "cli/progress.h"
#include "cli/units.h"

namespace quantloom::cli {
namespace {

constexpr absl::Duration kRedrawPause = absl::Milliseconds(100);
constexpr absl::Duration kLinePause = absl::Seconds(5);
constexpr int kMaxBar = 32;
constexpr int kMinBar = 8;

}  // namespace

ScoreProgress::ScoreProgress(Session& session)
    : console_(session.console()), shown_(!session.json()) {}

void ScoreProgress::Prepare(std::string_view what) {
  if (!shown_ || !console_.err_is_terminal()) return;
  console_.ShowLive(what.substr(0, static_cast<size_t>(console_.width() - 1)));
}

void ScoreProgress::Show(size_t done, size_t count, const std::string& figures) {
  const absl::Time now = absl::Now();
  if (!start_) {
    start_ = {done, now};
    if (!console_.err_is_terminal()) last_ = now;
  }
  if (!shown_ || now - last_ < (console_.err_is_terminal() ? kRedrawPause : kLinePause)) return;
  last_ = now;
  std::string line = absl::StrFormat("scoring %zu/%zu ", done, count);
  if (!figures.empty()) absl::StrAppend(&line, " ", figures, " ");
  if (done > start_->done) {
    const absl::Duration each = (now - start_->time) / static_cast<double>(done - start_->done);
    const absl::Duration left = each * static_cast<double>(count - done);
    absl::StrAppend(&line, " ETA ", FormatElapsed(absl::Ceil(left, absl::Seconds(1))), " ");
  }
  if (!console_.err_is_terminal()) {
    line.pop_back();
    return console_.Err(line + "\n");
  }
  const int bar = std::min(kMaxBar, console_.width() - 1 - static_cast<int>(line.size()));
  if (bar < kMinBar) {
    return console_.ShowLive(line.substr(0, static_cast<size_t>(console_.width() - 1)));
  }
  const double share = static_cast<double>(done) / static_cast<double>(std::max<size_t>(count, 1));
  console_.ShowLive(line + RenderBar(share, bar, console_.unicode()));
}

void ScoreProgress::End() { console_.ClearLive(); }

}  // namespace quantloom::cli
