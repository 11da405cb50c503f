#include "services/quantizer/sqlite_job_store.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "core/base/status.h"
#include "services/common/proto_time.h"
#include "services/common/rpc_status.h"
#include "services/quantizer/page_token.h"

namespace quantloom {
namespace {

// States are v1.JobState's numbers.
constexpr char kFirstSchema[] = R"sql(
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY AUTOINCREMENT,    -- in the order of creation
  name TEXT NOT NULL UNIQUE,
  request_id TEXT NOT NULL UNIQUE,
  fingerprint TEXT NOT NULL,               -- RequestFingerprint
  output TEXT NOT NULL,
  state INTEGER NOT NULL,
  create_time INTEGER NOT NULL,            -- nanoseconds since the epoch
  cancel_requested INTEGER NOT NULL DEFAULT 0,
  job BLOB NOT NULL,                       -- v1.Job without the request
  shown_request BLOB NOT NULL,             -- v1.QuantizeRequest without texts
  full_request BLOB,                       -- v1.QuantizeRequest; NULL once the job has ended
  manifest_sha256 TEXT,                    -- Publication; NULL before
  result BLOB                              -- v1.QuantizeResult of the Publication
);
CREATE INDEX jobs_by_state ON jobs (state, id);
CREATE UNIQUE INDEX unfinished_outputs ON jobs (output) WHERE state IN (1, 2);
CREATE TABLE events (
  job_id INTEGER NOT NULL REFERENCES jobs (id),
  sequence INTEGER NOT NULL,
  time INTEGER NOT NULL,                   -- nanoseconds since the epoch
  progress INTEGER NOT NULL,               -- whether it may be thinned out
  job BLOB NOT NULL,                       -- v1.Job without the request
  PRIMARY KEY (job_id, sequence)
) WITHOUT ROWID;
CREATE TABLE secrets (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO secrets VALUES ('page_token', lower(hex(randomblob(32))));
)sql";

constexpr char kAddCrashes[] = R"sql(
ALTER TABLE jobs ADD COLUMN held INTEGER NOT NULL DEFAULT 0;     -- whether a process works on it
ALTER TABLE jobs ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;  -- how often one ended with it held
)sql";

// The statements that lead from schema i to i + 1; 0 is the empty database.
constexpr const char* kMigrations[] = {kFirstSchema, kAddCrashes};
constexpr int64_t kSchemaVersion = std::size(kMigrations);

absl::Status Unreadable(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("job store: cannot parse ", what));
}

absl::StatusOr<v1::Job> ParseJob(const std::string& job_bytes, const std::string& request_bytes) {
  v1::Job job;
  if (!job.ParseFromString(job_bytes) || !job.mutable_request()->ParseFromString(request_bytes)) {
    return Unreadable("a job");
  }
  return job;
}

std::string SerializeWithoutRequest(const v1::Job& job) {
  v1::Job copy = job;
  copy.clear_request();
  return copy.SerializeAsString();
}

