// How llama.cpp stores the models of the Llama family in GGUF, undone: its metadata as a
// ModelConfig, its tensor names, and the order of q and k rows.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/format/gguf.h"
#include "core/format/model_config.h"

namespace quantloom {

// The configuration that `general.architecture` llama, qwen2 or qwen3 and its keys describe,
// validated. INVALID_ARGUMENT naming the key, tensor or architecture that is missing or
// unsupported.
absl::StatusOr<ModelConfig> ModelConfigFromGguf(const GgufFile& file);

// "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight"; nullopt for a name that
// ModelTensors does not give.
std::optional<std::string> GgufTensorName(absl::string_view hf_name);

// Whether the rows of the tensor are in llama.cpp's rotary order: q and k of architecture llama,
// where each head's rows alternate between the first and the second half of the head.
bool HasInterleavedRotaryRows(const GgufFile& file, absl::string_view hf_name);

// Rows [heads * head_dim, cols] from the interleaved order to Hugging Face's: row 2j + h of a head
// becomes row h * head_dim / 2 + j. Precondition: head_dim is even and values.size() is
// rows * cols.
std::vector<float> UndoInterleavedRotaryRows(absl::Span<const float> values, uint64_t head_dim,
                                             uint64_t cols);

// The tensor that holds one divisor per rotary frequency instead of scaling parameters (Llama 3).
inline constexpr char kGgufRopeFactors[] = "rope_freqs.weight";

}  // namespace quantloom
