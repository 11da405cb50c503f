#include "cli/rpc_error.h"

#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "nlohmann/json.hpp"

namespace quantloom::cli {
namespace {

grpc::Status WithDetails(const std::string& message = "bad recipe") {
  google::rpc::Status details;
  details.set_code(3);
  google::rpc::BadRequest bad_request;
  auto* violation = bad_request.add_field_violations();
  violation->set_field("recipe");
  violation->set_description("bits must be 1 .. 4 or 8");
  details.add_details()->PackFrom(bad_request);
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(1);
  retry.mutable_retry_delay()->set_nanos(500'000'000);
  details.add_details()->PackFrom(retry);
  return {grpc::StatusCode::INVALID_ARGUMENT, message, details.SerializeAsString()};
}

TEST(RpcErrorTest, FromGrpc_KeepsCodeMessageAndDetails) {
  const absl::Status status = FromGrpc(WithDetails());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "bad recipe");
  const auto violations = FieldViolations(status);
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0].first, "recipe");
  EXPECT_EQ(violations[0].second, "bits must be 1 .. 4 or 8");
  EXPECT_EQ(RetryDelay(status), absl::Milliseconds(1500));
}

TEST(RpcErrorTest, Details_ThatDoNotParseAreIgnored) {
  const absl::Status status =
      FromGrpc(grpc::Status(grpc::StatusCode::NOT_FOUND, "gone", "\xFF\xFF\xFF"));
  EXPECT_TRUE(FieldViolations(status).empty());
  EXPECT_FALSE(RetryDelay(status).has_value());
  EXPECT_EQ(FormatError(status), "NOT_FOUND: gone");
}

TEST(RpcErrorTest, FormatError_ListsViolationsThatTheMessageDoesNotHave) {
  EXPECT_EQ(FormatError(FromGrpc(WithDetails("bad recipe"))),
            "INVALID_ARGUMENT: bad recipe\n  recipe: bits must be 1 .. 4 or 8\n"
            "  try again in 1.5s (--retry N does so by itself)");
  EXPECT_EQ(FormatError(FromGrpc(WithDetails("recipe: bits must be 1 .. 4 or 8"))),
            "INVALID_ARGUMENT: recipe: bits must be 1 .. 4 or 8\n"
            "  try again in 1.5s (--retry N does so by itself)");
}

TEST(RpcErrorTest, FormatErrorJson_IsStable) {
  const auto json =
      nlohmann::json::parse(FormatErrorJson(FromGrpc(WithDetails()), ExitCode::kFailed));
  const auto expected = nlohmann::json::parse(R"({"error": {
    "status": "INVALID_ARGUMENT", "code": 3, "message": "bad recipe",
    "field_violations": [{"field": "recipe", "description": "bits must be 1 .. 4 or 8"}],
    "retry_delay_seconds": 1.5, "exit_code": 1}})");
  EXPECT_EQ(json, expected);
}

}  // namespace
}  // namespace quantloom::cli
