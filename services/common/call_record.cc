#include "services/common/call_record.h"

#include <unordered_map>
#include <utility>

#include "absl/strings/string_view.h"

namespace quantloom {
namespace {

// The calls that are being handled now, by context.
struct OpenRecords {
  std::mutex mutex;
  std::unordered_map<const grpc::ServerContextBase*, std::shared_ptr<CallRecord>> records;
};

OpenRecords& Records() {
  static OpenRecords& records = *new OpenRecords;  // calls may end while the process exits
  return records;
}

std::vector<absl::string_view> Values(const grpc::ServerContextBase& context, const char* key) {
  std::vector<absl::string_view> values;
  const auto [begin, end] = context.client_metadata().equal_range(key);
  for (auto value = begin; value != end; ++value) {
    values.emplace_back(value->second.data(), value->second.size());
  }
  return values;
}

}  // namespace

CallRecord::CallRecord(const grpc::ServerContextBase& context)
    : request_id_(ChooseRequestId(Values(context, kRequestIdKey))),
      trace_(ContinueTrace(Values(context, kTraceparentKey))),
      peer_(context.peer()) {}

std::shared_ptr<CallRecord> CallRecord::Of(const grpc::ServerContextBase& context) {
  OpenRecords& open = Records();
  {
    const std::lock_guard lock(open.mutex);
    const auto found = open.records.find(&context);
    if (found != open.records.end()) return found->second;
  }
  return std::shared_ptr<CallRecord>(new CallRecord(context));
}

std::shared_ptr<CallRecord> CallRecord::Open(grpc::ServerContextBase& context) {
  std::shared_ptr<CallRecord> record(new CallRecord(context));
  context.AddInitialMetadata(kRequestIdKey, record->request_id_);
  context.AddInitialMetadata(kTraceparentKey, FormatTraceparent(record->trace_));
  OpenRecords& open = Records();
  const std::lock_guard lock(open.mutex);
  open.records[&context] = record;
  return record;
}

void CallRecord::Close(const grpc::ServerContextBase& context) {
  OpenRecords& open = Records();
  const std::lock_guard lock(open.mutex);
  open.records.erase(&context);
}

void CallRecord::Note(LogField field) {
  const std::lock_guard lock(mutex_);
  noted_.push_back(std::move(field));
}

void CallRecord::Log(LogLevel level, const std::string& method, const char* code,
                     double seconds) const {
  std::vector<LogField> fields = {{"method", method},
                                  {"code", code},
                                  {"seconds", seconds},
                                  {"request_id", request_id_},
                                  {"trace_id", trace_.trace_id},
                                  {"span_id", trace_.span_id}};
  if (!trace_.parent_id.empty()) fields.emplace_back("parent_span_id", trace_.parent_id);
  fields.emplace_back("peer", peer_);
  {
    const std::lock_guard lock(mutex_);
    fields.insert(fields.end(), noted_.begin(), noted_.end());
  }
  quantloom::Log(level, "rpc", fields);
}

}  // namespace quantloom
