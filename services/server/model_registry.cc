#include "services/server/model_registry.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status.h"
#include "engine/model.h"
#include "services/common/logging.h"
#include "services/common/proto_time.h"

namespace quantloom {
namespace {

// Loads of a directory that is replaced each time before its load is done.
constexpr int kMaxLoadAttempts = 3;

void AddCounters(const EngineStats& from, EngineStats& to) {
  to.prompt_tokens += from.prompt_tokens;
  to.prefix_hit_tokens += from.prefix_hit_tokens;
  to.generated_tokens += from.generated_tokens;
  to.steps += from.steps;
  to.preemptions += from.preemptions;
  to.weight_bytes_read += from.weight_bytes_read;
  to.prefill_time += from.prefill_time;
  to.decode_time += from.decode_time;
}

void AddGauges(const EngineStats& from, EngineStats& to) {
  to.requests_running += from.requests_running;
  to.requests_waiting += from.requests_waiting;
  to.last_batch_tokens += from.last_batch_tokens;
  to.kv_blocks_total += from.kv_blocks_total;
  to.kv_blocks_used += from.kv_blocks_used;
  to.kv_blocks_cached += from.kv_blocks_cached;
}

// One decode step, so that the first request finds weights in memory and kernels chosen.
absl::Status WarmUp(GenerationEngine& engine) {
  const int32_t token = engine.model().config().bos_token_id.value_or(0);
  return engine.Score({token, token}, {}).status();
}

}  // namespace

ModelRegistry::ModelRegistry(Options options, ThreadTeam& team)
    : options_(std::move(options)), root_(options_.root), team_(team) {}

ModelRegistry::~ModelRegistry() {
  StopAdmitting();
  EndRequests();
  std::vector<std::shared_ptr<ServedModel>> released;
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] {
    return std::none_of(slots_.begin(), slots_.end(), [](const auto& slot) {
      return slot.second.state == v1::MODEL_STATE_LOADING || slot.second.changing;
    });
  });
  for (auto& [name, slot] : slots_) {
    if (slot.state != v1::MODEL_STATE_LOADED) continue;
    slot.state = v1::MODEL_STATE_UNLOADING;
    released.push_back(std::move(slot.model));
  }
  lock.unlock();
  released.clear();
  lock.lock();
  changed_.wait(lock, [this] { return slots_.empty() && versions_.empty(); });
}

void ModelRegistry::SetListener(ServingListener listener) {
  std::lock_guard<std::mutex> lock(mutex_);
  listener_ = std::move(listener);
}

void ModelRegistry::SetFailureListener(std::function<void()> listener) {
  std::lock_guard<std::mutex> lock(mutex_);
  failure_listener_ = std::move(listener);
}

void ModelRegistry::DeviceFailed(uint64_t version, const absl::Status& status) {
  std::lock_guard<std::mutex> lock(mutex_);
  const Version& failed = versions_.find(version)->second;
  LogError(
      "device failed",
      {{"model", failed.name}, {"device", options_.device->name()}, {"error", status.ToString()}});
  const auto slot = slots_.find(failed.name);
  const bool serves =
      slot != slots_.end() && slot->second.model.get() == failed.model && failed.model != nullptr;
  if (serves && listener_) listener_(failed.name, false);
  // Memory that ran out while a model was loaded is that model's trouble alone.
  if (failure_listener_ && (serves || !absl::IsResourceExhausted(status))) failure_listener_();
}

// --- What is there

v1::Model ModelRegistry::PresentLoaded(const Slot& slot, const ModelRoot::Description* on_disk) {
  v1::Model message = slot.model->description;
  message.set_state(v1::MODEL_STATE_LOADED);
  *message.mutable_load_time() = ToProto(slot.model->load_time);
  message.set_update_available(on_disk != nullptr && on_disk->stamp != slot.model->stamp);
  return message;
}

