#include "core/format/source_model.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/quoted.h"
#include "core/base/sha256.h"
#include "core/base/status.h"
#include "core/format/gguf.h"
#include "core/format/gguf_llama.h"
#include "core/format/safetensors.h"
#include "core/text/gguf_tokenizer.h"

namespace quantloom {
namespace {

using nlohmann::json;

constexpr char kConfigFile[] = "config.json";
constexpr char kTokenizerConfigFile[] = "tokenizer_config.json";
constexpr char kGenerationConfigFile[] = "generation_config.json";
constexpr char kChatTemplateFile[] = "chat_template.jinja";
constexpr absl::string_view kTokenizerFiles[] = {"tokenizer.json", kTokenizerConfigFile,
                                                 kGenerationConfigFile, "special_tokens_map.json"};
constexpr uint64_t kMaxTextFileBytes = uint64_t{256} << 20;

// A value computed on first use, by whichever thread comes first.
class LazyDigest {
 public:
  template <typename Compute>
  absl::StatusOr<std::string> Get(Compute compute) const {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!digest_.has_value()) {
      absl::StatusOr<std::string> computed = compute();
      if (!computed.ok()) return computed;
      digest_ = *std::move(computed);
    }
    return *digest_;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::optional<std::string> digest_;
};

absl::Status CheckShape(const TensorSpec& spec, absl::Span<const uint64_t> shape) {
  if (shape == absl::MakeConstSpan(spec.shape)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tensor '", spec.name, "' has shape [", absl::StrJoin(shape, ", "),
                   "]; the configuration gives [", absl::StrJoin(spec.shape, ", "), "]"));
}

absl::Status MissingTensor(absl::string_view name) {
  return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' is missing"));
}

absl::Status UnknownTensor(absl::string_view name, absl::string_view architecture) {
  return absl::InvalidArgumentError(
      absl::StrCat("tensor ", Quoted(name), " is not one that ", architecture, " has"));
}

// A Hugging Face directory.
class HfSourceModel final : public SourceModel {
 public:
  static absl::StatusOr<std::unique_ptr<SourceModel>> Open(const std::filesystem::path& directory) {
    QL_ASSIGN_OR_RETURN(const std::string text,
                        ReadFile(directory / kConfigFile, kMaxTextFileBytes));
    absl::StatusOr<ModelConfig> config = ModelConfig::FromHfJson(text);
    if (config.ok()) {
      QL_RETURN_IF_ERROR(Annotate(RejectQuantized(text), kConfigFile));
    } else {
      return Annotate(config.status(), absl::StrCat("'", (directory / kConfigFile).string(), "'"));
    }
    QL_ASSIGN_OR_RETURN(SafetensorsDirectory tensors, SafetensorsDirectory::Open(directory));
    std::unique_ptr<HfSourceModel> model(
        new HfSourceModel(directory, *std::move(config), std::move(tensors)));
    QL_RETURN_IF_ERROR(Annotate(model->CheckTensors(), absl::StrCat("'", directory.string(), "'")));
    QL_RETURN_IF_ERROR(model->ReadTokenizerFiles());
    return model;
  }

  absl::StatusOr<std::string> Digest() const override {
    return digest_.Get([this] { return ComputeDigest(); });
  }

  absl::StatusOr<DType> StoredType(absl::string_view name) const override {
    QL_ASSIGN_OR_RETURN(const SafetensorsTensor* tensor, Find(name));
    return tensor->dtype;
  }

  absl::StatusOr<std::vector<float>> ReadFloats(absl::string_view name) const override {
    QL_ASSIGN_OR_RETURN(const SafetensorsTensor* tensor, Find(name));
    return FloatsFromBytes(tensor->dtype, tensor->bytes);
  }

 private:
  HfSourceModel(std::filesystem::path directory, ModelConfig config, SafetensorsDirectory tensors)
      : directory_(std::move(directory)), tensors_(std::move(tensors)) {
    config_ = std::move(config);
  }

  static absl::Status RejectQuantized(absl::string_view config_text) {
    QL_ASSIGN_OR_RETURN(const json root, ParseJsonObject(config_text));
    const json* quantization = FindJson(root, "quantization_config");
    if (quantization == nullptr || quantization->is_null()) return absl::OkStatus();
    QL_ASSIGN_OR_RETURN(const std::string method,
                        JsonFieldOr<std::string>(*quantization, "quant_method", "unknown"));
    return absl::InvalidArgumentError(
        absl::StrCat("field 'quantization_config': the source is already quantized, with method ",
                     Quoted(method)));
  }

