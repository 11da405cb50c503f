// What is known of one RPC while it runs: the ids that it goes by, and what its line in the access
// log will say.
//
//   const std::shared_ptr<CallRecord> record = CallRecord::Of(*context);
//   LogInfo("job admitted", {{"job", name}, {"request_id", record->request_id()}});
//   record->Note({"job", name});
//
// The request interceptor (request_metrics.h) opens a record before the handler runs, answers with
// its ids in the initial metadata, and writes the line when the call has ended.
#pragma once

#include <grpcpp/server_context.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "services/common/logging.h"
#include "services/common/trace_context.h"

namespace quantloom {

// Thread-safe.
class CallRecord {
 public:
  // The record of the call; outside of a server with the interceptor, a new one.
  static std::shared_ptr<CallRecord> Of(const grpc::ServerContextBase& context);

  // Begins the call's record from its metadata, for Of to find until Close, and sets the answer's
  // initial metadata.
  static std::shared_ptr<CallRecord> Open(grpc::ServerContextBase& context);
  static void Close(const grpc::ServerContextBase& context);

  // Printable ASCII, at most kMaxRequestIdBytes.
  const std::string& request_id() const { return request_id_; }
  const TraceContext& trace() const { return trace_; }

  // Adds a field to the access log's line. Its key must be a literal. Never prompts or texts.
  void Note(LogField field);

  // Writes the line: "rpc", with method, code, duration, ids and what was noted.
  void Log(LogLevel level, const std::string& method, const char* code, double seconds) const;

 private:
  explicit CallRecord(const grpc::ServerContextBase& context);

  std::string request_id_;
  TraceContext trace_;
  std::string peer_;
  mutable std::mutex mutex_;
  std::vector<LogField> noted_;
};

}  // namespace quantloom