v1::Model ModelRegistry::Present(const std::string& name, const ModelRoot::Description* on_disk,
                                 bool tensors) {
  v1::Model message;
  message.set_name(name);
  if (on_disk != nullptr) message = on_disk->message;
  message.set_state(v1::MODEL_STATE_AVAILABLE);
  std::lock_guard<std::mutex> lock(mutex_);
  const auto slot = slots_.find(name);
  if (slot != slots_.end()) {
    message.set_state(slot->second.state);
    if (slot->second.model != nullptr) message = PresentLoaded(slot->second, on_disk);
  }
  for (const auto& [id, version] : versions_) {
    if (version.name != name) continue;
    message.set_memory_bytes(message.memory_bytes() + version.memory());
    const bool serves = slot != slots_.end() && slot->second.model.get() == version.model;
    if (version.model != nullptr && !serves) {
      message.set_ending_versions(message.ending_versions() + 1);
    }
  }
  if (!tensors) message.clear_tensors();
  return message;
}

absl::StatusOr<std::vector<v1::Model>> ModelRegistry::List() {
  QL_ASSIGN_OR_RETURN(const std::vector<std::string> on_disk, root_.Names());
  std::set<std::string> names(on_disk.begin(), on_disk.end());
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [name, slot] : slots_) names.insert(name);
  }
  std::vector<v1::Model> models;
  models.reserve(names.size());
  for (const std::string& name : names) {
    const auto description = root_.Describe(name);
    v1::Model model =
        Present(name, description.ok() ? description->get() : nullptr, /*tensors=*/false);
    // Neither on disk nor loaded: it was removed while this ran.
    if (!description.ok() && model.state() == v1::MODEL_STATE_AVAILABLE) continue;
    models.push_back(std::move(model));
  }
  return models;
}

absl::StatusOr<v1::Model> ModelRegistry::Find(absl::string_view name) {
  const std::string key(name);
  const auto description = root_.Describe(key);
  v1::Model model = Present(key, description.ok() ? description->get() : nullptr, /*tensors=*/true);
  if (model.state() == v1::MODEL_STATE_LOADED) return model;
  QL_RETURN_IF_ERROR(description.status());
  QL_RETURN_IF_ERROR((*description)->problem);
  return model;
}

absl::StatusOr<ModelRegistry::Lease> ModelRegistry::Acquire(absl::string_view name) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (draining_) return absl::UnavailableError("the server is draining");
    if (name.empty()) {
      std::vector<Lease> loaded;
      for (const auto& [unused, slot] : slots_) {
        if (slot.state == v1::MODEL_STATE_LOADED) loaded.push_back(slot.model);
      }
      if (loaded.size() == 1) return loaded[0];
      return absl::FailedPreconditionError(
          absl::StrCat("model: must be named, since ", loaded.size(), " models are loaded"));
    }
    const auto slot = slots_.find(name);
    if (slot != slots_.end()) {
      if (slot->second.state == v1::MODEL_STATE_LOADED) return Lease(slot->second.model);
      return absl::FailedPreconditionError(
          absl::StrCat("model '", name, "' is being ",
                       slot->second.state == v1::MODEL_STATE_LOADING ? "loaded" : "unloaded"));
    }
  }
  QL_RETURN_IF_ERROR(root_.Directory(name, "model").status());
  return absl::FailedPreconditionError(absl::StrCat("model '", name, "' is not loaded"));
}

std::vector<ModelRegistry::Lease> ModelRegistry::Loaded() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Lease> loaded;
  for (const auto& [unused, slot] : slots_) {
    if (slot.state == v1::MODEL_STATE_LOADED) loaded.push_back(slot.model);
  }
  return loaded;
}

std::vector<ModelRegistry::Lease> ModelRegistry::Versions() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Lease> versions;
  for (const auto& [unused, version] : versions_) {
    if (Lease model = version.leased.lock()) versions.push_back(std::move(model));
  }
  return versions;
}

