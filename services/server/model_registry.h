// The models of this server: packed directories under the model root, loaded, replaced and unloaded
// at run time.
//
//   ModelRegistry registry(options, team);
//   registry.Load("smollm2", [](absl::StatusOr<v1::Model> loaded) { ... });
//   QL_ASSIGN_OR_RETURN(ModelRegistry::Lease model, registry.Acquire("smollm2"));
//   model->engine->Submit(...);
//
// A model has one version that takes requests. When its directory has been replaced, Load brings
// the new version up beside it and then lets it take over; a lease keeps the version that it was
// taken of, which is freed with its last one. Loading and freeing run on one thread of the
// registry's, so memory is accounted for one version at a time.
//
// Thread-safety: all methods may be called from any thread, and a lease may be dropped on any
// thread, an engine's own included.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/parallel.h"
#include "core/format/packed_model.h"
#include "engine/device.h"
#include "engine/generation.h"
#include "engine/loaded_model.h"
#include "quantloom/v1/model.pb.h"
#include "services/common/confined_root.h"
#include "services/common/worker_pool.h"
#include "services/server/model_root.h"

namespace quantloom {

// One version of a model in memory, and the engine that runs it.
struct ServedModel {
  std::string name;
  uint64_t version = 0;  // never used twice
  std::string stamp;     // of the manifest that it was loaded from
  std::shared_ptr<const LoadedModel> loaded;
  std::unique_ptr<GenerationEngine> engine;
  absl::Time load_time;
  v1::Model description;
};

class ModelRegistry {
 public:
  struct Options {
    ConfinedRoot root;
    Verify verify = Verify::kHeader;
    std::shared_ptr<const Device> device;  // what all models run on
    // Bytes of weights, KV caches and activations of all versions of all models; 0: none. What a
    // device has of its own bounds them in any case.
    uint64_t memory_limit = 0;
    GenerationEngine::Limits engine;
  };
  using Lease = std::shared_ptr<const ServedModel>;
  using DoneCallback = std::function<void(absl::StatusOr<v1::Model>)>;
  // Told when a model begins (true) or ceases to take requests. Must not call the registry.
  using ServingListener = std::function<void(const std::string& name, bool serving)>;

  // `team` is what all models' backends compute with; it must outlive the registry.
  ModelRegistry(Options options, ThreadTeam& team);
  // Ends all requests with UNAVAILABLE and frees all models; waits until the leases are gone.
  ~ModelRegistry();
  ModelRegistry(const ModelRegistry&) = delete;
  ModelRegistry& operator=(const ModelRegistry&) = delete;

  // Replaces the listener; an empty one hears nothing. When it returns, the one before is not
  // running and will not be called again.
  void SetListener(ServingListener listener);
  // The same for one that is told when the device has failed for good, after the ServingListener
  // was told of the model that found it.
  void SetFailureListener(std::function<void()> listener);

  // The loaded model of that name; an empty name means the only one. INVALID_ARGUMENT (a name that
  // is none) and NOT_FOUND name the field `model`; FAILED_PRECONDITION: not loaded, or an empty
  // name with none or several loaded; UNAVAILABLE: draining.
  absl::StatusOr<Lease> Acquire(absl::string_view name);

  // Of the methods below, INVALID_ARGUMENT for a name that is none and NOT_FOUND name the field
  // `name`.

  // Every packed directory and every loaded model, by name, without tensors. Reads the root and
  // what has changed in it.
  absl::StatusOr<std::vector<v1::Model>> List();
  // One of them with its tensors. DATA_LOSS or INVALID_ARGUMENT where its files are wrong.
  absl::StatusOr<v1::Model> Find(absl::string_view name);

  // Loads what the model's directory holds now, unless that is loaded, and runs a token through it,
  // then calls `done` (on the registry's thread, or at once when there is nothing to do). Errors:
  // ModelService.LoadModel's.
  void Load(absl::string_view name, DoneCallback done);
  // Refuses new leases, and calls `done` when the last one is gone and the memory is free. Errors:
  // ModelService.UnloadModel's.
  void Unload(absl::string_view name, DoneCallback done);

