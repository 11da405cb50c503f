#include "cli/load_progress.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/progress.h"
#include "cli/units.h"

namespace quantloom::cli {
namespace {

constexpr double kRatePause = 1;  // seconds: single steps are no rate
constexpr double kLinePauseSeconds = 5;
constexpr int kMostBar = 24;
constexpr int kLeastBar = 8;

}  // namespace

LoadProgress::LoadProgress(Session& session, const LoadSchedule& schedule)
    : console_(session.console()), schedule_(schedule), shown_(!session.json()) {}

LoadProgress::~LoadProgress() { console_.ClearLive(); }

void LoadProgress::Show(const LoadGenerator::Progress& progress) {
  if (!shown_) return;
  if (const double passed = progress.elapsed - last_.elapsed; passed >= kRatePause) {
    tokens_per_second_ =
        static_cast<double>(progress.generated_tokens - last_.generated_tokens) / passed;
    last_ = progress;
  }
  std::string line = absl::StrFormat(
      "load %s  %s ended, %s in flight, %s failed, %.1f tokens/s generated",
      FormatElapsed(absl::Seconds(progress.elapsed)), FormatGrouped(progress.ended),
      FormatGrouped(progress.in_flight), FormatGrouped(progress.failed), tokens_per_second_);
  if (!console_.err_is_terminal()) {
    if (progress.elapsed < shown_at_ + kLinePauseSeconds) return;
    shown_at_ = progress.elapsed;
    return console_.Err(line + "\n");
  }
  const double share =
      std::isfinite(schedule_.duration)
          ? progress.elapsed / (schedule_.warmup + schedule_.duration)
          : static_cast<double>(progress.ended) / static_cast<double>(schedule_.requests);
  const int bar = std::min(kMostBar, console_.width() - 3 - static_cast<int>(line.size()));
  if (bar >= kLeastBar) absl::StrAppend(&line, "  ", RenderBar(share, bar, console_.unicode()));
  console_.ShowLive(bar >= kLeastBar ? line
                                     : line.substr(0, static_cast<size_t>(console_.width() - 1)));
}

}  // namespace quantloom::cli
