// The packed model directory: config.json, tokenizer files, model-NNNNN-of-NNNNN.safetensors with
// model.safetensors.index.json, and the manifest quantloom.json. docs/packed-format.md is the
// specification.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/codec/codec.h"
#include "core/format/model_config.h"
#include "core/format/packed_manifest.h"

namespace quantloom {

// Writes a packed model, tensor by tensor, into a staging directory, and can resume there after a
// crash.
//
//   QL_ASSIGN_OR_RETURN(auto writer, PackedModelWriter::Open(staging, {}));
//   if (writer->FindTensor(name) == nullptr) QL_RETURN_IF_ERROR(writer->AddEncoded(name, ...));
//   QL_ASSIGN_OR_RETURN(manifest, writer->Finish(config, tokenizer_files, manifest));
//
// Each tensor is durable, in a file of its own, before AddEncoded or AddRaw returns; Finish
// assembles the shards, so the directory's final bytes do not depend on how often the job was
// interrupted. After a Finish, Open finds the finished tensors again, and Finish gives the same
// manifest. The caller publishes the finished directory by renaming it.
//
// Errors: RESOURCE_EXHAUSTED for a full disk (what was durable stays so), INVALID_ARGUMENT naming
// the tensor for values or planes that are wrong, FAILED_PRECONDITION for calls out of order.
// Thread-safety: none; one writer per staging directory.
class PackedModelWriter {
 public:
  struct Options {
    uint64_t max_shard_bytes = uint64_t{4} << 30;
  };
  // Creates `staging` when missing. Tensors found there are read and compared with their digests;
  // what does not match is deleted.
  static absl::StatusOr<std::unique_ptr<PackedModelWriter>> Open(
      const std::filesystem::path& staging, const Options& options);
  virtual ~PackedModelWriter() = default;

  // The record of a tensor that is already durable in the staging directory, if there is one.
  virtual const PackedTensorInfo* FindTensor(absl::string_view name) const = 0;

  // The matrix of a tensor that was added encoded; views what is stored, which this object owns.
  // NOT_FOUND, or INVALID_ARGUMENT for a raw tensor.
  virtual absl::StatusOr<std::unique_ptr<PackedMatrix>> OpenMatrix(
      absl::string_view name) const = 0;

  // The manifest of a directory that an earlier run finished, every byte of it verified; null while
  // there is work to do.
  virtual const PackedManifest* finished() const = 0;

  // Stores an encoded matrix (resolved recipe, planes) durably. `calibration_device` as in
  // PackedTensorInfo.
  virtual absl::Status AddEncoded(absl::string_view name, uint64_t rows, uint64_t cols,
                                  const EncodedMatrix& encoded,
                                  absl::string_view calibration_device) = 0;
  // Stores a tensor as it is, `values` rounded to `dtype` (F32, F16, BF16). INVALID_ARGUMENT for
  // NaN, infinities, and values that would round to one.
  virtual absl::Status AddRaw(absl::string_view name, absl::Span<const uint64_t> shape, DType dtype,
                              absl::Span<const float> values) = 0;

  // Writes shards, index, config.json (with quantization_config), tokenizer files and manifest,
  // fsyncs, removes the per-tensor files. `manifest`'s tensors, files, sizes and averages are
  // filled in here. FAILED_PRECONDITION naming the tensor unless exactly ModelTensors(config) were
  // added. Returns the manifest.
  virtual absl::StatusOr<PackedManifest> Finish(
      const ModelConfig& config, const std::map<std::string, std::string>& tokenizer_files,
      PackedManifest manifest) = 0;
};

// How much of a packed model's bytes are compared with the manifest's SHA-256 at Open.
enum class Verify { kHeader, kFull };

// A packed model, memory-mapped and validated. Immutable; const methods may be called from several
// threads.
class PackedModel {
 public:
  // NOT_FOUND for no such directory, INVALID_ARGUMENT for what is not a packed model or has an
  // unsupported version or architecture, DATA_LOSS naming file and tensor for what is truncated,
  // corrupt or contradicts the manifest.
  static absl::StatusOr<std::shared_ptr<const PackedModel>> Open(
      const std::filesystem::path& directory, Verify verify);
  virtual ~PackedModel() = default;

  const std::filesystem::path& directory() const { return directory_; }
  const ModelConfig& config() const { return config_; }
  const PackedManifest& manifest() const { return manifest_; }

  // A codec's matrix; views the mapping, which this object owns. NOT_FOUND, or INVALID_ARGUMENT for
  // a raw tensor.
  virtual absl::StatusOr<std::unique_ptr<PackedMatrix>> OpenMatrix(
      absl::string_view name) const = 0;
  // A raw tensor's bytes with its type and shape.
  virtual absl::StatusOr<PlaneView> OpenRaw(absl::string_view name) const = 0;
  // Any tensor's info.
  virtual const PackedTensorInfo* FindTensor(absl::string_view name) const = 0;
  // Drops the resident pages of a tensor's planes (after a kernel repacked them); they stay
  // readable.
  virtual void ReleasePages(absl::string_view name) const = 0;

 protected:
  std::filesystem::path directory_;
  ModelConfig config_;
  PackedManifest manifest_;
};

}  // namespace quantloom