  // From now on Acquire and Load answer UNAVAILABLE; leases that are out stay good.
  void StopAdmitting();
  // Ends every request of every engine with UNAVAILABLE and returns when they have ended.
  void EndRequests();

  // The versions that take requests, by name.
  std::vector<Lease> Loaded();
  // These and the ones that only have requests left.
  std::vector<Lease> Versions();

  // What a model's engines observed; counters include the versions that are gone.
  struct Statistics {
    v1::Model description;  // of the version that takes requests, without tensors
    EngineStats engine;
    uint64_t memory = 0;  // bytes of all its versions
  };
  // Of every loaded model, by name.
  std::vector<Statistics> GetStatistics();

  // Bytes that count against the memory limit.
  uint64_t MemoryUsed();

  const Options& options() const { return options_; }
  const ModelRoot& root() const { return root_; }

 private:
  // A model that is not merely AVAILABLE.
  struct Slot {
    v1::ModelState state = v1::MODEL_STATE_LOADING;
    bool changing = false;               // LOADED, and another version is being loaded
    std::shared_ptr<ServedModel> model;  // the registry's own lease; null unless LOADED
    std::vector<DoneCallback> waiting;   // for the end of loading or of unloading
  };
  // What takes memory: a version that is being loaded, loaded, or being freed.
  struct Version {
    std::string name;
    uint64_t reserved = 0;               // bytes, estimated before it was loaded
    const ServedModel* model = nullptr;  // while loaded
    std::weak_ptr<const ServedModel> leased;

    // What it has of the device's own memory, else what was reserved.
    uint64_t memory() const;
  };

  // What is loaded, else what is on disk (null when nothing is), with the state it is in now.
  v1::Model Present(const std::string& name, const ModelRoot::Description* on_disk, bool tensors);
  static v1::Model PresentLoaded(const Slot& slot, const ModelRoot::Description* on_disk);

  void RunLoad(const std::string& name);
  // Loads and warms up what the directory holds, on the worker.
  absl::StatusOr<std::unique_ptr<ServedModel>> LoadNow(const std::string& name);
  absl::StatusOr<std::unique_ptr<ServedModel>> LoadVersion(
      const std::string& name, const ModelRoot::Description& description);
  // The device failed under a version, on its engine's thread.
  void DeviceFailed(uint64_t version, const absl::Status& status);
  // Makes a loaded version the one that takes requests.
  void Install(std::unique_ptr<ServedModel> model);
  // Says why the device has no room for a version.
  absl::Status CheckDeviceMemory(uint64_t bytes, const std::string& what) const;
  // Counts the memory of a version to be loaded, or says why not.
  absl::StatusOr<uint64_t> Reserve(const std::string& name,
                                   const ModelRoot::Description& description);
  void Release(uint64_t version);
  // Frees a version, on the worker, once its last lease is gone.
  void Retire(std::unique_ptr<ServedModel> model);
  // Ends loading or unloading: tells those who wait, after removing the slot unless `keep`.
  void Settle(const std::string& name, const absl::StatusOr<v1::Model>& outcome, bool keep);
  bool HasVersions(const std::string& name) const;  // with mutex_ held

  const Options options_;
  ModelRoot root_;
  ThreadTeam& team_;

  std::mutex mutex_;
  std::condition_variable changed_;  // a slot settled, or a version is gone
  std::map<std::string, Slot, std::less<>> slots_;
  std::map<uint64_t, Version> versions_;
  uint64_t last_version_ = 0;
  std::map<std::string, EngineStats> ended_;  // counters of the versions that are gone, by name
  ServingListener listener_;                  // called with mutex_ held, so that it hears in order
  std::function<void()> failure_listener_;    // likewise
  bool draining_ = false;

  WorkerPool worker_{1, WorkerPool::kUnbounded};  // last: its tasks use everything above
};

}  // namespace quantloom
