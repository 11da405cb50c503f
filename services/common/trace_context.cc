#include "services/common/trace_context.h"

#include <algorithm>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"

namespace quantloom {
namespace {

// version "-" trace-id "-" parent-id "-" trace-flags
constexpr size_t kTraceIdAt = 3;
constexpr size_t kTraceIdDigits = 32;
constexpr size_t kParentIdAt = kTraceIdAt + kTraceIdDigits + 1;
constexpr size_t kParentIdDigits = 16;
constexpr size_t kFlagsAt = kParentIdAt + kParentIdDigits + 1;
constexpr size_t kVersion00Length = kFlagsAt + 2;

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsZero(absl::string_view digits) {
  return digits.find_first_not_of('0') == absl::string_view::npos;
}

std::string Random64() {
  thread_local absl::BitGen generator;
  // All zeros would be invalid.
  return absl::StrCat(absl::Hex(absl::Uniform<uint64_t>(generator) | 1, absl::kZeroPad16));
}

}  // namespace

std::optional<TraceContext> ParseTraceparent(absl::string_view header) {
  if (header.size() < kVersion00Length) return std::nullopt;
  const absl::string_view version = header.substr(0, 2);
  const absl::string_view trace_id = header.substr(kTraceIdAt, kTraceIdDigits);
  const absl::string_view parent_id = header.substr(kParentIdAt, kParentIdDigits);
  const absl::string_view flags = header.substr(kFlagsAt, 2);
  if (header[2] != '-' || header[kParentIdAt - 1] != '-' || header[kFlagsAt - 1] != '-') {
    return std::nullopt;
  }
  if (!IsHex(version) || version == "ff" || !IsHex(trace_id) || IsZero(trace_id) ||
      !IsHex(parent_id) || IsZero(parent_id) || !IsHex(flags)) {
    return std::nullopt;
  }
  if (header.size() > kVersion00Length && (version == "00" || header[kVersion00Length] != '-')) {
    return std::nullopt;
  }
  const char low = flags[1];
  const int digit = low <= '9' ? low - '0' : low - 'a' + 10;
  return TraceContext{.trace_id = std::string(trace_id),
                      .parent_id = std::string(parent_id),
                      .span_id = "",
                      .sampled = (digit & 1) != 0};
}

TraceContext ContinueTrace(const std::vector<absl::string_view>& traceparents) {
  TraceContext trace;
  std::optional<TraceContext> given;
  if (traceparents.size() == 1) given = ParseTraceparent(traceparents[0]);
  if (given) {
    trace = *std::move(given);
  } else {
    trace.trace_id = Random64() + Random64();
  }
  trace.span_id = Random64();
  return trace;
}

std::string FormatTraceparent(const TraceContext& trace) {
  return absl::StrCat("00-", trace.trace_id, "-", trace.span_id, trace.sampled ? "-01" : "-00");
}

bool IsValidRequestId(absl::string_view id) {
  return !id.empty() && id.size() <= kMaxRequestIdBytes &&
         std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c <= '~'; });
}

std::string ChooseRequestId(const std::vector<absl::string_view>& given) {
  if (given.size() == 1 && IsValidRequestId(given[0])) return std::string(given[0]);
  return Random64() + Random64();
}

}  // namespace quantloom
