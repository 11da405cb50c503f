// The windows that an evaluation has scored so far, in memory and in a file that outlives the
// client.
//
// The file is the service's stream as it came: lines of JSON, each an EvaluateResponse in
// protobuf's mapping, the plan first, then the windows in order. A line is appended as soon as its
// window has arrived; one that was cut off in the middle (a full disk, a machine that stopped) is
// scored again.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quantloom/v1/quantization.pb.h"

namespace quantloom::cli {

// Not thread-safe. The file is locked: one client at a time.
class EvaluationState {
 public:
  // Reads what `path` holds; a file that does not exist, or is empty, holds nothing and is made
  // when there is something to keep. An empty path: nothing outlives the client.
  // INVALID_ARGUMENT for a file that is not of this kind, DATA_LOSS for a line that is damaged,
  // FAILED_PRECONDITION when another client has it open.
  static absl::StatusOr<std::unique_ptr<EvaluationState>> Open(const std::string& path);
  ~EvaluationState();
  EvaluationState(const EvaluationState&) = delete;
  EvaluationState& operator=(const EvaluationState&) = delete;

  // What the windows scored so far belong to, and they themselves, from the text's start.
  const std::vector<quantloom::v1::EvaluationWindow>& windows() const { return windows_; }
  // The plan that was added last.
  const quantloom::v1::EvaluationPlan& plan() const { return plan_; }

  // Begins, or goes on with, the evaluation of this plan. FAILED_PRECONDITION when the windows
  // scored so far are of another model, text or window size; how many windows are planned may
  // differ.
  absl::Status AddPlan(const quantloom::v1::EvaluationPlan& plan);
  // INTERNAL for a window that is not the next one of the plan; errors of the file.
  absl::Status AddWindow(const quantloom::v1::EvaluationWindow& window);

 private:
  explicit EvaluationState(const std::string& path) : path_(path) {}

  absl::Status Read();
  absl::Status Parse(const std::string& text);
  absl::Status CheckWindow(const quantloom::v1::EvaluationWindow& window) const;
  absl::Status Append(const quantloom::v1::EvaluateResponse& response);

  const std::string path_;
  int file_ = -1;           // open once there is a file
  size_t whole_bytes_ = 0;  // of complete lines; what follows is cut off before the next one
  bool has_plan_ = false;
  quantloom::v1::EvaluationPlan plan_;
  std::vector<quantloom::v1::EvaluationWindow> windows_;
};

}  // namespace quantloom::cli
