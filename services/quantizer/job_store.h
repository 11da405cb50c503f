// Where jobs and their events live. Every change of a job's state is an event, committed together
// with it, before the call that makes it returns.
//
// Thread-safe. Errors besides those named: what the storage reports (RESOURCE_EXHAUSTED for a full
// disk, DATA_LOSS for a damaged store, else INTERNAL); then nothing was changed. Errors about a
// request name its field (services/common/rpc_status.h, WithField).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "quantloom/v1/quantization.pb.h"

namespace quantloom {

// Whether a job in this state will never change again.
bool IsFinal(v1::JobState state);

// Digest of what a request asks for, its request_id left out: requests with one id are the same
// when their fingerprints are.
std::string RequestFingerprint(const v1::QuantizeRequest& request);

// The request without the texts given inline, as clients see it in Job.request.
v1::QuantizeRequest WithoutTexts(v1::QuantizeRequest request);

struct NewJob {
  std::string name;
  std::string fingerprint;
  v1::QuantizeRequest request;  // accepted: complete, request_id filled in, texts included
};

// The decision to publish a job's finished staging directory, made before the directory is renamed.
// After a crash it tells what became of the job.
struct Publication {
  std::string manifest_sha256;  // of the staged manifest
  v1::QuantizeResult result;
};

// A job to work on.
struct ClaimedJob {
  v1::Job job;
  v1::QuantizeRequest request;  // as NewJob's
  bool cancel_requested = false;
  int64_t crashes = 0;  // processes that ended while they held the claim and did not release it
  std::optional<Publication> publication;
};

class JobStore {
 public:
  virtual ~JobStore() = default;

  // Called with the job's name after each committed event, from the thread that made it, with no
  // lock held. Set before other threads use the store.
  virtual void SetListener(std::function<void(const std::string& job)> listener) = 0;

  // The job of a request id, or nullopt. ALREADY_EXISTS when its fingerprint is another.
  virtual absl::StatusOr<std::optional<v1::Job>> FindRequest(const std::string& request_id,
                                                             const std::string& fingerprint) = 0;

  // Queues a job; its first event says QUEUED. If the request id is known by now, as FindRequest.
  // ALREADY_EXISTS when an unfinished job has the same output; RESOURCE_EXHAUSTED when `max_queued`
  // jobs are queued.
  virtual absl::StatusOr<v1::Job> Create(const NewJob& job, int64_t max_queued) = 0;

  // NOT_FOUND.
  virtual absl::StatusOr<v1::Job> Get(const std::string& name) = 0;

  struct Page {
    std::vector<v1::Job> jobs;
    std::string next_token;  // empty on the last page
  };
  // Jobs in one of `states` (empty: all), newest first, at most `limit`, fewer when they are large.
  // INVALID_ARGUMENT for a token that was not the next_token of a page with the same states.
  virtual absl::StatusOr<Page> List(const std::vector<v1::JobState>& states, int limit,
                                    const std::string& token) = 0;

  struct Events {
    std::vector<v1::QuantizeEvent> events;  // in order
    bool ended = false;                     // no event will ever follow these
  };
  // Up to `limit` events of a job from a sequence number on. NOT_FOUND.
  virtual absl::StatusOr<Events> ReadEvents(const std::string& name, uint64_t from_sequence,
                                            int limit) = 0;

  // Takes a job to work on: first those that were running when an earlier process stopped (counted
  // in resumes), then the oldest queued one, which becomes RUNNING. nullopt when there is none.
  virtual absl::StatusOr<std::optional<ClaimedJob>> Claim() = 0;

  // The rest is for the holder of a claim. FAILED_PRECONDITION when the job is not RUNNING.

  // Gives the claim back: the job stays RUNNING, for the next Claim.
  virtual absl::Status Release(const std::string& name) = 0;
  virtual absl::Status AppendProgress(const std::string& name, const v1::JobProgress& progress) = 0;
  virtual absl::Status RecordPublication(const std::string& name,
                                         const Publication& publication) = 0;
  virtual absl::Status Succeed(const std::string& name, const v1::QuantizeResult& result) = 0;
  virtual absl::Status Fail(const std::string& name, const v1::JobError& error) = 0;
  virtual absl::Status MarkCancelled(const std::string& name) = 0;

  // Cancels a queued job at once, notes the wish on a running one, changes nothing on an ended one.
  // Returns the job. NOT_FOUND.
  virtual absl::StatusOr<v1::Job> RequestCancel(const std::string& name) = 0;

  struct Statistics {
    std::map<v1::JobState, int64_t> jobs;
    std::optional<absl::Time> oldest_queued;
  };
  virtual absl::StatusOr<Statistics> GetStatistics() = 0;
};

}  // namespace quantloom
