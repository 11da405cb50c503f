// Which request this is, across services: a request id, and the W3C Trace Context.
//
// Both come as metadata: `x-request-id`, and `traceparent` (https://www.w3.org/TR/trace-context/,
// section 3.2). What is absent or invalid is replaced, never an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace quantloom {

inline constexpr char kRequestIdKey[] = "x-request-id";
inline constexpr char kTraceparentKey[] = "traceparent";
inline constexpr size_t kMaxRequestIdBytes = 128;

// Lower-case hexadecimal ids.
struct TraceContext {
  std::string trace_id;   // 32 digits
  std::string parent_id;  // 16 digits, the caller's span; empty where the trace begins here
  std::string span_id;    // 16 digits, this server's span
  bool sampled = false;   // the caller records the trace
};

// A `traceparent` header's trace, parent and flags; nullopt for what the specification calls
// invalid. Versions after 00 are read as far as version 00 goes.
std::optional<TraceContext> ParseTraceparent(absl::string_view header);

// The trace that a request with these `traceparent` values belongs to, with a new span: the
// caller's, or a new one unless there is exactly one valid value.
TraceContext ContinueTrace(const std::vector<absl::string_view>& traceparents);

// What this server tells others: a version 00 header with its own span as the parent.
std::string FormatTraceparent(const TraceContext& trace);

// Whether it is 1 .. kMaxRequestIdBytes printable ASCII characters without spaces.
bool IsValidRequestId(absl::string_view id);

// The id that the caller gave, or a new one of 32 hexadecimal digits unless there is exactly one
// valid value.
std::string ChooseRequestId(const std::vector<absl::string_view>& given);

}  // namespace quantloom
