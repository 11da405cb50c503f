#include "services/common/rpc_status.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/json.h"
#include "core/base/status.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace quantloom {
namespace {

constexpr char kTypePrefix[] = "type.googleapis.com/";
constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";
constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";

// `text` cut to kMaxStatusMessageBytes and made valid UTF-8: protobuf parsers refuse anything else
// in a string field, and messages may quote file names of any bytes.
std::string ToSendable(absl::string_view text) {
  const bool cut = text.size() > kMaxStatusMessageBytes;
  const std::string quoted = DumpJson(std::string(text.substr(0, kMaxStatusMessageBytes)));
  const nlohmann::json sanitized = nlohmann::json::parse(quoted, nullptr, false);
  return sanitized.get_ref<const std::string&>() + (cut ? "..." : "");
}

bool NamesAField(absl::StatusCode code) {
  return code == absl::StatusCode::kInvalidArgument || code == absl::StatusCode::kNotFound ||
         code == absl::StatusCode::kPermissionDenied || code == absl::StatusCode::kAlreadyExists;
}

}  // namespace

absl::Status InvalidField(absl::string_view field, absl::string_view problem) {
  return WithField(absl::InvalidArgumentError(problem), field);
}

absl::Status WithField(const absl::Status& status, absl::string_view field) {
  absl::Status annotated = Annotate(status, field);
  if (!NamesAField(status.code())) return annotated;
  google::rpc::BadRequest bad_request;
  auto& violation = *bad_request.add_field_violations();
  violation.set_field(ToSendable(field));
  violation.set_description(ToSendable(status.message()));
  annotated.SetPayload(kBadRequestUrl, absl::Cord(bad_request.SerializeAsString()));
  return annotated;
}

absl::Status WithRetryDelay(absl::Status status, absl::Duration delay) {
  google::rpc::RetryInfo retry;
  const int64_t nanos = absl::ToInt64Nanoseconds(delay);
  retry.mutable_retry_delay()->set_seconds(nanos / 1'000'000'000);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
  status.SetPayload(kRetryInfoUrl, absl::Cord(retry.SerializeAsString()));
  return status;
}

std::string ViolatedField(const absl::Status& status) {
  const auto payload = status.GetPayload(kBadRequestUrl);
  google::rpc::BadRequest bad_request;
  if (!payload || !bad_request.ParseFromString(std::string(*payload)) ||
      bad_request.field_violations().empty()) {
    return "";
  }
  return bad_request.field_violations(0).field();
}

std::optional<absl::Duration> RetryDelay(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryInfoUrl);
  google::rpc::RetryInfo retry;
  if (!payload || !retry.ParseFromString(std::string(*payload))) return std::nullopt;
  return absl::Seconds(retry.retry_delay().seconds()) +
         absl::Nanoseconds(retry.retry_delay().nanos());
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status details;
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    if (!absl::StartsWith(url, kTypePrefix)) return;
    google::protobuf::Any& any = *details.add_details();
    any.set_type_url(std::string(url));
    any.set_value(std::string(payload));
  });
  const std::string message = ToSendable(status.message());
  const auto code = static_cast<grpc::StatusCode>(status.code());
  if (details.details().empty()) return grpc::Status(code, message);
  details.set_code(static_cast<int>(code));
  details.set_message(message);
  return grpc::Status(code, message, details.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status converted(static_cast<absl::StatusCode>(status.error_code()),
                         status.error_message());
  google::rpc::Status details;
  if (details.ParseFromString(status.error_details())) {
    for (const google::protobuf::Any& any : details.details()) {
      converted.SetPayload(any.type_url(), absl::Cord(any.value()));
    }
  }
  return converted;
}

}  // namespace quantloom
