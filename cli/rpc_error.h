// Errors of remote calls as absl::Status: the gRPC code and message, and the google.rpc details as
// a payload.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cli/exit_code.h"
#include "grpcpp/support/status.h"

namespace quantloom::cli {

// `status` as an absl::Status. Details (`grpc-status-details-bin`) are kept and found by the
// functions below.
absl::Status FromGrpc(const grpc::Status& status);

// Field and description of each google.rpc.BadRequest violation; empty when there are none or they
// do not parse.
std::vector<std::pair<std::string, std::string>> FieldViolations(const absl::Status& status);

// google.rpc.RetryInfo: how long the server asks to wait before the next try. Absent when it does
// not say.
std::optional<absl::Duration> RetryDelay(const absl::Status& status);

// For people: "NOT_FOUND: no such job", then an indented line per field violation. No newline at
// the end.
std::string FormatError(const absl::Status& status);

// For programs, one line: {"error": {"status": "NOT_FOUND", "code": 5, "message": ...,
// "field_violations":
// [{"field": ..., "description": ...}], "retry_delay_seconds": ..., "exit_code": ...}}; violations
// and delay are left out where there are none.
std::string FormatErrorJson(const absl::Status& status, ExitCode exit_code);

}  // namespace quantloom::cli
