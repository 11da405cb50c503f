// The work behind Evaluate: a published model beside a source, window by window of a text.
//
// A bounded number of evaluations run at once, each with its own models and threads, beside the
// jobs; further ones wait in the order they came.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "quantloom/v1/quantization.pb.h"
#include "services/common/confined_root.h"
#include "services/common/worker_pool.h"
#include "services/quantizer/evaluation_call.h"
#include "services/quantizer/publication.h"

namespace quantloom {

// Thread-safe.
class Evaluator {
 public:
  struct Options {
    int max_running = 1;  // evaluations at a time
    int threads = 0;      // for each; 0: one per processor
  };

  Evaluator(Options options, ConfinedRoot source_root, ConfinedRoot model_root);

  // Answers an Evaluate call (quantization.proto says how). The result is gRPC's until its OnDone.
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(const grpc::CallbackServerContext& context,
                                                    const grpc::ByteBuffer& request);

  // Ends the evaluations that run or wait, and from now on every new one, with UNAVAILABLE. Returns
  // at once; the work stops within a window.
  void Stop();

 private:
  void Run(const v1::EvaluateRequest& request, EvaluationCall& call) const;
  // Sends everything; an error ends the call, or says how it has ended before.
  absl::Status Evaluate(const v1::EvaluateRequest& request, EvaluationCall& call) const;
  // False when the evaluator has been stopped.
  bool Remember(const std::shared_ptr<EvaluationCall>& call);

  const Options options_;
  const ConfinedRoot source_root_;
  const ConfinedRoot model_root_;
  const Publisher publisher_;

  std::mutex mutex_;
  bool stopped_ = false;
  std::vector<std::weak_ptr<EvaluationCall>> calls_;
  WorkerPool pool_;  // last: its threads use all of the above
};

}  // namespace quantloom
