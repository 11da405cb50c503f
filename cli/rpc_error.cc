#include "cli/rpc_error.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "nlohmann/json.hpp"

namespace quantloom::cli {
namespace {

constexpr absl::string_view kDetailsUrl = "type.googleapis.com/google.rpc.Status";

std::optional<google::rpc::Status> Details(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kDetailsUrl);
  google::rpc::Status details;
  if (!payload.has_value() || !details.ParseFromString(std::string(*payload))) return std::nullopt;
  return details;
}

}  // namespace

ExitCode ExitCodeFor(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return ExitCode::kOk;
    case absl::StatusCode::kUnavailable:
      return ExitCode::kUnavailable;
    case absl::StatusCode::kDeadlineExceeded:
      return ExitCode::kTimeout;
    default:
      return ExitCode::kFailed;
  }
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status converted(static_cast<absl::StatusCode>(status.error_code()),
                         status.error_message());
  if (!status.error_details().empty()) {
    converted.SetPayload(kDetailsUrl, absl::Cord(status.error_details()));
  }
  return converted;
}

std::vector<std::pair<std::string, std::string>> FieldViolations(const absl::Status& status) {
  std::vector<std::pair<std::string, std::string>> violations;
  const std::optional<google::rpc::Status> details = Details(status);
  if (!details.has_value()) return violations;
  for (const google::protobuf::Any& detail : details->details()) {
    google::rpc::BadRequest bad_request;
    if (!detail.Is<google::rpc::BadRequest>() || !detail.UnpackTo(&bad_request)) continue;
    for (const auto& violation : bad_request.field_violations()) {
      violations.emplace_back(violation.field(), violation.description());
    }
  }
  return violations;
}

std::optional<absl::Duration> RetryDelay(const absl::Status& status) {
  const std::optional<google::rpc::Status> details = Details(status);
  if (!details.has_value()) return std::nullopt;
  for (const google::protobuf::Any& detail : details->details()) {
    google::rpc::RetryInfo retry;
    if (!detail.Is<google::rpc::RetryInfo>() || !detail.UnpackTo(&retry)) continue;
    return absl::Seconds(retry.retry_delay().seconds()) +
           absl::Nanoseconds(retry.retry_delay().nanos());
  }
  return std::nullopt;
}

std::string FormatError(const absl::Status& status) {
  std::string text = absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message());
  for (const auto& [field, description] : FieldViolations(status)) {
    const std::string violation = absl::StrCat(field, ": ", description);
    // A message that is made of its only violation need not be read twice.
    if (status.message() != violation) absl::StrAppend(&text, "\n  ", violation);
  }
  if (const std::optional<absl::Duration> delay = RetryDelay(status)) {
    absl::StrAppend(&text, "\n  try again in ", absl::FormatDuration(*delay),
                    " (--retry N does so by itself)");
  }
  return text;
}

std::string FormatErrorJson(const absl::Status& status, ExitCode exit_code) {
  nlohmann::ordered_json error = {{"status", absl::StatusCodeToString(status.code())},
                                  {"code", static_cast<int>(status.code())},
                                  {"message", std::string(status.message())}};
  const std::vector<std::pair<std::string, std::string>> violations = FieldViolations(status);
  for (const auto& [field, description] : violations) {
    error["field_violations"].push_back({{"field", field}, {"description", description}});
  }
  if (const std::optional<absl::Duration> delay = RetryDelay(status)) {
    error["retry_delay_seconds"] = absl::ToDoubleSeconds(*delay);
  }
  error["exit_code"] = static_cast<int>(exit_code);
  const nlohmann::ordered_json document = {{"error", error}};
  return document.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace quantloom::cli
