#include "services/common/rpc_status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace quantloom {
namespace {

using ::testing::HasSubstr;

TEST(RpcStatusTest, ToGrpcStatus_KeepsEveryCode) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    const grpc::Status converted = ToGrpcStatus(status);
    EXPECT_EQ(static_cast<int>(converted.error_code()), code);
    EXPECT_EQ(converted.error_message(), "why");
    EXPECT_EQ(FromGrpcStatus(converted), status);
  }
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
}

TEST(RpcStatusTest, InvalidField_TravelsAsAGoogleRpcBadRequest) {
  const grpc::Status status = ToGrpcStatus(InvalidField("overrides[2].recipe", "has no codec"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "overrides[2].recipe: has no codec");

  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), 3);
  EXPECT_EQ(details.message(), status.error_message());
  ASSERT_EQ(details.details_size(), 1);
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.BadRequest");
  google::rpc::BadRequest bad_request;
  ASSERT_TRUE(details.details(0).UnpackTo(&bad_request));
  ASSERT_EQ(bad_request.field_violations_size(), 1);
  EXPECT_EQ(bad_request.field_violations(0).field(), "overrides[2].recipe");
  EXPECT_EQ(bad_request.field_violations(0).description(), "has no codec");
  EXPECT_EQ(ViolatedField(FromGrpcStatus(status)), "overrides[2].recipe");
}

TEST(RpcStatusTest, WithField_NamesNoFieldForTheServersOwnFaults) {
  const absl::Status status = WithField(absl::InternalError("disk gone"), "source");
  EXPECT_EQ(status.message(), "source: disk gone");
  EXPECT_EQ(ViolatedField(status), "");
  EXPECT_TRUE(WithField(absl::OkStatus(), "source").ok());
}

TEST(RpcStatusTest, WithRetryDelay_TravelsAsGoogleRpcRetryInfo) {
  const absl::Status full = absl::ResourceExhaustedError("queue is full");
  const grpc::Status status = ToGrpcStatus(WithRetryDelay(full, absl::Milliseconds(2500)));
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(details.details(0).UnpackTo(&retry));
  EXPECT_EQ(retry.retry_delay().seconds(), 2);
  EXPECT_EQ(retry.retry_delay().nanos(), 500'000'000);
  EXPECT_EQ(RetryDelay(FromGrpcStatus(status)), absl::Milliseconds(2500));
  EXPECT_EQ(RetryDelay(full), std::nullopt);
}

TEST(RpcStatusTest, ToGrpcStatus_CutsLongMessagesSoThatTrailersFit) {
  const std::string recipe(10 << 20, 'x');
  const grpc::Status status = ToGrpcStatus(InvalidField("recipe", "no codec '" + recipe + "'"));
  EXPECT_LT(status.error_message().size() + status.error_details().size(), 6000u);
  EXPECT_THAT(status.error_message(), HasSubstr("recipe: no codec 'xxx"));
}

TEST(RpcStatusTest, ToGrpcStatus_ReplacesBytesThatAreNotUtf8) {
  const grpc::Status status = ToGrpcStatus(InvalidField("source", "no file 'a\xff' here"));
  EXPECT_EQ(status.error_message(), "source: no file 'a\xEF\xBF\xBD' here");
}

}  // namespace
}  // namespace quantloom
