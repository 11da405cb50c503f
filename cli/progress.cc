#include "cli/progress.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "cli/job_follower.h"
#include "cli/units.h"
#include "cli/utf8.h"

namespace quantloom::cli {

using ::quantloom::v1::Job;
using ::quantloom::v1::JobPhase_Name;
using ::quantloom::v1::JobProgress;
using ::quantloom::v1::JobState;
using ::quantloom::v1::JobState_Name;
using ::quantloom::v1::QuantizeEvent;

namespace {

constexpr int kPhaseColumns = 11;  // "calibrating", the longest
constexpr int kShortestBar = 8;
constexpr int kLongestBar = 32;
constexpr int kShortestTensor = 16;
constexpr int kLongestTensor = 28;
constexpr absl::Duration kLivePause = absl::Milliseconds(50);
constexpr absl::Duration kLogPause = absl::Seconds(5);

std::string LowerWithout(absl::string_view name, absl::string_view prefix) {
  return absl::AsciiStrToLower(absl::StripPrefix(name, prefix));
}

int Percent(const JobProgress& progress) {
  const double fraction = progress.phase_fraction();
  // Rounded down: 100 % is for what is done.
  return std::isfinite(fraction) ? static_cast<int>(100 * std::clamp(fraction, 0.0, 1.0)) : 0;
}

std::string Eta(const JobProgress& progress) {
  if (!progress.has_eta()) return "";
  const absl::Duration eta = ToDuration(progress.eta());
  // Tenths of a second would pretend to know.
  return eta < absl::Minutes(1) ? absl::StrCat(std::max<int64_t>(0, absl::ToInt64Seconds(eta)), "s")
                                : FormatElapsed(eta);
}

// "17.mlp.down_proj" for "model.layers.17.mlp.down_proj.weight": what differs from tensor to
// tensor.
std::string ShortTensor(const JobProgress& progress) {
  absl::string_view name = absl::StripSuffix(progress.tensor(), ".weight");
  name = absl::StripPrefix(absl::StripPrefix(name, "model."), "layers.");
  return OneLine(std::string_view(name.data(), name.size()));
}

// Facts beside the bar, most important first. `order` is the place on the line.
struct Fact {
  int order;
  std::string text;
};

// Each fact has a width that does not change while a phase lasts, so that nothing on the line
// jumps.
std::vector<Fact> Facts(const JobProgress& progress) {
  std::vector<Fact> facts;
  const auto add = [&](int order, std::string text) { facts.push_back({order, std::move(text)}); };
  const bool encoding = progress.phase() == quantloom::v1::JOB_PHASE_ENCODING;
  if (encoding && progress.tensors_total() > 0) {
    const std::string total = absl::StrCat(progress.tensors_total());
    add(0, absl::StrFormat("%*d/%s", total.size(), progress.tensors_done(), total));
  }
  if (progress.bits_per_weight() > 0) {
    add(3, absl::StrFormat("%5.2f b/w", progress.bits_per_weight()));
  }
  if (progress.has_eta()) add(5, absl::StrFormat("ETA %-6s", Eta(progress)));
  if (encoding && progress.weights_per_second() > 0) {
    add(2, absl::StrFormat("%6s w/s", FormatCount(progress.weights_per_second())));
  }
  if (encoding && progress.relative_error() > 0) {
    add(4, absl::StrFormat("err %-7s", absl::StrFormat("%.2g", progress.relative_error())));
  }
  return facts;
}

void SortByPlace(std::vector<Fact>& facts) {
  std::stable_sort(facts.begin(), facts.end(),
                   [](const Fact& a, const Fact& b) { return a.order < b.order; });
}

}  // namespace

std::string StateName(JobState state) { return LowerWithout(JobState_Name(state), "JOB_STATE_"); }

std::string PhaseName(const Job& job) {
  if (job.state() != quantloom::v1::JOB_STATE_RUNNING ||
      job.progress().phase() == quantloom::v1::JOB_PHASE_UNSPECIFIED) {
    return StateName(job.state());
  }
  return LowerWithout(JobPhase_Name(job.progress().phase()), "JOB_PHASE_");
}

std::string RenderBar(double fraction, int width, bool unicode) {
  static constexpr std::array<std::string_view, 8> kEighths = {"",  "▏", "▎", "▍",
                                                               "▌", "▋", "▊", "▉"};
  fraction = std::isfinite(fraction) ? std::clamp(fraction, 0.0, 1.0) : 0.0;
  const int eighths = static_cast<int>(fraction * width * 8);
  const int full = eighths / 8;
  const bool partial = unicode && eighths % 8 != 0;
  std::string bar;
  for (int i = 0; i < full; ++i) bar += unicode ? "█" : "#";
  if (partial) bar += kEighths[eighths % 8];
  for (int i = full + (partial ? 1 : 0); i < width; ++i) bar += unicode ? "░" : "-";
  return bar;
}

std::string RenderProgress(const Job& job, int width, bool unicode) {
  const JobProgress& progress = job.progress();
  const std::string phase = PhaseName(job);
  if (job.state() != quantloom::v1::JOB_STATE_RUNNING) {
    const bool queued = job.state() == quantloom::v1::JOB_STATE_QUEUED;
    return ElideMiddle(queued ? phase + ": waiting for a worker" : phase, width, unicode);
  }
  const std::string head = absl::StrFormat("%-*s ", kPhaseColumns, phase);
  const std::string percent = absl::StrFormat(" %3d%%", Percent(progress));
  int room = width - DisplayWidth(head) - DisplayWidth(percent) - kShortestBar;
  if (room < 0) return ElideMiddle(absl::StrCat(phase, percent), width, unicode);

  std::vector<Fact> shown;
  for (Fact& fact : Facts(progress)) {
    const int columns = 2 + DisplayWidth(fact.text);
    if (columns > room) break;  // a less important fact must not outlive a more important one
    room -= columns;
    shown.push_back(std::move(fact));
  }
  // What the rest leaves is for the tensor's name and a longer bar. Neither depends on which tensor
  // it is.
  int bar = kShortestBar + std::clamp(room, 0, kLongestBar - kShortestBar);
  const std::string tensor = ShortTensor(progress);
  if (const int spare = room - 2 - kShortestTensor; spare >= 0 && !tensor.empty()) {
    bar = kShortestBar + std::min(spare / 2, kLongestBar - kShortestBar);
    const int columns = std::min(kShortestTensor + spare - (bar - kShortestBar), kLongestTensor);
    const std::string name = ElideMiddle(tensor, columns, unicode);
    shown.push_back({1, name + std::string(columns - DisplayWidth(name), ' ')});
  }
  SortByPlace(shown);
  std::string line =
      absl::StrCat(head, RenderBar(progress.phase_fraction(), bar, unicode), percent);
  for (const Fact& fact : shown) absl::StrAppend(&line, "  ", fact.text);
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

std::string RenderProgressPlain(const Job& job) {
  const JobProgress& progress = job.progress();
  std::vector<std::string> parts = {PhaseName(job)};
  if (job.state() == quantloom::v1::JOB_STATE_RUNNING) {
    parts[0] += absl::StrFormat(" %d%%", Percent(progress));
    std::vector<Fact> facts = Facts(progress);
    SortByPlace(facts);
    for (const Fact& fact : facts) {
      parts.emplace_back(absl::StripAsciiWhitespace(fact.text));
    }
    if (!progress.tensor().empty()) parts.push_back(OneLine(progress.tensor()));
  }
  return absl::StrJoin(parts, ", ");
}

ProgressDisplay::ProgressDisplay(Console& console) : console_(console) {}

void ProgressDisplay::ShowPhaseEnd(const QuantizeEvent& event) {
  if (!console_.err_is_terminal() || phase_.empty() || phase_ == "running") return;
  std::string line =
      absl::StrCat(Styled(console_.err_color(), "32", console_.unicode() ? "✓" : "*"), " ", phase_);
  if (phase_start_.has_value()) {
    absl::StrAppend(
        &line, "  ",
        Styled(console_.err_color(), "2", FormatElapsed(ToTime(event.time()) - *phase_start_)));
  }
  console_.Err(line + "\n");
}

void ProgressDisplay::Show(const QuantizeEvent& event) {
  const Job& job = event.job();
  const std::string phase = PhaseName(job);
  const bool changed = phase != phase_;
  if (changed) {
    const bool abandoned = job.state() == quantloom::v1::JOB_STATE_FAILED ||
                           job.state() == quantloom::v1::JOB_STATE_CANCELLED;
    if (!abandoned) ShowPhaseEnd(event);
    // The first event seen begins its phase only if it is the job's first.
    phase_start_.reset();
    if (!phase_.empty() || event.sequence() == 1) phase_start_ = ToTime(event.time());
    phase_ = phase;
  }
  if (HasEnded(job)) return End();
  const absl::Time now = absl::Now();
  const absl::Duration pause = console_.err_is_terminal() ? kLivePause : kLogPause;
  if (!changed && now - shown_ < pause) return;
  shown_ = now;
  if (console_.err_is_terminal()) {
    // The last column stays free: writing it would wrap the line on some terminals.
    console_.ShowLive(RenderProgress(job, console_.width() - 1, console_.unicode()));
  } else {
    console_.Err(RenderProgressPlain(job) + "\n");
  }
}

void ProgressDisplay::End() { console_.ClearLive(); }

}  // namespace quantloom::cli
