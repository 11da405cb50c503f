// The models of this server: packed directories under the model root, loaded and unloaded at run
// time.
//
//   ModelRegistry registry(options, team);
//   registry.Load("smollm2", [](absl::StatusOr<v1::Model> loaded) { ... });
//   QL_ASSIGN_OR_RETURN(ModelRegistry::Lease model, registry.Acquire("smollm2"));
//   model->engine->Submit(...);
//
// Loading and freeing run on one thread of the registry's, so memory is accounted for one model at
// a time. A lease keeps its model: unloading waits until the last one is gone.
//
// Thread-safety: all methods may be called from any thread, and a lease may be dropped on any
// thread, an engine's own included.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
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
#include "engine/generation.h"
#include "engine/loaded_model.h"
#include "quantloom/v1/model.pb.h"
#include "services/common/confined_root.h"
#include "services/common/worker_pool.h"

namespace quantloom {

// A loaded model and the engine that runs it.
struct ServedModel {
  std::string name;
  std::shared_ptr<const LoadedModel> loaded;
  std::unique_ptr<GenerationEngine> engine;
  absl::Time load_time;
  v1::Model description;  // without tensors
};

class ModelRegistry {
 public:
  struct Options {
    ConfinedRoot root;
    Verify verify = Verify::kHeader;
    uint64_t memory_limit = 0;  // bytes of weights and KV caches of all models; 0: none
    GenerationEngine::Limits engine;
  };
  using Lease = std::shared_ptr<const ServedModel>;
  using DoneCallback = std::function<void(absl::StatusOr<v1::Model>)>;

  // `team` runs all models' forward passes and must outlive the registry.
  ModelRegistry(Options options, ThreadTeam& team);
  // Ends all requests with UNAVAILABLE and frees all models; waits until the leases are gone.
  ~ModelRegistry();
  ModelRegistry(const ModelRegistry&) = delete;
  ModelRegistry& operator=(const ModelRegistry&) = delete;

  // The loaded model of that name; an empty name means the only one. INVALID_ARGUMENT (a name that
  // is none) and NOT_FOUND name the field `model`; FAILED_PRECONDITION: not loaded, or an empty
  // name with none or several loaded; UNAVAILABLE: draining.
  absl::StatusOr<Lease> Acquire(absl::string_view name);

  // Of the methods below, INVALID_ARGUMENT for a name that is none and NOT_FOUND name the field
  // `name`.

  // Every packed directory, by name, without tensors. Reads the root and what has changed in it.
  absl::StatusOr<std::vector<v1::Model>> List();
  // One of them with its tensors. DATA_LOSS or INVALID_ARGUMENT where its files are wrong.
  absl::StatusOr<v1::Model> Find(absl::string_view name);

  // Loads a model and runs a token through it, then calls `done` (on the registry's thread, or at
  // once when there is nothing to do). Errors: ModelService.LoadModel's.
  void Load(absl::string_view name, DoneCallback done);
  // Refuses new leases, and calls `done` when the last one is gone and the memory is free. Errors:
  // ModelService.UnloadModel's.
  void Unload(absl::string_view name, DoneCallback done);

  // From now on Acquire and Load answer UNAVAILABLE; leases that are out stay good.
  void StopAdmitting();
  // Ends every request of every engine with UNAVAILABLE and returns when they have ended.
  void EndRequests();

  // All loaded models, for metrics.
  std::vector<Lease> Loaded();

  // Names of all packed directories under the root, in order.
  absl::StatusOr<std::vector<std::string>> Names() const;

  const Options& options() const { return options_; }

 private:
  // What a directory's files say; kept until its manifest changes.
  struct Description {
    std::string stamp;  // size and time of the manifest
    absl::Status problem;
    v1::Model message;
    ModelConfig config;
    uint64_t weight_bytes = 0;
  };
  // A model that is not merely AVAILABLE.
  struct Slot {
    v1::ModelState state = v1::MODEL_STATE_LOADING;
    uint64_t memory = 0;                 // bytes counted against the limit
    std::shared_ptr<ServedModel> model;  // the registry's own lease; null unless LOADED
    std::weak_ptr<ServedModel> leased;   // the same while leases are out, also when UNLOADING
    std::vector<DoneCallback> waiting;   // for the end of loading or of unloading
  };

  absl::StatusOr<std::filesystem::path> Directory(absl::string_view name,
                                                  absl::string_view field) const;
  absl::StatusOr<std::shared_ptr<const Description>> Describe(const std::string& name);
  // Copies it, with the state that the model is in now.
  v1::Model WithState(const Description& description, bool tensors);
  void RunLoad(const std::string& name);
  // Loads, warms up and accounts; on the worker.
  absl::StatusOr<std::shared_ptr<ServedModel>> LoadNow(const std::string& name);
  // Counts `bytes` for the model, or says why not.
  absl::Status Reserve(const std::string& name, uint64_t bytes);
  // A lease whose last copy sends the model to the worker to be freed there (Retire).
  std::shared_ptr<ServedModel> Share(std::unique_ptr<ServedModel> model);
  void Retire(std::unique_ptr<ServedModel> model);
  // Ends loading or unloading: tells those who wait, after removing the slot unless `keep`.
  void Settle(const std::string& name, const absl::StatusOr<v1::Model>& outcome, bool keep);

  const Options options_;
  ThreadTeam& team_;

  std::mutex descriptions_mutex_;
  std::map<std::string, std::shared_ptr<const Description>> descriptions_;

  std::mutex mutex_;
  std::condition_variable slot_settled_;
  std::map<std::string, Slot, std::less<>> slots_;
  bool draining_ = false;

  WorkerPool worker_{1, WorkerPool::kUnbounded};  // last: its tasks use everything above
};

}  // namespace quantloom
