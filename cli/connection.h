// Calls to the two services: channels, deadlines, retries and errors, the same for every command.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/cancellation.h"
#include "cli/channel_security.h"
#include "cli/rpc_error.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "quantloom/v1/generation.grpc.pb.h"
#include "quantloom/v1/model.grpc.pb.h"
#include "quantloom/v1/quantization.grpc.pb.h"

namespace quantloom::cli {

enum class Service { kQuantizer, kServer };

struct ConnectionOptions {
  std::string quantizer = "127.0.0.1:7101";  // host:port or unix:path
  std::string server = "127.0.0.1:7102";
  absl::Duration timeout = absl::ZeroDuration();  // of each call; zero: what suits the call
  int retries = 0;                                // further tries of a call that was refused
};

// Leaves the context without a deadline when there is none.
inline void SetDeadline(grpc::ClientContext& context, absl::Time deadline) {
  if (deadline < absl::InfiniteFuture()) context.set_deadline(absl::ToChronoTime(deadline));
}

// How long a call that answers at once may take when --timeout is not given.
inline constexpr absl::Duration kQuickCall = absl::Seconds(60);

class Connection {
 public:
  // `note` hears what the user should know; `on_wait` of each pause before a further try: why, and
  // how long.
  Connection(ConnectionOptions options, ChannelSecurity security,
             std::function<void(std::string_view)> note,
             std::function<void(const absl::Status&, absl::Duration)> on_wait);

  quantloom::v1::QuantizationService::Stub& quantization();
  quantloom::v1::GenerationService::Stub& generation();
  quantloom::v1::ModelService::Stub& models();

  Cancellation& cancellation() { return cancellation_; }
  const ConnectionOptions& options() const { return options_; }

  // When a call that starts now must have ended: after --timeout, or else after `otherwise`.
  absl::Time Deadline(absl::Duration otherwise) const;

  // Runs `attempt` until it succeeds, fails for good, or the retries are used up. A try follows
  // RESOURCE_EXHAUSTED when the server says when (google.rpc.RetryInfo), and UNAVAILABLE after that
  // or a growing pause. `attempt` must not have had any effect when it returns one of the two.
  // The final UNAVAILABLE says which service at which address.
  absl::Status Retry(Service service, const std::function<absl::Status()>& attempt);

  // A unary call: its response, or its error with the server's address where it could not be
  // reached.
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(Stub& stub,
                                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request, absl::Duration otherwise = kQuickCall) {
    Response response;
    constexpr Service kService = std::is_same_v<Stub, quantloom::v1::QuantizationService::Stub>
                                     ? Service::kQuantizer
                                     : Service::kServer;
    absl::Status status = Retry(kService, [&] {
      grpc::ClientContext context;
      SetDeadline(context, Deadline(otherwise));
      const Cancellation::Call scope(cancellation_, context);
      response.Clear();
      return FromGrpc((stub.*method)(&context, request, &response));
    });
    if (!status.ok()) return status;
    return response;
  }

 private:
  std::shared_ptr<grpc::Channel> Open(const std::string& address) const;
  absl::Status Unreachable(Service service, const absl::Status& status) const;

  ConnectionOptions options_;
  ChannelSecurity security_;
  std::function<void(std::string_view)> note_;
  std::function<void(const absl::Status&, absl::Duration)> on_wait_;
  Cancellation cancellation_;
  std::unique_ptr<quantloom::v1::QuantizationService::Stub> quantization_;
  std::unique_ptr<quantloom::v1::GenerationService::Stub> generation_;
  std::unique_ptr<quantloom::v1::ModelService::Stub> models_;
};

// The pause before try number `attempt` (from 0): 250 ms, doubled each time up to 10 s, less up to
// a quarter at random so that clients that lost one server do not return as one.
absl::Duration Backoff(int attempt);

}  // namespace quantloom::cli
