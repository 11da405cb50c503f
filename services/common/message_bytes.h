// Messages from and to the bytes that gRPC carries.
//
// gRPC answers a request that protobuf cannot parse, such as one with a `string` field that is not
// UTF-8, with UNIMPLEMENTED and no message. Services whose callers deserve better take their
// requests as bytes (the generated WithRawCallbackMethod_* classes) and parse them here.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include "absl/status/status.h"

namespace quantloom {

// Parses `bytes` into `message`. INVALID_ARGUMENT naming the first string field that is not UTF-8,
// or saying that the message is malformed.
absl::Status DecodeMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message& message);

grpc::ByteBuffer EncodeMessage(const google::protobuf::Message& message);

}  // namespace quantloom
