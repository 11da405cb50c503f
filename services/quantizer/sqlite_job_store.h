// Jobs in an SQLite database, for one process.
//
// A job's row holds its newest state (v1.Job without the request), its request as clients see it
// and, until it has ended, the request with its texts. An event's row holds the v1.Job of that
// moment without the request. Progress events are thinned: beyond kMaxProgressEvents of a job, the
// one goes whose neighbours are closest, so that what stays covers the job's life evenly.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "services/quantizer/job_store.h"
#include "services/quantizer/sqlite.h"

namespace quantloom {

class SqliteJobStore final : public JobStore {
 public:
  static constexpr int kMaxProgressEvents = 512;
  // A page of List is at most this large: gRPC clients accept 4 MiB by default.
  static constexpr size_t kMaxPageBytes = 3 << 20;

  // Opens or creates `path`. FAILED_PRECONDITION for a database of a newer schema.
  static absl::StatusOr<std::unique_ptr<SqliteJobStore>> Open(const std::filesystem::path& path);

  void SetListener(std::function<void(const std::string& job)> listener) override;
  absl::StatusOr<std::optional<v1::Job>> FindRequest(const std::string& request_id,
                                                     const std::string& fingerprint) override;
  absl::StatusOr<v1::Job> Create(const NewJob& job, int64_t max_queued) override;
  absl::StatusOr<v1::Job> Get(const std::string& name) override;
  absl::StatusOr<Page> List(const std::vector<v1::JobState>& states, int limit,
                            const std::string& token) override;
  absl::StatusOr<Events> ReadEvents(const std::string& name, uint64_t from_sequence,
                                    int limit) override;
  absl::StatusOr<std::optional<ClaimedJob>> Claim() override;
  absl::Status Release(const std::string& name) override;
  absl::Status AppendProgress(const std::string& name, const v1::JobProgress& progress) override;
  absl::Status RecordPublication(const std::string& name, const Publication& publication) override;
  absl::Status Succeed(const std::string& name, const v1::QuantizeResult& result) override;
  absl::Status Fail(const std::string& name, const v1::JobError& error) override;
  absl::Status MarkCancelled(const std::string& name) override;
  absl::StatusOr<v1::Job> RequestCancel(const std::string& name) override;
  absl::StatusOr<Statistics> GetStatistics() override;

 private:
  // A row of the table of jobs.
  struct Row {
    int64_t id = 0;
    v1::Job job;  // with the request, without its texts
    bool cancel_requested = false;
  };

  explicit SqliteJobStore(Database database) : database_(std::move(database)) {}

  // All below: with mutex_ held.
  absl::Status Migrate();
  absl::StatusOr<std::string> PageSecret();
  absl::StatusOr<Row> FindRow(const std::string& name);
  absl::StatusOr<std::optional<v1::Job>> FindRequestLocked(const std::string& request_id,
                                                           const std::string& fingerprint);
  absl::Status CheckRoom(const NewJob& job, int64_t max_queued);
  absl::StatusOr<ClaimedJob> ReadClaimed(const Row& row);
  // Writes the row with one event more.
  absl::Status Append(Row& row, bool progress);
  absl::Status ThinProgress(int64_t id);

  // Changes a RUNNING job and appends an event, in one transaction.
  absl::Status ChangeRunning(const std::string& name, bool progress,
                             const std::function<void(v1::Job&)>& change);
  void Notify(const std::string& job) const;

  std::mutex mutex_;
  Database database_;
  std::set<std::string> claimed_;  // by this process
  std::function<void(const std::string& job)> listener_;
};

}  // namespace quantloom
