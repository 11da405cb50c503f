#include "services/server/model_watcher.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <memory>
#include <utility>
#include <vector>

#include "services/common/logging.h"

namespace quantloom {
namespace {

constexpr auto kStopPoll = std::chrono::milliseconds(50);

}  // namespace

ModelWatcher::ModelWatcher(ModelRegistry& models, const Options& options)
    : models_(models), options_(options), thread_([this] { Run(); }) {}

ModelWatcher::~ModelWatcher() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    stop_.notify_all();
  }
  thread_.join();
}

bool ModelWatcher::stopping() {
  std::lock_guard<std::mutex> lock(mutex_);
  return stopping_;
}

void ModelWatcher::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    Look();
    lock.lock();
    stop_.wait_for(lock, absl::ToChronoNanoseconds(options_.interval),
                   [this] { return stopping_; });
  }
}

void ModelWatcher::Look() {
  const auto names = models_.root().Names();
  if (!names.ok()) {
    LogWarning("cannot watch models", {{"error", names.status().ToString()}});
    return;
  }
  std::map<std::string, Seen> seen;
  for (const std::string& name : *names) {
    Seen now = seen_[name];
    const std::string fingerprint = models_.root().Fingerprint(name);
    if (now.fingerprint == fingerprint) {
      Handle(name, now);
    } else {
      now = {.fingerprint = fingerprint};
    }
    seen[name] = std::move(now);
    if (stopping()) return;
  }
  seen_ = std::move(seen);
}

void ModelWatcher::Handle(const std::string& name, Seen& seen) {
  const bool has_room = seen.memory_used != 0 && models_.MemoryUsed() < seen.memory_used;
  if ((seen.handled && !has_room) || !Wants(name)) {
    seen.handled = true;
    return;
  }
  const uint64_t memory_used = models_.MemoryUsed();
  // The registry logs how it went.
  const absl::Status loaded = LoadAndWait(name);
  seen.handled = !absl::IsFailedPrecondition(loaded);  // it is being unloaded: once that is over
  seen.memory_used = absl::IsResourceExhausted(loaded) ? memory_used : 0;
}

bool ModelWatcher::Wants(const std::string& name) const {
  if (options_.load_new) return true;
  const std::vector<ModelRegistry::Lease> loaded = models_.Loaded();
  return std::any_of(loaded.begin(), loaded.end(),
                     [&name](const auto& model) { return model->name == name; });
}

absl::Status ModelWatcher::LoadAndWait(const std::string& name) {
  const auto loaded = std::make_shared<std::promise<absl::Status>>();  // may outlive the wait
  std::future<absl::Status> result = loaded->get_future();
  models_.Load(name, [loaded](const auto& model) { loaded->set_value(model.status()); });
  while (result.wait_for(kStopPoll) != std::future_status::ready) {
    if (stopping()) return absl::CancelledError("stopped");
  }
  return result.get();
}

}  // namespace quantloom
