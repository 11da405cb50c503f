#include "cli/units.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace quantloom::cli {
namespace {

// Three significant digits and a prefix of a thousand's power.
std::string Scaled(double value, absl::string_view unit, bool space_before_unit) {
  static constexpr std::array<absl::string_view, 7> kPrefixes = {"", "k", "M", "G", "T", "P", "E"};
  size_t prefix = 0;
  // 999.5 and more would print as "1000".
  while (value >= 999.5 && prefix + 1 < kPrefixes.size()) {
    value /= 1000;
    ++prefix;
  }
  const int decimals = prefix == 0 && value == std::floor(value) ? 0
                       : value < 9.995                           ? 2
                       : value < 99.95                           ? 1
                                                                 : 0;
  const std::string suffix = absl::StrCat(kPrefixes[prefix], unit);
  return absl::StrFormat("%.*f%s%s", decimals, value,
                         suffix.empty() || !space_before_unit ? "" : " ", suffix);
}

}  // namespace

std::string FormatBytes(uint64_t bytes) { return Scaled(static_cast<double>(bytes), "B", true); }

std::string FormatCount(double count) {
  return Scaled(std::isfinite(count) ? std::max(count, 0.0) : 0.0, "", true);
}

std::string FormatGrouped(uint64_t count) {
  const std::string digits = absl::StrCat(count);
  std::string grouped;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) grouped += ',';
    grouped += digits[i];
  }
  return grouped;
}

std::string FormatElapsed(absl::Duration duration) {
  const double seconds = std::clamp(absl::ToDoubleSeconds(duration), 0.0, 359'999'999.0);
  if (seconds < 9.995) return absl::StrFormat("%.2fs", seconds);
  if (seconds < 59.95) return absl::StrFormat("%.1fs", seconds);
  const long long whole = std::llround(seconds);
  if (whole < 3600) return absl::StrFormat("%dm %02ds", whole / 60, whole % 60);
  return absl::StrFormat("%dh %02dm", whole / 3600, whole / 60 % 60);
}

std::string FormatTime(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", ToTime(time), absl::LocalTimeZone());
}

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

absl::Time ToTime(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

bool ParseTimeout(absl::string_view text, absl::Duration* duration) {
  double seconds = 0;
  if (absl::SimpleAtod(text, &seconds)) {
    *duration = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, duration)) {
    return false;
  }
  return *duration > absl::ZeroDuration() && *duration < absl::InfiniteDuration();
}

}  // namespace quantloom::cli