std::vector<ModelRegistry::Statistics> ModelRegistry::GetStatistics() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Statistics> models;
  for (const auto& [name, slot] : slots_) {
    if (slot.state != v1::MODEL_STATE_LOADED) continue;
    Statistics& model = models.emplace_back();
    model.description = PresentLoaded(slot, nullptr);
    model.description.clear_tensors();
    const auto ended = ended_.find(name);
    if (ended != ended_.end()) AddCounters(ended->second, model.engine);
    for (const auto& [unused, version] : versions_) {
      if (version.name != name) continue;
      model.memory += version.memory();
      if (version.model == nullptr) continue;
      const EngineStats stats = version.model->engine->stats();
      AddCounters(stats, model.engine);
      AddGauges(stats, model.engine);
    }
  }
  return models;
}

uint64_t ModelRegistry::MemoryUsed() {
  std::lock_guard<std::mutex> lock(mutex_);
  uint64_t used = 0;
  for (const auto& [unused, version] : versions_) used += version.memory();
  return used;
}

// --- Loading

void ModelRegistry::Load(absl::string_view name, DoneCallback done) {
  const std::string key(name);
  const auto description = root_.Describe(key);
  if (!description.ok()) return done(description.status());
  std::unique_lock<std::mutex> lock(mutex_);
  if (draining_) {
    lock.unlock();
    return done(absl::UnavailableError("the server is draining"));
  }
  const auto [found, inserted] = slots_.try_emplace(key);
  Slot& slot = found->second;
  const bool replaced = slot.model != nullptr && slot.model->stamp != (*description)->stamp;
  if (slot.state == v1::MODEL_STATE_LOADING || slot.changing || replaced) {
    slot.waiting.push_back(std::move(done));
    const bool starts = inserted || (replaced && !slot.changing);
    slot.changing = slot.changing || replaced;
    if (starts) worker_.TryRun([this, key] { RunLoad(key); });
    return;
  }
  const bool loaded = slot.state == v1::MODEL_STATE_LOADED;
  lock.unlock();
  if (loaded) return done(Present(key, description->get(), /*tensors=*/false));
  done(absl::FailedPreconditionError(absl::StrCat("model '", name, "' is being unloaded")));
}

void ModelRegistry::RunLoad(const std::string& name) {
  auto model = LoadNow(name);
  if (model.ok()) {
    Install(*std::move(model));
    return Settle(name, Present(name, nullptr, /*tensors=*/false), /*keep=*/true);
  }
  const absl::Status status = Annotate(model.status(), absl::StrCat("model '", name, "'"));
  LogWarning("model not loaded", {{"model", name}, {"error", status.ToString()}});
  bool keep = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Slot& slot = slots_.find(name)->second;
    keep = std::exchange(slot.changing, false);
  }
  Settle(name, status, keep);
}

void ModelRegistry::Install(std::unique_ptr<ServedModel> model) {
  LogInfo("model loaded", {{"model", model->name},
                           {"recipe", model->description.recipe()},
                           {"bits_per_weight", model->description.bits_per_weight()},
                           {"manifest_sha256", model->description.manifest_sha256()}});
  const ServedModel* loaded = model.get();
  // The last lease may be dropped on the engine's own thread, which cannot join itself: the model
  // is destroyed on the registry's.
  std::shared_ptr<ServedModel> shared(model.release(), [this](ServedModel* last) {
    auto retired = std::make_shared<std::unique_ptr<ServedModel>>(last);
    worker_.TryRun([this, retired] { Retire(std::move(*retired)); });
  });
  std::shared_ptr<ServedModel> replaced;  // dropped after the lock
  std::lock_guard<std::mutex> lock(mutex_);
  Version& version = versions_.find(loaded->version)->second;
  version.model = loaded;
  version.leased = shared;
  Slot& slot = slots_.find(loaded->name)->second;
  slot.state = v1::MODEL_STATE_LOADED;
  slot.changing = false;
  replaced = std::exchange(slot.model, std::move(shared));
  if (listener_ && !draining_) listener_(loaded->name, true);
}

