// A model in memory, ready to run: weights as operators of a backend, tokenizer, chat template.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/base/parallel.h"
#include "core/format/packed_model.h"
#include "core/format/source_model.h"
#include "core/text/chat_template.h"
#include "core/text/tokenizer.h"
#include "engine/device.h"

namespace quantloom {

class Model;  // engine/model.h: the transformer graph over a backend

// Immutable and shared by every engine that runs it.
class LoadedModel {
 public:
  // Opens a packed directory, builds its operators. Errors are PackedModel::Open's and those of
  // Device::CreateBackend and the backend's, with INVALID_ARGUMENT for a tokenizer that does not
  // fit the model. `team` is the backend's.
  static absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadPacked(
      const std::filesystem::path& directory, Verify verify, const Device& device,
      ThreadTeam& team);
  // On the CPU. FAILED_PRECONDITION for one without the needed instructions.
  static absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadPacked(
      const std::filesystem::path& directory, Verify verify, ThreadTeam& team);
  // A source model in fp32 arithmetic on the CPU (calibration, reference). Nothing of `source` is
  // needed afterwards.
  static absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadSource(const SourceModel& source,
                                                                       ThreadTeam& team);
  static absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadSource(
      const std::filesystem::path& path, ThreadTeam& team);
  virtual ~LoadedModel() = default;

  virtual const ModelConfig& config() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  // Null when the model has none, or one that is not supported: chat_template_status() says which
  // (OK, NOT_FOUND, or the parser's error); such a model still generates from plain prompts.
  virtual const ChatTemplate* chat_template() const = 0;
  virtual const absl::Status& chat_template_status() const = 0;
  virtual const Model& model() const = 0;
  virtual const PackedManifest* manifest() const = 0;  // null for a source model
  virtual uint64_t weight_bytes() const = 0;           // bytes of weights one decode step reads
  // Text -> prompt ids as the model expects: BOS where its tokenizer adds one, special tokens
  // parsed when asked. A text that begins with BOS itself (chat templates write it) gets no second.
  virtual std::vector<int32_t> EncodePrompt(absl::string_view text, bool parse_special) const = 0;
};

}  // namespace quantloom
