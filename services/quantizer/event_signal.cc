#include "services/quantizer/event_signal.h"

#include <algorithm>
#include <utility>

namespace quantloom {
namespace {

void RemoveExpired(std::vector<std::weak_ptr<EventSignal::Watcher>>& watchers) {
  watchers.erase(std::remove_if(watchers.begin(), watchers.end(),
                                [](const auto& watcher) { return watcher.expired(); }),
                 watchers.end());
}

}  // namespace

void EventSignal::Watch(const std::string& job, const std::shared_ptr<Watcher>& watcher) {
  const std::lock_guard lock(mutex_);
  for (auto it = watchers_.begin(); it != watchers_.end();) {
    RemoveExpired(it->second);
    it = it->second.empty() ? watchers_.erase(it) : std::next(it);
  }
  watchers_[job].push_back(watcher);
}

void EventSignal::Notify(const std::string& job) {
  std::vector<std::shared_ptr<Watcher>> woken;
  {
    const std::lock_guard lock(mutex_);
    const auto found = watchers_.find(job);
    if (found == watchers_.end()) return;
    for (const auto& watcher : found->second) {
      if (auto alive = watcher.lock()) woken.push_back(std::move(alive));
    }
  }
  for (const auto& watcher : woken) watcher->OnEvent();
}

}  // namespace quantloom