absl::StatusOr<std::unique_ptr<ServedModel>> ModelRegistry::LoadNow(const std::string& name) {
  for (int attempt = 1;; ++attempt) {
    QL_ASSIGN_OR_RETURN(const auto description, root_.Describe(name));
    QL_RETURN_IF_ERROR(description->problem);
    auto model = LoadVersion(name, *description);
    // Of a directory that was replaced meanwhile, one half may have been read before and the other
    // after.
    if (root_.Stamp(name) == description->stamp) return model;
    if (model.ok()) {
      const uint64_t version = (*model)->version;
      model->reset();
      Release(version);
    }
    if (attempt == kMaxLoadAttempts) {
      return absl::UnavailableError("its directory is being replaced again and again");
    }
  }
}

absl::StatusOr<std::unique_ptr<ServedModel>> ModelRegistry::LoadVersion(
    const std::string& name, const ModelRoot::Description& description) {
  QL_ASSIGN_OR_RETURN(const uint64_t version, Reserve(name, description));
  absl::Cleanup release = [this, version] { Release(version); };
  QL_ASSIGN_OR_RETURN(const std::filesystem::path directory, root_.Directory(name, "name"));
  auto model = std::make_unique<ServedModel>();
  model->name = name;
  model->version = version;
  model->stamp = description.stamp;
  model->description = description.message;
  QL_ASSIGN_OR_RETURN(model->loaded,
                      LoadedModel::LoadPacked(directory, options_.verify, *options_.device, team_));
  QL_ASSIGN_OR_RETURN(model->engine,
                      GenerationEngine::Create(model->loaded, options_.engine,
                                               [this, version](const absl::Status& status) {
                                                 DeviceFailed(version, status);
                                               }));
  if (const uint64_t decoded = model->loaded->model().backend().decoded_matrices(); decoded > 0) {
    LogWarning("matrices have no kernel on this device and are kept in fp16",
               {{"model", name}, {"matrices", decoded}, {"device", options_.device->name()}});
  }
  QL_RETURN_IF_ERROR(WarmUp(*model->engine));
  model->load_time = absl::Now();
  std::move(release).Cancel();
  return model;
}

uint64_t ModelRegistry::Version::memory() const {
  const uint64_t held = model == nullptr ? 0 : model->loaded->model().backend().memory_bytes();
  return held > 0 ? held : reserved;
}

absl::Status ModelRegistry::CheckDeviceMemory(uint64_t bytes, const std::string& what) const {
  const Device& device = *options_.device;
  if (device.memory_bytes() == 0) return absl::OkStatus();
  const absl::StatusOr<uint64_t> free = device.free_memory_bytes();
  if (!free.ok()) {
    return absl::UnavailableError(absl::StrCat("the device failed: ", free.status().message()));
  }
  if (bytes <= *free) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("needs ", what, ", and ", *free, " of the ",
                                                   device.memory_bytes(), " bytes of ",
                                                   device.name(), " are free"));
}

absl::StatusOr<uint64_t> ModelRegistry::Reserve(const std::string& name,
                                                const ModelRoot::Description& description) {
  const GenerationEngine::Memory engine =
      GenerationEngine::MemoryFor(description.config, options_.engine);
  const uint64_t bytes = description.weight_bytes + engine.kv_cache + engine.activations;
  const std::string what =
      absl::StrCat(bytes, " bytes (weights ", description.weight_bytes, ", KV cache ",
                   engine.kv_cache, ", activations ", engine.activations, ")");
  QL_RETURN_IF_ERROR(CheckDeviceMemory(bytes, what));
  std::lock_guard<std::mutex> lock(mutex_);
  if (draining_) return absl::UnavailableError("the server is draining");
  if (options_.memory_limit != 0) {
    uint64_t used = 0;
    uint64_t own = 0;  // of other versions of this model
    for (const auto& [unused, version] : versions_) {
      used += version.memory();
      if (version.name == name) own += version.memory();
    }
    const uint64_t available = options_.memory_limit - std::min(options_.memory_limit, used);
    if (bytes > available) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "needs ", what, ", and ", available, " of the limit of ", options_.memory_limit,
          " are available", own == 0 ? "" : absl::StrCat("; other versions of it take ", own)));
    }
  }
  versions_[++last_version_] = {.name = name, .reserved = bytes, .model = nullptr, .leased = {}};
  return last_version_;
}

