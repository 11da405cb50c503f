#include "engine/loaded_model.h"

#include <map>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/float16.h"
#include "core/base/status.h"
#include "engine/cpu_backend.h"
#include "engine/model.h"
#include "engine/source_weights.h"

namespace quantloom {
namespace {

constexpr char kTokenizerFile[] = "tokenizer.json";
constexpr char kTokenizerConfigFile[] = "tokenizer_config.json";
constexpr uint64_t kMaxTokenizerBytes = uint64_t{256} << 20;

absl::Status CheckShape(absl::string_view name, absl::Span<const uint64_t> shape,
                        absl::Span<const uint64_t> expected) {
  if (shape == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tensor '", name, "': shape does not fit the model"));
}

// Little-endian elements of `plane` as floats.
absl::StatusOr<std::vector<float>> ToFloats(const PlaneView& plane) {
  const size_t size = DTypeSize(plane.dtype);
  std::vector<float> values(plane.bytes.size() / size);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint8_t* bytes = plane.bytes.data() + i * size;
    const uint32_t low = bytes[0] | static_cast<uint32_t>(bytes[1]) << 8;
    switch (plane.dtype) {
      case DType::kF16:
        values[i] = HalfToFloat(static_cast<uint16_t>(low));
        break;
      case DType::kBF16:
        values[i] = BFloat16ToFloat(static_cast<uint16_t>(low));
        break;
      case DType::kF32:
        values[i] = std::bit_cast<float>(low | static_cast<uint32_t>(bytes[2]) << 16 |
                                         static_cast<uint32_t>(bytes[3]) << 24);
        break;
      default:
        return absl::InvalidArgumentError(
            absl::StrCat("element type ", DTypeName(plane.dtype), " is not a float type"));
    }
  }
  return values;
}

class PackedWeights final : public WeightSource {
 public:
  PackedWeights(const PackedModel& packed, Backend& backend) : packed_(packed), backend_(backend) {}

  // Makes the layers' matrices on all threads of `team`, for Matrix to hand out: making one may
  // rearrange every weight. For backends whose matrices may be made from several threads.
  void MakeLayers(ThreadTeam& team) {
    std::vector<const PackedTensorInfo*> tensors;
    for (const PackedTensorInfo& info : packed_.manifest().tensors) {
      if (info.recipe == kRawRecipe || info.shape.size() != 2) continue;
      if (absl::StartsWith(info.name, "model.layers.")) tensors.push_back(&info);
    }
    std::vector<absl::StatusOr<std::unique_ptr<DeviceMatrix>>> matrices(tensors.size());
    team.ParallelFor(tensors.size(), /*grain=*/1, [&](size_t begin, size_t end, int) {
      for (size_t i = begin; i < end; ++i) {
        const PackedTensorInfo& info = *tensors[i];
        matrices[i] = Load(info.name, info.shape[0], info.shape[1], UseOf(info.name));
      }
    });
    for (size_t i = 0; i < tensors.size(); ++i) made_[tensors[i]->name] = std::move(matrices[i]);
  }

  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Matrix(const std::string& name, uint64_t rows,
                                                       uint64_t cols) override {
    const auto made = made_.find(name);
    if (made == made_.end()) return Load(name, rows, cols, UseOf(name));
    const absl::Status fits = CheckShape(name, packed_.FindTensor(name)->shape, {rows, cols});
    if (!fits.ok()) return Annotate(fits, absl::StrCat("tensor '", name, "'"));
    return std::move(made_.extract(made).mapped());
  }
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Table(const std::string& name, uint64_t rows,
                                                      uint64_t cols) override {
    return Load(name, rows, cols, MatrixUse::kRows);
  }

  absl::StatusOr<std::unique_ptr<DeviceVector>> Vector(const std::string& name,
                                                       uint64_t size) override {
    QL_ASSIGN_OR_RETURN(PlaneView plane, packed_.OpenRaw(name));
    QL_RETURN_IF_ERROR(CheckShape(name, plane.shape, {size}));
    auto values = ToFloats(plane);
    if (!values.ok()) return Annotate(values.status(), absl::StrCat("tensor '", name, "'"));
    return backend_.Vector(*values);
  }

 private:
  static MatrixUse UseOf(const std::string& name) {
    const bool keys_values =
        absl::StrContains(name, ".k_proj.") || absl::StrContains(name, ".v_proj.");
    return keys_values ? MatrixUse::kKeysValues : MatrixUse::kProducts;
  }
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Load(const std::string& name, uint64_t rows,
                                                     uint64_t cols, MatrixUse use) {
    auto matrix = Open(name, rows, cols, use);
    if (!matrix.ok()) return Annotate(matrix.status(), absl::StrCat("tensor '", name, "'"));
    packed_.ReleasePages(name);
    return matrix;
  }
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Open(const std::string& name, uint64_t rows,
                                                     uint64_t cols, MatrixUse use) {
    const PackedTensorInfo* info = packed_.FindTensor(name);
    if (info == nullptr) return absl::InvalidArgumentError("missing");
    QL_RETURN_IF_ERROR(CheckShape(name, info->shape, {rows, cols}));
    if (info->recipe == kRawRecipe) {
      QL_ASSIGN_OR_RETURN(PlaneView plane, packed_.OpenRaw(name));
      return backend_.MatrixFromDense(rows, cols, plane.dtype, plane.bytes);
    }
    QL_ASSIGN_OR_RETURN(auto matrix, packed_.OpenMatrix(name));
    return backend_.MatrixFromPacked(std::move(matrix), use);
  }

