// The deadline of an RPC, and how a call ends that its caller has given up.
#pragma once

#include <grpcpp/server_context.h>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace quantloom {

// When the caller stops waiting; InfiniteFuture when it said nothing.
absl::Time CallDeadline(const grpc::ServerContextBase& context);

// Whether a call that the caller has given up was given up for its deadline. The deadline travels
// as the time that is left, so the server's copy is later than the client's by what the request
// took to arrive, and the client's reset comes before it: a call given up at most 100 ms early
// counts.
bool GivenUpForDeadline(absl::Time deadline);

// How a call ends that the caller gave up: DEADLINE_EXCEEDED or CANCELLED.
absl::Status GivenUpStatus(absl::Time deadline);

}  // namespace quantloom
