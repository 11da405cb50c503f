#include "services/server/model_registry.h"

#include <sys/stat.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/file.h"
#include "core/base/status.h"
#include "core/text/chat_template.h"
#include "services/common/logging.h"
#include "services/common/proto_time.h"
#include "services/common/rpc_status.h"
#include "services/server/model_message.h"

namespace quantloom {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxTokenizerConfigBytes = 64 << 20;

// Changes whenever the manifest is replaced; empty when there is none.
std::string ManifestStamp(const fs::path& directory) {
  struct stat info = {};
  if (::stat((directory / kManifestFile).c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return "";
  return absl::StrCat(info.st_dev, ":", info.st_ino, ":", info.st_size, ":", info.st_mtim.tv_sec,
                      ".", info.st_mtim.tv_nsec);
}

bool HasChatTemplate(const fs::path& directory) {
  const auto text = ReadFile(directory / "tokenizer_config.json", kMaxTokenizerConfigBytes);
  return text.ok() && ChatTemplate::FromTokenizerConfig(*text).ok();
}

// One decode step, so that the first request finds weights in memory and kernels chosen.
absl::Status WarmUp(GenerationEngine& engine) {
  const int32_t token = engine.model().config().bos_token_id.value_or(0);
  return engine.Score({token, token}, {}).status();
}

}  // namespace

ModelRegistry::ModelRegistry(Options options, ThreadTeam& team)
    : options_(std::move(options)), team_(team) {}

ModelRegistry::~ModelRegistry() {
  StopAdmitting();
  EndRequests();
  std::vector<std::shared_ptr<ServedModel>> released;
  std::unique_lock<std::mutex> lock(mutex_);
  slot_settled_.wait(lock, [this] {
    return std::none_of(slots_.begin(), slots_.end(), [](const auto& slot) {
      return slot.second.state == v1::MODEL_STATE_LOADING;
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
  slot_settled_.wait(lock, [this] { return slots_.empty(); });
}

absl::StatusOr<fs::path> ModelRegistry::Directory(absl::string_view name,
                                                  absl::string_view field) const {
  if (const absl::Status status = CheckName(name); !status.ok()) return WithField(status, field);
  const absl::StatusOr<fs::path> directory = options_.root.Resolve(name);
  if (directory.ok() && !ManifestStamp(*directory).empty()) return *directory;
  if (directory.ok() || absl::IsNotFound(directory.status())) {
    return WithField(absl::NotFoundError(absl::StrCat("no model '", name, "'")), field);
  }
  return WithField(directory.status(), field);
}

absl::StatusOr<std::vector<std::string>> ModelRegistry::Names() const {
  std::error_code error;
  std::vector<std::string> names;
  fs::directory_iterator entry(options_.root.path(), error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    std::string name = entry->path().filename().string();
    if (Directory(name, "name").ok()) names.push_back(std::move(name));
  }
  if (error) {
    return absl::NotFoundError(
        absl::StrCat("model root '", options_.root.path().string(), "': ", error.message()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::shared_ptr<const ModelRegistry::Description>> ModelRegistry::Describe(
    const std::string& name) {
  QL_ASSIGN_OR_RETURN(const fs::path directory, Directory(name, "name"));
  const std::string stamp = ManifestStamp(directory);
  {
    std::lock_guard<std::mutex> lock(descriptions_mutex_);
    const auto found = descriptions_.find(name);
    if (found != descriptions_.end() && found->second->stamp == stamp) return found->second;
  }
  auto description = std::make_shared<Description>();
  description->stamp = stamp;
  const auto packed = PackedModel::Open(directory, Verify::kHeader);
  if (packed.ok()) {
    description->config = (*packed)->config();
    description->message =
        DescribeModel(name, (*packed)->config(), (*packed)->manifest(), HasChatTemplate(directory));
    description->weight_bytes = ResidentWeightBytes((*packed)->manifest());
  } else {
    description->problem = packed.status();
    description->message.set_name(name);
    description->message.set_problem(std::string(packed.status().message()));
  }
  std::lock_guard<std::mutex> lock(descriptions_mutex_);
  descriptions_[name] = description;
  return description;
}

v1::Model ModelRegistry::WithState(const Description& description, bool tensors) {
  v1::Model message = description.message;
  if (!tensors) message.clear_tensors();
  message.set_state(v1::MODEL_STATE_AVAILABLE);
  std::lock_guard<std::mutex> lock(mutex_);
  const auto slot = slots_.find(message.name());
  if (slot == slots_.end()) return message;
  message.set_state(slot->second.state);
  if (slot->second.model != nullptr) {
    *message.mutable_load_time() = ToProto(slot->second.model->load_time);
  }
  return message;
}

absl::StatusOr<std::vector<v1::Model>> ModelRegistry::List() {
  QL_ASSIGN_OR_RETURN(const std::vector<std::string> names, Names());
  std::vector<v1::Model> models;
  models.reserve(names.size());
  for (const std::string& name : names) {
    const auto description = Describe(name);
    if (description.ok()) models.push_back(WithState(**description, /*tensors=*/false));
  }
  return models;
}

absl::StatusOr<v1::Model> ModelRegistry::Find(absl::string_view name) {
  QL_ASSIGN_OR_RETURN(const auto description, Describe(std::string(name)));
  QL_RETURN_IF_ERROR(description->problem);
  return WithState(*description, /*tensors=*/true);
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
  QL_RETURN_IF_ERROR(Directory(name, "model").status());
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

void ModelRegistry::Load(absl::string_view name, DoneCallback done) {
  const std::string key(name);
  const auto description = Describe(key);
  if (!description.ok()) return done(description.status());
  std::unique_lock<std::mutex> lock(mutex_);
  if (draining_) {
    lock.unlock();
    return done(absl::UnavailableError("the server is draining"));
  }
  const auto [slot, inserted] = slots_.try_emplace(key);
  if (slot->second.state == v1::MODEL_STATE_LOADING) {
    slot->second.waiting.push_back(std::move(done));
    if (inserted) worker_.TryRun([this, key] { RunLoad(key); });
    return;
  }
  const bool loaded = slot->second.state == v1::MODEL_STATE_LOADED;
  lock.unlock();
  if (loaded) return done(WithState(**description, /*tensors=*/false));
  done(absl::FailedPreconditionError(absl::StrCat("model '", name, "' is being unloaded")));
}

void ModelRegistry::RunLoad(const std::string& name) {
  auto model = LoadNow(name);
  if (!model.ok()) {
    const absl::Status status = Annotate(model.status(), absl::StrCat("model '", name, "'"));
    LogWarning("model not loaded", {{"model", name}, {"error", status.ToString()}});
    return Settle(name, status, /*keep=*/false);
  }
  LogInfo("model loaded", {{"model", name},
                           {"recipe", (*model)->description.recipe()},
                           {"bits_per_weight", (*model)->description.bits_per_weight()}});
  v1::Model message = (*model)->description;
  message.set_state(v1::MODEL_STATE_LOADED);
  *message.mutable_load_time() = ToProto((*model)->load_time);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Slot& slot = slots_.find(name)->second;
    slot.state = v1::MODEL_STATE_LOADED;
    slot.leased = *model;
    slot.model = *std::move(model);
  }
  Settle(name, message, /*keep=*/true);
}

absl::StatusOr<std::shared_ptr<ServedModel>> ModelRegistry::LoadNow(const std::string& name) {
  QL_ASSIGN_OR_RETURN(const auto description, Describe(name));
  QL_RETURN_IF_ERROR(description->problem);
  QL_RETURN_IF_ERROR(
      Reserve(name, description->weight_bytes +
                        GenerationEngine::KvCacheBytes(description->config, options_.engine)));
  QL_ASSIGN_OR_RETURN(const fs::path directory, Directory(name, "name"));
  auto model = std::make_unique<ServedModel>();
  model->name = name;
  model->description = description->message;
  model->description.clear_tensors();
  QL_ASSIGN_OR_RETURN(model->loaded, LoadedModel::LoadPacked(directory, options_.verify, team_));
  QL_ASSIGN_OR_RETURN(model->engine, GenerationEngine::Create(model->loaded, options_.engine));
  QL_RETURN_IF_ERROR(WarmUp(*model->engine));
  model->load_time = absl::Now();
  return Share(std::move(model));
}

absl::Status ModelRegistry::Reserve(const std::string& name, uint64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (draining_) return absl::UnavailableError("the server is draining");
  if (options_.memory_limit != 0) {
    uint64_t used = 0;
    for (const auto& [unused, slot] : slots_) used += slot.memory;
    const uint64_t available = options_.memory_limit - std::min(options_.memory_limit, used);
    if (bytes > available) {
      return absl::ResourceExhaustedError(
          absl::StrCat("needs ", bytes, " bytes for weights and KV cache, and ", available,
                       " of the limit of ", options_.memory_limit, " are available"));
    }
  }
  slots_.find(name)->second.memory = bytes;
  return absl::OkStatus();
}

std::shared_ptr<ServedModel> ModelRegistry::Share(std::unique_ptr<ServedModel> model) {
  // The last lease may be dropped on the engine's own thread, which cannot join itself: the model
  // is destroyed on the registry's.
  return std::shared_ptr<ServedModel>(model.release(), [this](ServedModel* last) {
    auto retired = std::make_shared<std::unique_ptr<ServedModel>>(last);
    worker_.TryRun([this, retired] { Retire(std::move(*retired)); });
  });
}

void ModelRegistry::Retire(std::unique_ptr<ServedModel> model) {
  v1::Model message = model->description;
  message.set_state(v1::MODEL_STATE_AVAILABLE);
  model.reset();
  LogInfo("model unloaded", {{"model", message.name()}});
  Settle(message.name(), message, /*keep=*/false);
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
    slot_settled_.notify_all();
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
      if (slot->second.state == v1::MODEL_STATE_LOADING) {
        refused = absl::FailedPreconditionError(absl::StrCat("model '", name, "' is being loaded"));
      } else {
        slot->second.state = v1::MODEL_STATE_UNLOADING;
        slot->second.waiting.push_back(std::move(done));
        released = std::move(slot->second.model);
        return;  // the lease is dropped after the lock
      }
    }
  }
  if (!refused.ok()) return done(refused);
  const auto description = Describe(std::string(name));
  if (!description.ok()) return done(description.status());
  done(WithState(**description, /*tensors=*/false));
}

void ModelRegistry::StopAdmitting() {
  std::lock_guard<std::mutex> lock(mutex_);
  draining_ = true;
}

void ModelRegistry::EndRequests() {
  std::vector<Lease> models;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [unused, slot] : slots_) {
      if (Lease model = slot.leased.lock()) models.push_back(std::move(model));
    }
  }
  for (const Lease& model : models) model->engine->Drain(absl::Now());
}

}  // namespace quantloom
