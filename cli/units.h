// Quantities as people read them, and as they type them.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"

namespace quantloom::cli {

// "512 B", "12.3 MB": powers of 1000.
std::string FormatBytes(uint64_t bytes);

// "950", "12.3 k", "1.24 M", "134 M": three significant digits.
std::string FormatCount(double count);

// "1,234,567".
std::string FormatGrouped(uint64_t count);

// "0.42s", "12.3s", "4m 07s", "2h 05m". Negative counts as zero.
std::string FormatElapsed(absl::Duration duration);

// "2024-05-01 13:07:22" in local time.
std::string FormatTime(const google::protobuf::Timestamp& time);

absl::Duration ToDuration(const google::protobuf::Duration& duration);
absl::Time ToTime(const google::protobuf::Timestamp& time);

// "30s", "1m30s", "500ms", or a plain number of seconds; false for anything else, and for zero or
// less.
bool ParseTimeout(absl::string_view text, absl::Duration* duration);

}  // namespace quantloom::cli