  absl::StatusOr<const SafetensorsTensor*> Find(absl::string_view name) const {
    const SafetensorsTensor* tensor = tensors_.Find(name);
    if (tensor == nullptr) return absl::NotFoundError(absl::StrCat("no tensor '", name, "'"));
    return tensor;
  }

  absl::Status CheckTensors() const {
    std::set<std::string> known;
    for (const TensorSpec& spec : ModelTensors(config_)) {
      const SafetensorsTensor* tensor = tensors_.Find(spec.name);
      if (tensor == nullptr) return MissingTensor(spec.name);
      QL_RETURN_IF_ERROR(CheckShape(spec, tensor->shape));
      if (tensor->dtype != DType::kF32 && tensor->dtype != DType::kF16 &&
          tensor->dtype != DType::kBF16) {
        return absl::InvalidArgumentError(absl::StrCat("tensor '", spec.name, "' has dtype ",
                                                       DTypeName(tensor->dtype),
                                                       ", none of F32, F16 and BF16"));
      }
      known.insert(spec.name);
    }
    for (const std::string& name : tensors_.names()) {
      if (known.contains(name) || IsRedundant(name)) continue;
      return UnknownTensor(name, config_.architecture);
    }
    return absl::OkStatus();
  }

  // Buffers that older checkpoints carry, and the head's copy of a tied embedding.
  bool IsRedundant(absl::string_view name) const {
    return absl::EndsWith(name, ".rotary_emb.inv_freq") ||
           (config_.tie_word_embeddings && name == "lm_head.weight");
  }

  absl::Status ReadTokenizerFiles() {
    for (absl::string_view name : kTokenizerFiles) {
      absl::StatusOr<std::string> text =
          ReadFile(directory_ / std::string(name), kMaxTextFileBytes);
      if (absl::IsNotFound(text.status())) continue;
      QL_RETURN_IF_ERROR(text.status());
      tokenizer_files_[std::string(name)] = *std::move(text);
    }
    QL_RETURN_IF_ERROR(AddChatTemplateFile());
    return Annotate(AddGenerationEos(), kGenerationConfigFile);
  }

  // Newer checkpoints keep the template in a file of its own; it goes where the others have it.
  absl::Status AddChatTemplateFile() {
    absl::StatusOr<std::string> text = ReadFile(directory_ / kChatTemplateFile, kMaxTextFileBytes);
    if (absl::IsNotFound(text.status())) return absl::OkStatus();
    QL_RETURN_IF_ERROR(text.status());
    json root = json::object();
    if (const auto it = tokenizer_files_.find(kTokenizerConfigFile); it != tokenizer_files_.end()) {
      absl::StatusOr<json> parsed = ParseJsonObject(it->second);
      if (!parsed.ok()) return Annotate(parsed.status(), kTokenizerConfigFile);
      root = *std::move(parsed);
    }
    root["chat_template"] = *std::move(text);
    tokenizer_files_[kTokenizerConfigFile] = DumpJson(root, 2) + "\n";
    return absl::OkStatus();
  }

  // Generation stops at generation_config.json's tokens too; chat models list the end of a turn
  // only there.
  absl::Status AddGenerationEos() {
    const auto it = tokenizer_files_.find(kGenerationConfigFile);
    if (it == tokenizer_files_.end()) return absl::OkStatus();
    QL_ASSIGN_OR_RETURN(const json root, ParseJsonObject(it->second));
    const json* value = FindJson(root, "eos_token_id");
    if (value == nullptr || value->is_null()) return absl::OkStatus();
    const json list = value->is_array() ? *value : json::array({*value});
    for (const json& element : list) {
      if (!element.is_number_unsigned() || element.get<uint64_t>() >= config_.vocab_size) {
        return absl::InvalidArgumentError("field 'eos_token_id' is not a token id");
      }
      const auto id = static_cast<int32_t>(element.get<uint64_t>());
      std::vector<int32_t>& ids = config_.eos_token_ids;
      if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
    }
    return absl::OkStatus();
  }

  bool Exists(const std::string& name) const {
    std::error_code error;
    return std::filesystem::exists(directory_ / name, error);
  }

