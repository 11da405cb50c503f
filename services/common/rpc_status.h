// absl::Status <-> grpc::Status. Payloads of an absl::Status under type.googleapis.com/ URLs travel
// as google.rpc details (the grpc-status-details-bin trailer), the way every gRPC client library
// reads them: BadRequest names the field of a request that is wrong, RetryInfo says when to try
// again.
#pragma once

#include <grpcpp/support/status.h>

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace quantloom {

// Longest message and field description sent: trailers have a size limit (8 KiB by default), and
// messages quote what clients sent.
inline constexpr size_t kMaxStatusMessageBytes = 1024;

// INVALID_ARGUMENT "`field`: `problem`", with a BadRequest detail. `field` is the path in the
// request: "calibration.tokens", "overrides[2].recipe".
absl::Status InvalidField(absl::string_view field, absl::string_view problem);

// `status` with "`field`: " before its message and, for INVALID_ARGUMENT, NOT_FOUND,
// PERMISSION_DENIED and ALREADY_EXISTS, a BadRequest detail; OK stays OK.
absl::Status WithField(const absl::Status& status, absl::string_view field);

// `status` with a RetryInfo detail.
absl::Status WithRetryDelay(absl::Status status, absl::Duration delay);

// The parts of details that were added by the functions above; empty or nullopt when absent.
std::string ViolatedField(const absl::Status& status);
std::optional<absl::Duration> RetryDelay(const absl::Status& status);

grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace quantloom
