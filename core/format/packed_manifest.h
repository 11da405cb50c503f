// The manifest of a packed model (quantloom.json) and the layout rules that its reader and writer
// share. docs/packed-format.md is the specification.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/dtype.h"
#include "core/codec/codec.h"
#include "core/codec/plane_set.h"

namespace quantloom {

inline constexpr int kPackedFormatVersion =
    1;  // unstable until CPU and CUDA kernels have both landed
inline constexpr char kManifestFile[] = "quantloom.json";
inline constexpr char kRawRecipe[] = "raw";

// One stored array.
struct PackedPlaneInfo {
  std::string name;  // without the tensor's; empty for the one plane of a raw tensor
  DType dtype;
  std::vector<uint64_t> shape;
  uint64_t bytes = 0;  // without padding
  std::string sha256;  // of those bytes
};

// What the manifest says of one tensor.
struct PackedTensorInfo {
  std::string name;  // Hugging Face name
  std::vector<uint64_t> shape;
  std::string recipe;  // resolved codec recipe, or "raw" for a tensor stored as it is
  std::vector<PackedPlaneInfo> planes;
  double bits_per_weight = 0;  // everything stored, padding included
  BitBreakdown bits;
  double relative_error = 0;  // as in EncodedMatrix
  // The GPU that calibration text passed through for this tensor, so that its bytes are not what
  // the CPU would have made; empty where they are.
  std::string calibration_device;

  uint64_t weights() const;       // product of the shape
  uint64_t stored_bytes() const;  // of all planes, padding included
};

// A file beside the shards.
struct PackedFileInfo {
  uint64_t bytes = 0;
  std::string sha256;
};

// The whole manifest.
struct PackedManifest {
  std::string recipe;  // the job's recipe text, canonical
  std::string source_sha256;
  std::string calibration_sha256;  // empty when no calibration was used
  uint64_t seed = 0;
  double linear_bits_per_weight = 0;            // linear layers of the decoder, everything stored
  double bits_per_weight = 0;                   // all tensors
  uint64_t packed_bytes = 0;                    // bytes of all tensors, padding included
  std::map<std::string, PackedFileInfo> files;  // config.json, tokenizer files, shard index
  std::vector<PackedTensorInfo> tensors;        // in forward order
};

// The manifest's text; the same manifest gives the same bytes.
std::string ManifestToText(const PackedManifest& manifest);

// INVALID_ARGUMENT for what is no manifest or has an unsupported version, DATA_LOSS naming the
// tensor or field for one that is corrupt. Every size, shape, name and digest is well-formed
// afterwards; that files and tensors are as it says is PackedModel's to check.
absl::StatusOr<PackedManifest> ParseManifest(absl::string_view text);

// A JSON object's text with the member `sha256` appended, which covers every byte before it: how
// ManifestToText ends. Precondition: `object` ends with "\n}".
std::string SealManifest(absl::string_view object);

// One tensor's entry as JSON text, as the manifest has it.
std::string TensorInfoToText(const PackedTensorInfo& info);
absl::StatusOr<PackedTensorInfo> ParseTensorInfo(absl::string_view text);

// Zero bytes that follow a plane of `bytes` bytes, so that the next begins at a multiple of
// kPlaneAlignment in its file.
constexpr uint64_t PlanePadding(uint64_t bytes) { return PaddedPlaneBytes(bytes) - bytes; }

// The safetensors names of a plane and of the padding that follows it.
std::string StoredPlaneName(absl::string_view tensor, absl::string_view plane);
std::string PaddingName(absl::string_view stored_plane_name);

// A name without directories, usable for a file of its own.
bool IsPlainFileName(absl::string_view name);

}  // namespace quantloom
