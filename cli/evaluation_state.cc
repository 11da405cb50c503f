#include "cli/evaluation_state.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/json_util.h"

namespace quantloom::cli {

using ::quantloom::v1::EvaluateResponse;
using ::quantloom::v1::EvaluationPlan;
using ::quantloom::v1::EvaluationWindow;

namespace {

// False for what is not a message of the stream.
bool ParseLine(std::string_view line, EvaluateResponse* response) {
  return google::protobuf::util::JsonStringToMessage({line.data(), line.size()}, response).ok();
}

absl::StatusOr<std::string> ReadAll(int file, const std::string& path) {
  std::string text;
  std::array<char, 1 << 16> block;
  for (;;) {
    const ssize_t bytes = read(file, block.data(), block.size());
    if (bytes == 0) return text;
    if (bytes < 0) {
      if (errno == EINTR) continue;
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot read '", path, "'"));
    }
    text.append(block.data(), static_cast<size_t>(bytes));
  }
}

absl::Status Lock(int file, const std::string& path) {
  if (flock(file, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("'", path, "' is in use by another client"));
}

}  // namespace

EvaluationState::~EvaluationState() {
  if (file_ >= 0) close(file_);
}

absl::StatusOr<std::unique_ptr<EvaluationState>> EvaluationState::Open(const std::string& path) {
  std::unique_ptr<EvaluationState> state(new EvaluationState(path));
  if (!path.empty()) {
    if (const absl::Status status = state->Read(); !status.ok()) return status;
  }
  return state;
}

absl::Status EvaluationState::Read() {
  file_ = open(path_.c_str(), O_RDWR | O_APPEND | O_CLOEXEC | O_NONBLOCK);
  if (file_ < 0 && errno == ENOENT) return absl::OkStatus();
  if (file_ < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open '", path_, "'"));
  struct stat about {};
  if (fstat(file_, &about) != 0 || !S_ISREG(about.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("'", path_, "' is not a regular file"));
  }
  if (const absl::Status locked = Lock(file_, path_); !locked.ok()) return locked;
  const absl::StatusOr<std::string> text = ReadAll(file_, path_);
  return text.ok() ? Parse(*text) : text.status();
}

absl::Status EvaluationState::Parse(const std::string& text) {
  if (text.empty()) return absl::OkStatus();
  size_t number = 0;
  for (size_t end = 0; (end = text.find('\n', whole_bytes_)) != std::string::npos;) {
    const std::string_view line = std::string_view(text).substr(whole_bytes_, end - whole_bytes_);
    ++number;
    EvaluateResponse response;
    const bool parsed = ParseLine(line, &response);
    if (number == 1) {
      if (!parsed || !response.has_plan()) break;
      plan_ = response.plan();
      has_plan_ = true;
    } else if (!parsed || !CheckWindow(response.window()).ok()) {
      return absl::DataLossError(absl::StrCat("'", path_, "' is damaged at line ", number,
                                              "; delete the lines from there on, or the file"));
    } else {
      windows_.push_back(response.window());
    }
    whole_bytes_ = end + 1;
  }
  if (has_plan_) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("'", path_, "' exists and holds no state of `quantloom score`"));
}

absl::Status EvaluationState::AddPlan(const EvaluationPlan& plan) {
  const std::string windows =
      path_.empty() ? "the windows scored so far" : absl::StrCat("the windows in '", path_, "'");
  const auto same = [&](const char* what, const std::string& before, const std::string& now) {
    if (!has_plan_ || before == now) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat(windows, " are of another ", what, " (", before, ", now ", now, ")"));
  };
  for (const absl::Status& status :
       {same("source", plan_.source_sha256(), plan.source_sha256()),
        same("packed model", plan_.model_sha256(), plan.model_sha256()),
        same("text", plan_.text_sha256(), plan.text_sha256()),
        same("window size", absl::StrCat(plan_.window_tokens(), " tokens"),
             absl::StrCat(plan.window_tokens(), " tokens"))}) {
    if (!status.ok()) return status;
  }
  plan_ = plan;
  if (std::exchange(has_plan_, true)) return absl::OkStatus();
  EvaluateResponse response;
  *response.mutable_plan() = plan;
  return Append(response);
}

absl::Status EvaluationState::CheckWindow(const EvaluationWindow& window) const {
  const uint32_t scored = plan_.window_tokens() - plan_.window_tokens() / 2;
  if (window.index() == windows_.size() && window.scored_tokens() == scored &&
      static_cast<uint32_t>(window.kl_size()) == scored && window.same_top1() <= scored) {
    return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat("window ", window.index(), " with ",
                                          window.scored_tokens(), " tokens is not the next one, ",
                                          windows_.size(), " with ", scored));
}

absl::Status EvaluationState::AddWindow(const EvaluationWindow& window) {
  if (const absl::Status status = CheckWindow(window); !status.ok()) return status;
  EvaluateResponse response;
  *response.mutable_window() = window;
  if (const absl::Status status = Append(response); !status.ok()) return status;
  windows_.push_back(window);
  return absl::OkStatus();
}

absl::Status EvaluationState::Append(const EvaluateResponse& response) {
  if (path_.empty()) return absl::OkStatus();
  const auto failed = [&] {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot write '", path_, "'"));
  };
  if (file_ < 0) {
    // Not one that another client has made meanwhile.
    file_ = open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
    if (file_ < 0) return failed();
    if (const absl::Status locked = Lock(file_, path_); !locked.ok()) return locked;
  }
  std::string line;
  // Fails only for an Any of unknown type, and the contract has none.
  if (!google::protobuf::util::MessageToJsonString(response, &line).ok()) line.clear();
  line += '\n';
  if (ftruncate(file_, static_cast<off_t>(whole_bytes_)) != 0) return failed();
  for (std::string_view rest = line; !rest.empty();) {
    const ssize_t written = write(file_, rest.data(), rest.size());
    if (written < 0 && errno != EINTR) return failed();
    if (written > 0) rest.remove_prefix(static_cast<size_t>(written));
  }
  whole_bytes_ += line.size();
  return absl::OkStatus();
}

}  // namespace quantloom::cli
