#include "engine/output_text.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"

namespace quantloom {
namespace {

// Length of the longest end of `text` with which `stop` begins, less than all of `stop`.
size_t PossibleStart(absl::string_view text, absl::string_view stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (absl::EndsWith(text, stop.substr(0, length))) return length;
  }
  return 0;
}

}  // namespace

StopStringFilter::StopStringFilter(std::vector<std::string> stop_strings)
    : stop_strings_(std::move(stop_strings)) {
  // Longest first, so that the first found of those that end together is the longest.
  std::stable_sort(stop_strings_.begin(), stop_strings_.end(),
                   [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
}

std::string StopStringFilter::Push(absl::string_view text) {
  if (stopped_) return "";
  held_.append(text.data(), text.size());
  size_t first_end = std::string::npos;
  size_t begin = 0;
  for (const std::string& stop : stop_strings_) {
    const size_t found = held_.find(stop);
    if (found == std::string::npos || found + stop.size() >= first_end) continue;
    first_end = found + stop.size();
    begin = found;
    stopped_ = stop;
  }
  size_t certain = begin;
  if (!stopped_) {
    size_t undecided = 0;
    for (const std::string& stop : stop_strings_)
      undecided = std::max(undecided, PossibleStart(held_, stop));
    certain = held_.size() - undecided;
  }
  std::string out = held_.substr(0, certain);
  held_.erase(0, stopped_ ? held_.size() : certain);
  return out;
}

std::string StopStringFilter::Flush() { return std::exchange(held_, ""); }

std::string OutputText::Finish() {
  std::string text = filter_.Push(detokenizer_.Flush());
  return text + filter_.Flush();
}

}  // namespace quantloom
