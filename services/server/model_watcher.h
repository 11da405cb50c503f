// Notices what is published under the model root while the server runs.
//
// The root is looked at again and again, since no notification works on every file system that
// models are shared over. A directory is acted on once it has looked the same twice, and once only
// until it changes again, so that one that is being copied there is left alone:
//   - a loaded model whose directory has been replaced changes to the version there now;
//   - with `load_new`, a model that is not loaded is loaded.
// One that does not fit the memory limit is tried again whenever memory has become free. A loaded
// model whose directory vanishes stays loaded: that is how a replacement begins.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/server/model_registry.h"

namespace quantloom {

class ModelWatcher {
 public:
  struct Options {
    absl::Duration interval;  // between two looks
    bool load_new = false;
  };

  // Starts to watch on a thread of its own. `models` must outlive it.
  ModelWatcher(ModelRegistry& models, const Options& options);
  // Waits for the look in progress, not for a model that is being loaded.
  ~ModelWatcher();
  ModelWatcher(const ModelWatcher&) = delete;
  ModelWatcher& operator=(const ModelWatcher&) = delete;

 private:
  // What was last seen of a directory.
  struct Seen {
    std::string fingerprint;
    bool handled = false;
    uint64_t memory_used = 0;  // when it did not fit; 0: it did
  };

  void Run();
  void Look();
  void Handle(const std::string& name, Seen& seen);
  bool Wants(const std::string& name) const;
  absl::Status LoadAndWait(const std::string& name);
  bool stopping();

  ModelRegistry& models_;
  const Options options_;
  std::map<std::string, Seen> seen_;  // by name; the thread's alone

  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses everything above
};

}  // namespace quantloom