absl::Status NoSuchJob(const std::string& name) {
  return absl::NotFoundError(absl::StrCat("there is no job '", name, "'"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteJobStore>> SqliteJobStore::Open(
    const std::filesystem::path& path) {
  QL_ASSIGN_OR_RETURN(Database database, Database::Open(path));
  std::unique_ptr<SqliteJobStore> store(new SqliteJobStore(std::move(database)));
  QL_RETURN_IF_ERROR(Annotate(store->Migrate(), path.string()));
  return store;
}

absl::Status SqliteJobStore::Migrate() {
  QL_ASSIGN_OR_RETURN(const auto transaction, Transaction::Begin(database_));
  int64_t version = 0;
  {
    QL_ASSIGN_OR_RETURN(Statement select, database_.Prepare("PRAGMA user_version"));
    QL_RETURN_IF_ERROR(select.Step().status());
    version = select.Int(0);
  }
  if (version > kSchemaVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "job store: schema ", version, " was made by a newer version of this program"));
  }
  for (; version < kSchemaVersion; ++version) {
    QL_RETURN_IF_ERROR(database_.Execute(kMigrations[version]));
  }
  QL_RETURN_IF_ERROR(database_.Execute(absl::StrCat("PRAGMA user_version = ", kSchemaVersion)));
  return transaction->Commit();
}

void SqliteJobStore::SetListener(std::function<void(const std::string& job)> listener) {
  listener_ = std::move(listener);
}

void SqliteJobStore::Notify(const std::string& job) const {
  if (listener_) listener_(job);
}

absl::StatusOr<std::string> SqliteJobStore::PageSecret() {
  QL_ASSIGN_OR_RETURN(Statement select,
                      database_.Prepare("SELECT value FROM secrets WHERE name = 'page_token'"));
  QL_ASSIGN_OR_RETURN(const bool found, select.Step());
  if (!found) return Unreadable("the page secret");
  return select.Bytes(0);
}

absl::StatusOr<SqliteJobStore::Row> SqliteJobStore::FindRow(const std::string& name) {
  QL_ASSIGN_OR_RETURN(
      Statement select,
      database_.Prepare(
          "SELECT id, job, shown_request, cancel_requested FROM jobs WHERE name = ?"));
  QL_ASSIGN_OR_RETURN(const bool found, select.Bind(1, name).Step());
  if (!found) return NoSuchJob(name);
  Row row;
  row.id = select.Int(0);
  QL_ASSIGN_OR_RETURN(row.job, ParseJob(select.Bytes(1), select.Bytes(2)));
  row.cancel_requested = select.Int(3) != 0;
  return row;
}

absl::StatusOr<std::optional<v1::Job>> SqliteJobStore::FindRequestLocked(
    const std::string& request_id, const std::string& fingerprint) {
  QL_ASSIGN_OR_RETURN(
      Statement select,
      database_.Prepare("SELECT job, shown_request, fingerprint FROM jobs WHERE request_id = ?"));
  QL_ASSIGN_OR_RETURN(const bool found, select.Bind(1, request_id).Step());
  if (!found) return std::nullopt;
  QL_ASSIGN_OR_RETURN(v1::Job job, ParseJob(select.Bytes(0), select.Bytes(1)));
  if (select.Bytes(2) != fingerprint) {
    return WithField(
        absl::AlreadyExistsError(absl::StrCat("'", request_id, "' is the id of ", job.name(),
                                              ", which has other parameters")),
        "request_id");
  }
  return job;
}

absl::StatusOr<std::optional<v1::Job>> SqliteJobStore::FindRequest(const std::string& request_id,
                                                                   const std::string& fingerprint) {
  const std::lock_guard lock(mutex_);
  return FindRequestLocked(request_id, fingerprint);
}

absl::Status SqliteJobStore::CheckRoom(const NewJob& job, int64_t max_queued) {
  QL_ASSIGN_OR_RETURN(
      Statement conflict,
      database_.Prepare("SELECT name FROM jobs WHERE output = ? AND state IN (1, 2)"));
  QL_ASSIGN_OR_RETURN(const bool taken, conflict.Bind(1, job.request.output()).Step());
  if (taken) {
    return WithField(absl::AlreadyExistsError(absl::StrCat(
                         "'", job.request.output(), "' is being written by ", conflict.Bytes(0))),
                     "output");
  }
  QL_ASSIGN_OR_RETURN(Statement queued,
                      database_.Prepare("SELECT COUNT(*) FROM jobs WHERE state = 1"));
  QL_RETURN_IF_ERROR(queued.Step().status());
  if (queued.Int(0) >= max_queued) {
    return absl::ResourceExhaustedError(
        absl::StrCat(queued.Int(0), " jobs are queued, as many as may be"));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Job> SqliteJobStore::Create(const NewJob& created, int64_t max_queued) {
  Row row;
  {
    const std::lock_guard lock(mutex_);
    QL_ASSIGN_OR_RETURN(const auto transaction, Transaction::Begin(database_));
    QL_ASSIGN_OR_RETURN(std::optional<v1::Job> known,
                        FindRequestLocked(created.request.request_id(), created.fingerprint));
    if (known) return *std::move(known);
    QL_RETURN_IF_ERROR(CheckRoom(created, max_queued));

    row.job.set_name(created.name);
    row.job.set_request_id(created.request.request_id());
    *row.job.mutable_request() = WithoutTexts(created.request);
    row.job.set_state(v1::JOB_STATE_QUEUED);
    const absl::Time now = absl::Now();
    *row.job.mutable_create_time() = ToProto(now);
    QL_ASSIGN_OR_RETURN(
        Statement insert,
        database_.Prepare("INSERT INTO jobs (name, request_id, fingerprint, output, state, "
                          "create_time, job, shown_request, full_request) "
                          "VALUES (?, ?, ?, ?, ?, ?, x'', ?, ?)"));
    QL_RETURN_IF_ERROR(insert.Bind(1, created.name)
                           .Bind(2, created.request.request_id())
                           .Bind(3, created.fingerprint)
                           .Bind(4, created.request.output())
                           .Bind(5, int64_t{v1::JOB_STATE_QUEUED})
                           .Bind(6, absl::ToUnixNanos(now))
                           .BindBlob(7, row.job.request().SerializeAsString())
                           .BindBlob(8, created.request.SerializeAsString())
                           .Step()
                           .status());
    row.id = database_.LastInsertId();
    QL_RETURN_IF_ERROR(Append(row, /*progress=*/false));
    QL_RETURN_IF_ERROR(transaction->Commit());
  }
  Notify(created.name);
  return row.job;
}

absl::StatusOr<v1::Job> SqliteJobStore::Get(const std::string& name) {
  const std::lock_guard lock(mutex_);
  QL_ASSIGN_OR_RETURN(Row row, FindRow(name));
  return std::move(row.job);
}

absl::StatusOr<JobStore::Page> SqliteJobStore::List(const std::vector<v1::JobState>& states,
                                                    int limit, const std::string& token) {
  const std::lock_guard lock(mutex_);
  std::set<int> wanted(states.begin(), states.end());
  if (wanted.empty()) wanted = {1, 2, 3, 4, 5};
  const std::string in = absl::StrJoin(wanted, ",");
  QL_ASSIGN_OR_RETURN(const std::string secret, PageSecret());
  int64_t before = INT64_MAX;
  if (!token.empty()) {
    absl::StatusOr<int64_t> position = ReadPageToken(secret, in, token);
    if (!position.ok()) return WithField(position.status(), "page_token");
    before = *position;
  }
  QL_ASSIGN_OR_RETURN(Statement select,
                      database_.Prepare(absl::StrCat(
                          "SELECT id, job, shown_request FROM jobs WHERE id < ? AND state IN (", in,
                          ") ORDER BY id DESC LIMIT ?")));
  // One more than asked for tells whether there is a next page.
  select.Bind(1, before).Bind(2, int64_t{limit} + 1);
  Page page;
  size_t bytes = 0;
  int64_t last = 0;
  while (true) {
    QL_ASSIGN_OR_RETURN(const bool found, select.Step());
    if (!found) return page;
    QL_ASSIGN_OR_RETURN(v1::Job job, ParseJob(select.Bytes(1), select.Bytes(2)));
    bytes += job.ByteSizeLong();
    const bool full = page.jobs.size() == static_cast<size_t>(limit) ||
                      (bytes > kMaxPageBytes && !page.jobs.empty());
    if (full) {
      page.next_token = MakePageToken(secret, in, last);
      return page;
    }
    last = select.Int(0);
    page.jobs.push_back(std::move(job));
  }
}

absl::StatusOr<JobStore::Events> SqliteJobStore::ReadEvents(const std::string& name,
                                                            uint64_t from_sequence, int limit) {
  const std::lock_guard lock(mutex_);
  QL_ASSIGN_OR_RETURN(const Row row, FindRow(name));
  QL_ASSIGN_OR_RETURN(
      Statement select,
      database_.Prepare("SELECT sequence, time, job FROM events WHERE job_id = ? AND sequence >= ? "
                        "ORDER BY sequence LIMIT ?"));
  const uint64_t from = std::min<uint64_t>(from_sequence, INT64_MAX);
  select.Bind(1, row.id).Bind(2, static_cast<int64_t>(from)).Bind(3, int64_t{limit});
  Events result;
  uint64_t next = from_sequence;
  while (true) {
    QL_ASSIGN_OR_RETURN(const bool found, select.Step());
    if (!found) break;
    v1::QuantizeEvent& event = result.events.emplace_back();
    event.set_sequence(static_cast<uint64_t>(select.Int(0)));
    *event.mutable_time() = ToProto(absl::FromUnixNanos(select.Int(1)));
    if (!event.mutable_job()->ParseFromString(select.Bytes(2))) return Unreadable("an event");
    *event.mutable_job()->mutable_request() = row.job.request();
    next = event.sequence() + 1;
  }
  result.ended = IsFinal(row.job.state()) && next > row.job.last_sequence();
  return result;
}

absl::Status SqliteJobStore::Append(Row& row, bool progress) {
  row.job.set_last_sequence(row.job.last_sequence() + 1);
  const std::string bytes = SerializeWithoutRequest(row.job);
  QL_ASSIGN_OR_RETURN(
      Statement insert,
      database_.Prepare(
          "INSERT INTO events (job_id, sequence, time, progress, job) VALUES (?, ?, ?, ?, ?)"));
  QL_RETURN_IF_ERROR(insert.Bind(1, row.id)
                         .Bind(2, static_cast<int64_t>(row.job.last_sequence()))
                         .Bind(3, absl::ToUnixNanos(absl::Now()))
                         .Bind(4, int64_t{progress})
                         .BindBlob(5, bytes)
                         .Step()
                         .status());
  QL_ASSIGN_OR_RETURN(Statement update,
                      database_.Prepare("UPDATE jobs SET state = ?, job = ? WHERE id = ?"));
  QL_RETURN_IF_ERROR(
      update.Bind(1, int64_t{row.job.state()}).BindBlob(2, bytes).Bind(3, row.id).Step().status());
  if (progress) return ThinProgress(row.id);
  if (!IsFinal(row.job.state())) return absl::OkStatus();
  QL_ASSIGN_OR_RETURN(Statement forget,
                      database_.Prepare("UPDATE jobs SET full_request = NULL WHERE id = ?"));
  return forget.Bind(1, row.id).Step().status();
}

absl::Status SqliteJobStore::ThinProgress(int64_t id) {
  QL_ASSIGN_OR_RETURN(
      Statement count,
      database_.Prepare("SELECT COUNT(*) FROM events WHERE job_id = ? AND progress = 1"));
  QL_RETURN_IF_ERROR(count.Bind(1, id).Step().status());
  if (count.Int(0) <= kMaxProgressEvents) return absl::OkStatus();
  // The one whose neighbours are closest; never the newest or the oldest, which lack one.
  QL_ASSIGN_OR_RETURN(
      Statement thin,
      database_.Prepare(
          "DELETE FROM events WHERE job_id = ?1 AND sequence = (SELECT sequence FROM (SELECT "
          "sequence, LEAD(sequence) OVER neighbours - LAG(sequence) OVER neighbours AS gap "
          "FROM events WHERE job_id = ?1 AND progress = 1 WINDOW neighbours AS (ORDER BY "
          "sequence)) "
          "WHERE gap IS NOT NULL ORDER BY gap, sequence LIMIT 1)"));
  return thin.Bind(1, id).Step().status();
}

absl::StatusOr<ClaimedJob> SqliteJobStore::ReadClaimed(const Row& row) {
  ClaimedJob claimed;
  claimed.job = row.job;
  claimed.cancel_requested = row.cancel_requested;
  QL_ASSIGN_OR_RETURN(
      Statement select,
      database_.Prepare(
          "SELECT full_request, manifest_sha256, result, crashes FROM jobs WHERE id = ?"));
  QL_RETURN_IF_ERROR(select.Bind(1, row.id).Step().status());
  claimed.crashes = select.Int(3);
  if (!claimed.request.ParseFromString(select.Bytes(0))) return Unreadable("a request");
  if (!select.IsNull(1)) {
    claimed.publication.emplace();
    claimed.publication->manifest_sha256 = select.Bytes(1);
    if (!claimed.publication->result.ParseFromString(select.Bytes(2))) {
      return Unreadable("a result");
    }
  }
  return claimed;
}

absl::StatusOr<std::optional<ClaimedJob>> SqliteJobStore::Claim() {
  std::optional<ClaimedJob> claimed;
  {
    const std::lock_guard lock(mutex_);
    QL_ASSIGN_OR_RETURN(const auto transaction, Transaction::Begin(database_));
    std::string name;
    {
      // RUNNING (2) before QUEUED (1).
      QL_ASSIGN_OR_RETURN(Statement select,
                          database_.Prepare("SELECT name FROM jobs WHERE state IN (1, 2) "
                                            "ORDER BY state DESC, id"));
      while (name.empty()) {
        QL_ASSIGN_OR_RETURN(const bool found, select.Step());
        if (!found) return std::nullopt;
        if (claimed_.count(select.Bytes(0)) == 0) name = select.Bytes(0);
      }
    }
    QL_ASSIGN_OR_RETURN(Row row, FindRow(name));
    if (row.job.state() == v1::JOB_STATE_RUNNING) {
      row.job.set_resumes(row.job.resumes() + 1);
    } else {
      row.job.set_state(v1::JOB_STATE_RUNNING);
      *row.job.mutable_start_time() = ToProto(absl::Now());
    }
    QL_RETURN_IF_ERROR(Append(row, /*progress=*/false));
    // Still held: by a process that ended without a word.
    QL_ASSIGN_OR_RETURN(
        Statement hold,
        database_.Prepare("UPDATE jobs SET crashes = crashes + held, held = 1 WHERE id = ?"));
    QL_RETURN_IF_ERROR(hold.Bind(1, row.id).Step().status());
    QL_ASSIGN_OR_RETURN(claimed, ReadClaimed(row));
    QL_RETURN_IF_ERROR(transaction->Commit());
    claimed_.insert(name);
  }
  Notify(claimed->job.name());
  return claimed;
}

absl::Status SqliteJobStore::Release(const std::string& name) {
  const std::lock_guard lock(mutex_);
  QL_ASSIGN_OR_RETURN(Statement update,
                      database_.Prepare("UPDATE jobs SET held = 0 WHERE name = ? AND state = 2"));
  QL_RETURN_IF_ERROR(update.Bind(1, name).Step().status());
  if (database_.Changes() != 1) {
    return absl::FailedPreconditionError(absl::StrCat(name, " is not running"));
  }
  claimed_.erase(name);
  return absl::OkStatus();
}

absl::Status SqliteJobStore::ChangeRunning(const std::string& name, bool progress,
                                           const std::function<void(v1::Job&)>& change) {
  {
    const std::lock_guard lock(mutex_);
    QL_ASSIGN_OR_RETURN(const auto transaction, Transaction::Begin(database_));
    QL_ASSIGN_OR_RETURN(Row row, FindRow(name));
    if (row.job.state() != v1::JOB_STATE_RUNNING) {
      return absl::FailedPreconditionError(absl::StrCat(name, " is not running"));
    }
    change(row.job);
    const bool ended = IsFinal(row.job.state());
    if (ended) *row.job.mutable_end_time() = ToProto(absl::Now());
    QL_RETURN_IF_ERROR(Append(row, progress));
    QL_RETURN_IF_ERROR(transaction->Commit());
    if (ended) claimed_.erase(name);
  }
  Notify(name);
  return absl::OkStatus();
}

absl::Status SqliteJobStore::AppendProgress(const std::string& name,
                                            const v1::JobProgress& progress) {
  return ChangeRunning(name, /*progress=*/true,
                       [&](v1::Job& job) { *job.mutable_progress() = progress; });
}

absl::Status SqliteJobStore::RecordPublication(const std::string& name,
                                               const Publication& publication) {
  const std::lock_guard lock(mutex_);
  QL_ASSIGN_OR_RETURN(
      Statement update,
      database_.Prepare(
          "UPDATE jobs SET manifest_sha256 = ?, result = ? WHERE name = ? AND state = 2"));
  QL_RETURN_IF_ERROR(update.Bind(1, publication.manifest_sha256)
                         .BindBlob(2, publication.result.SerializeAsString())
                         .Bind(3, name)
                         .Step()
                         .status());
  if (database_.Changes() == 1) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(name, " is not running"));
}

absl::Status SqliteJobStore::Succeed(const std::string& name, const v1::QuantizeResult& result) {
  return ChangeRunning(name, /*progress=*/false, [&](v1::Job& job) {
    job.set_state(v1::JOB_STATE_SUCCEEDED);
    *job.mutable_result() = result;
  });
}

absl::Status SqliteJobStore::Fail(const std::string& name, const v1::JobError& error) {
  return ChangeRunning(name, /*progress=*/false, [&](v1::Job& job) {
    job.set_state(v1::JOB_STATE_FAILED);
    *job.mutable_error() = error;
  });
}

absl::Status SqliteJobStore::MarkCancelled(const std::string& name) {
  return ChangeRunning(name, /*progress=*/false,
                       [](v1::Job& job) { job.set_state(v1::JOB_STATE_CANCELLED); });
}

absl::StatusOr<v1::Job> SqliteJobStore::RequestCancel(const std::string& name) {
  Row row;
  {
    const std::lock_guard lock(mutex_);
    QL_ASSIGN_OR_RETURN(const auto transaction, Transaction::Begin(database_));
    QL_ASSIGN_OR_RETURN(row, FindRow(name));
    if (IsFinal(row.job.state())) return row.job;
    QL_ASSIGN_OR_RETURN(Statement update,
                        database_.Prepare("UPDATE jobs SET cancel_requested = 1 WHERE id = ?"));
    QL_RETURN_IF_ERROR(update.Bind(1, row.id).Step().status());
    const bool queued = row.job.state() == v1::JOB_STATE_QUEUED;
    if (queued) {
      row.job.set_state(v1::JOB_STATE_CANCELLED);
      *row.job.mutable_end_time() = ToProto(absl::Now());
      QL_RETURN_IF_ERROR(Append(row, /*progress=*/false));
    }
    QL_RETURN_IF_ERROR(transaction->Commit());
    if (!queued) return row.job;
  }
  Notify(name);
  return row.job;
}

absl::StatusOr<JobStore::Statistics> SqliteJobStore::GetStatistics() {
  const std::lock_guard lock(mutex_);
  Statistics statistics;
  QL_ASSIGN_OR_RETURN(Statement count,
                      database_.Prepare("SELECT state, COUNT(*) FROM jobs GROUP BY state"));
  while (true) {
    QL_ASSIGN_OR_RETURN(const bool found, count.Step());
    if (!found) break;
    statistics.jobs[static_cast<v1::JobState>(count.Int(0))] = count.Int(1);
  }
  QL_ASSIGN_OR_RETURN(Statement oldest,
                      database_.Prepare("SELECT MIN(create_time) FROM jobs WHERE state = 1"));
  QL_RETURN_IF_ERROR(oldest.Step().status());
  if (!oldest.IsNull(0)) statistics.oldest_queued = absl::FromUnixNanos(oldest.Int(0));
  return statistics;
}

}  // namespace quantloom