  const PackedModel& packed_;
  Backend& backend_;
  std::map<std::string, absl::StatusOr<std::unique_ptr<DeviceMatrix>>> made_;
};

class LoadedModelImpl final : public LoadedModel {
 public:
  const ModelConfig& config() const override { return model_->config(); }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  const ChatTemplate* chat_template() const override { return chat_template_.get(); }
  const absl::Status& chat_template_status() const override { return chat_template_status_; }
  const Model& model() const override { return *model_; }
  const PackedManifest* manifest() const override {
    return packed_ ? &packed_->manifest() : nullptr;
  }
  uint64_t weight_bytes() const override {
    return model_->layer_weight_bytes() + model_->head_weight_bytes();
  }

  std::vector<int32_t> EncodePrompt(absl::string_view text, bool parse_special) const override {
    std::vector<int32_t> ids = tokenizer_->Encode(text, parse_special);
    const std::optional<int32_t> bos = tokenizer_->bos_to_add();
    const bool has_bos = parse_special && !ids.empty() && bos && ids.front() == *bos;
    if (bos && !has_bos) ids.insert(ids.begin(), *bos);
    return ids;
  }

  absl::Status Load(const ModelConfig& config, WeightSource& weights,
                    const std::map<std::string, std::string>& files) {
    const auto tokenizer = files.find(kTokenizerFile);
    if (tokenizer == files.end()) {
      return absl::InvalidArgumentError(absl::StrCat("the model has no ", kTokenizerFile));
    }
    auto parsed = Tokenizer::FromJson(tokenizer->second);
    if (!parsed.ok()) return Annotate(parsed.status(), kTokenizerFile);
    tokenizer_ = *std::move(parsed);
    if (static_cast<uint64_t>(tokenizer_->vocab_size()) > config.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(kTokenizerFile, ": ", tokenizer_->vocab_size(),
                                                     " tokens, but vocab_size is ",
                                                     config.vocab_size));
    }
    const auto tokenizer_config = files.find(kTokenizerConfigFile);
    chat_template_status_ = absl::NotFoundError("the model has no chat template");
    if (tokenizer_config != files.end()) {
      auto chat = ChatTemplate::FromTokenizerConfig(tokenizer_config->second);
      chat_template_status_ = Annotate(chat.status(), kTokenizerConfigFile);
      if (chat.ok()) chat_template_ = *std::move(chat);
    }
    QL_ASSIGN_OR_RETURN(model_, Model::Create(config, weights, *backend_));
    return backend_->status();
  }

  std::shared_ptr<const PackedModel> packed_;  // its mapping is read by the model's operators
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatTemplate> chat_template_;
  absl::Status chat_template_status_;
  std::unique_ptr<Model> model_;
};

absl::StatusOr<std::map<std::string, std::string>> ReadTokenizerFiles(
    const std::filesystem::path& directory) {
  std::map<std::string, std::string> files;
  for (const char* name : {kTokenizerFile, kTokenizerConfigFile}) {
    auto contents = ReadFile(directory / name, kMaxTokenizerBytes);
    if (absl::IsNotFound(contents.status())) continue;
    if (!contents.ok()) return contents.status();
    files[name] = *std::move(contents);
  }
  return files;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadedModel::LoadPacked(
    const std::filesystem::path& directory, Verify verify, ThreadTeam& team) {
  QL_ASSIGN_OR_RETURN(const std::unique_ptr<Device> cpu, OpenCpu());
  return LoadPacked(directory, verify, *cpu, team);
}

absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadedModel::LoadPacked(
    const std::filesystem::path& directory, Verify verify, const Device& device, ThreadTeam& team) {
  auto loaded = std::make_shared<LoadedModelImpl>();
  QL_ASSIGN_OR_RETURN(loaded->backend_, device.CreateBackend(team));
  QL_ASSIGN_OR_RETURN(loaded->packed_, PackedModel::Open(directory, verify));
  QL_ASSIGN_OR_RETURN(auto files, ReadTokenizerFiles(directory));
  PackedWeights weights(*loaded->packed_, *loaded->backend_);
  const bool on_host = device.memory_bytes() == 0;
  if (on_host) weights.MakeLayers(team);
  QL_RETURN_IF_ERROR(
      Annotate(loaded->Load(loaded->packed_->config(), weights, files), directory.string()));
  return loaded;
}

absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadedModel::LoadSource(
    const SourceModel& source, ThreadTeam& team) {
  auto loaded = std::make_shared<LoadedModelImpl>();
  QL_ASSIGN_OR_RETURN(loaded->backend_, CreateCpuBackend(team));
  SourceWeights weights(source, *loaded->backend_);
  QL_RETURN_IF_ERROR(loaded->Load(source.config(), weights, source.tokenizer_files()));
  return loaded;
}

absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadedModel::LoadSource(
    const std::filesystem::path& path, ThreadTeam& team) {
  QL_ASSIGN_OR_RETURN(const auto source, SourceModel::Open(path));
  auto loaded = LoadSource(*source, team);
  if (!loaded.ok()) return Annotate(loaded.status(), path.string());
  return loaded;
}

}  // namespace quantloom
