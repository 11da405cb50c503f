// Requests with every field at its limits and beyond, made from the messages' descriptors, so that
// a field added to the contract is covered without anyone thinking of it.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace quantloom::testing {

// A serialized request; `name` tells which field holds what: "sampling.top_p=nan".
struct LimitCase {
  std::string name;
  std::string bytes;
};

// `base` with one field changed at a time, fields of sub-messages and elements included: absent,
// zero, smallest, largest, negative, NaN and infinite, empty, long (`long_bytes` and one more), not
// UTF-8, unknown enum values, many elements; and bytes that are no such message.
std::vector<LimitCase> FieldLimitCases(const google::protobuf::Message& base, size_t long_bytes);

// How a call ended, after `max_responses` responses at most: then it is cancelled.
struct CallEnd {
  grpc::Status status;
  bool cancelled = false;  // by this client
};

// Calls a method with one request message and reads responses, as many as come.
CallEnd CallAnyMethod(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                      const std::string& request, int max_responses, absl::Duration timeout);

// Sends every method of `service` (full name) all limit cases of its request and expects a status
// that blames the request, or none; never one that says that the service failed. `bases` are valid
// requests; a method whose request has none gets the default one.
void ExpectProperStatuses(const std::shared_ptr<grpc::Channel>& channel, absl::string_view service,
                          const std::vector<const google::protobuf::Message*>& bases,
                          size_t long_bytes);

}  // namespace quantloom::testing