  // SHA-256 of the lines that `sha256sum` prints for the files in name order.
  absl::StatusOr<std::string> ComputeDigest() const {
    std::set<std::string> names = {kConfigFile};
    for (const auto& [name, file] : tensors_.shards()) names.insert(name);
    for (const char* optional : {kSafetensorsIndexFile, kChatTemplateFile}) {
      if (Exists(optional)) names.insert(optional);
    }
    for (const auto& [name, text] : tokenizer_files_) {
      if (Exists(name)) names.insert(name);
    }
    std::string lines;
    for (const std::string& name : names) {
      QL_ASSIGN_OR_RETURN(const auto file, MappedFile::Open(directory_ / name));
      absl::StrAppend(&lines, Sha256::Of(file->bytes()), "  ", name, "\n");
    }
    return Sha256::Of({reinterpret_cast<const uint8_t*>(lines.data()), lines.size()});
  }

  std::filesystem::path directory_;
  SafetensorsDirectory tensors_;
  LazyDigest digest_;
};

// One GGUF file.
class GgufSourceModel final : public SourceModel {
 public:
  static absl::StatusOr<std::unique_ptr<SourceModel>> Open(const std::filesystem::path& path) {
    QL_ASSIGN_OR_RETURN(GgufFile file, GgufFile::Open(path));
    std::unique_ptr<GgufSourceModel> model(new GgufSourceModel(std::move(file)));
    const absl::Status status = model->Initialize();
    if (status.ok()) return model;
    // A key that is missing makes the file malformed; NOT_FOUND is for a missing file.
    const absl::Status malformed =
        absl::IsNotFound(status) ? absl::InvalidArgumentError(status.message()) : status;
    return Annotate(malformed, absl::StrCat("'", path.string(), "'"));
  }

  absl::StatusOr<std::string> Digest() const override {
    return digest_.Get(
        [this]() -> absl::StatusOr<std::string> { return Sha256::Of(file_.bytes()); });
  }

  absl::StatusOr<DType> StoredType(absl::string_view name) const override {
    QL_ASSIGN_OR_RETURN(const GgufTensor* tensor, Find(name));
    if (tensor->type.type == GgmlType::kF16) return DType::kF16;
    if (tensor->type.type == GgmlType::kBF16) return DType::kBF16;
    return DType::kF32;
  }

  absl::StatusOr<std::vector<float>> ReadFloats(absl::string_view name) const override {
    QL_ASSIGN_OR_RETURN(const GgufTensor* tensor, Find(name));
    QL_ASSIGN_OR_RETURN(std::vector<float> values, file_.ReadFloats(tensor->name));
    if (!HasInterleavedRotaryRows(file_, name)) return values;
    const uint64_t cols = tensor->shape.size() == 2 ? tensor->shape[1] : 1;
    return UndoInterleavedRotaryRows(values, config_.head_dim, cols);
  }

 private:
  explicit GgufSourceModel(GgufFile file) : file_(std::move(file)) {}

  absl::Status Initialize() {
    QL_ASSIGN_OR_RETURN(config_, ModelConfigFromGguf(file_));
    QL_ASSIGN_OR_RETURN(tokenizer_files_, TokenizerFilesFromGguf(file_));
    std::set<std::string> known = {kGgufRopeFactors};
    for (const TensorSpec& spec : ModelTensors(config_)) {
      const std::string name = GgufTensorName(spec.name).value_or("");
      const GgufTensor* tensor = file_.FindTensor(name);
      if (tensor == nullptr) return MissingTensor(name);
      QL_RETURN_IF_ERROR(CheckShape({name, spec.shape, spec.role}, tensor->shape));
      known.insert(name);
    }
    for (const GgufTensor& tensor : file_.tensors()) {
      if (!known.contains(tensor.name)) return UnknownTensor(tensor.name, config_.architecture);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<const GgufTensor*> Find(absl::string_view name) const {
    const std::optional<std::string> gguf_name = GgufTensorName(name);
    const GgufTensor* tensor = gguf_name.has_value() ? file_.FindTensor(*gguf_name) : nullptr;
    if (tensor == nullptr) return absl::NotFoundError(absl::StrCat("no tensor '", name, "'"));
    return tensor;
  }

  GgufFile file_;
  LazyDigest digest_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SourceModel>> SourceModel::Open(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return HfSourceModel::Open(path);
  return GgufSourceModel::Open(path);
}

}  // namespace quantloom