void ModelRegistry::Release(uint64_t version) {
  std::lock_guard<std::mutex> lock(mutex_);
  versions_.erase(version);
  changed_.notify_all();
}

bool ModelRegistry::HasVersions(const std::string& name) const {
  return std::any_of(versions_.begin(), versions_.end(),
                     [&name](const auto& entry) { return entry.second.name == name; });
}

void ModelRegistry::Retire(std::unique_ptr<ServedModel> model) {
  const std::string name = model->name;
  const uint64_t version = model->version;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    AddCounters(model->engine->stats(), ended_[name]);
    versions_.find(version)->second.model = nullptr;
  }
  model.reset();
  bool unloaded = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    versions_.erase(version);
    const auto slot = slots_.find(name);
    unloaded = slot != slots_.end() && slot->second.state == v1::MODEL_STATE_UNLOADING &&
               !HasVersions(name);
    if (!unloaded) changed_.notify_all();
  }
  LogInfo(unloaded ? "model unloaded" : "old version of model freed", {{"model", name}});
  if (!unloaded) return;
  const auto description = root_.Describe(name);
  v1::Model message = Present(name, description.ok() ? description->get() : nullptr,
                              /*tensors=*/false);
  message.set_state(v1::MODEL_STATE_AVAILABLE);
  Settle(name, message, /*keep=*/false);
}

void ModelRegistry::Settle(const std::string& name, const absl::StatusOr<v1::Model>& outcome,
                           bool keep) {
  std::vector<DoneCallback> waiting;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto slot = slots_.find(name);
    waiting = std::move(slot->second.waiting);
    slot->second.waiting.clear();
    if (!keep) slots_.erase(slot);
    // Under the lock: a destructor that waits for this may free the registry right after.
    changed_.notify_all();
  }
  for (const DoneCallback& done : waiting) done(outcome);
}

void ModelRegistry::Unload(absl::string_view name, DoneCallback done) {
  std::shared_ptr<ServedModel> released;
  absl::Status refused;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto slot = slots_.find(name);
    if (slot != slots_.end()) {
      if (slot->second.state == v1::MODEL_STATE_LOADING || slot->second.changing) {
        refused = absl::FailedPreconditionError(absl::StrCat("model '", name, "' is being loaded"));
      } else {
        slot->second.state = v1::MODEL_STATE_UNLOADING;
        slot->second.waiting.push_back(std::move(done));
        released = std::move(slot->second.model);
        if (listener_) listener_(slot->first, false);
        return;  // the lease is dropped after the lock
      }
    }
  }
  if (!refused.ok()) return done(refused);
  const std::string key(name);
  const auto description = root_.Describe(key);
  if (!description.ok()) return done(description.status());
  done(Present(key, description->get(), /*tensors=*/false));
}

// --- The end

void ModelRegistry::StopAdmitting() {
  std::lock_guard<std::mutex> lock(mutex_);
  draining_ = true;
  if (!listener_) return;
  for (const auto& [name, slot] : slots_) {
    if (slot.state == v1::MODEL_STATE_LOADED) listener_(name, false);
  }
}

void ModelRegistry::EndRequests() {
  for (const Lease& model : Versions()) model->engine->Drain(absl::Now());
}

}  // namespace quantloom
