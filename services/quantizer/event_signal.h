// Wakes those who watch a job when it has a new event. Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace quantloom {

class EventSignal {
 public:
  class Watcher {
   public:
    virtual ~Watcher() = default;
    // Called from the thread that notifies; must not block.
    virtual void OnEvent() = 0;
  };

  // `watcher` is told of every event of the job from now on, for as long as it lives.
  void Watch(const std::string& job, const std::shared_ptr<Watcher>& watcher);
  void Notify(const std::string& job);

 private:
  std::mutex mutex_;
  std::map<std::string, std::vector<std::weak_ptr<Watcher>>> watchers_;
};

}  // namespace quantloom
