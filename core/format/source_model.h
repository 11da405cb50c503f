// A full-precision (or mildly quantized) model to read from: a Hugging Face directory (config.json,
// *.safetensors, tokenizer files) or one GGUF file. Tensors are named and laid out as Hugging Face
// does whatever the source: GGUF's names are mapped and llama.cpp's interleaved rotary order of q
// and k rows is undone.
//
// Thread-safety: immutable after Open; const methods may be called from several threads.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/dtype.h"
#include "core/format/model_config.h"

namespace quantloom {

class SourceModel {
 public:
  // Opens and validates: every tensor that ModelTensors(config) names is present with its shape.
  // NOT_FOUND for a missing path; INVALID_ARGUMENT naming the file, tensor or field for anything
  // malformed.
  static absl::StatusOr<std::unique_ptr<SourceModel>> Open(const std::filesystem::path& path);
  virtual ~SourceModel() = default;

  const ModelConfig& config() const { return config_; }

  // Files the packed model carries over beside config.json, name -> contents: tokenizer.json,
  // tokenizer_config.json (with chat_template), generation_config.json, special_tokens_map.json as
  // far as they exist. For GGUF they are made from its metadata (text/gguf_tokenizer.h).
  const std::map<std::string, std::string>& tokenizer_files() const { return tokenizer_files_; }

  // SHA-256 (hex) over the source's files in name order; computed on first use, reading everything.
  virtual absl::StatusOr<std::string> Digest() const = 0;

  // The element type a norm or bias is stored with (F32, F16 or BF16; quantized GGUF types report
  // F32).
  virtual absl::StatusOr<DType> StoredType(absl::string_view name) const = 0;

  // The tensor's values as floats, row-major. NOT_FOUND for an unknown name.
  virtual absl::StatusOr<std::vector<float>> ReadFloats(absl::string_view name) const = 0;

 protected:
  ModelConfig config_;
  std::map<std::string, std::string> tokenizer_files_;
};

}  // namespace quantloom
