#include "services/server/model_message.h"

#include <algorithm>
#include <cstdint>

namespace quantloom {
namespace {

v1::Tensor DescribeTensor(const PackedTensorInfo& tensor) {
  v1::Tensor message;
  message.set_name(tensor.name);
  for (const uint64_t size : tensor.shape) message.add_shape(size);
  message.set_recipe(tensor.recipe);
  message.set_bits_per_weight(tensor.bits_per_weight);
  message.set_code_bits(tensor.bits.codes);
  message.set_index_bits(tensor.bits.index);
  message.set_checkpoint_bits(tensor.bits.checkpoints);
  message.set_codebook_bits(tensor.bits.codebooks);
  message.set_padding_bits(tensor.bits.padding);
  message.set_relative_error(tensor.relative_error);
  message.set_calibration_device(tensor.calibration_device);
  return message;
}

}  // namespace

v1::Model DescribeModel(absl::string_view name, const ModelConfig& config,
                        const PackedManifest& manifest, bool chat) {
  v1::Model message;
  message.set_name(std::string(name));
  message.set_architecture(config.architecture);
  message.set_context_length(static_cast<uint32_t>(config.max_position));
  message.set_vocab_size(static_cast<uint32_t>(config.vocab_size));
  message.set_recipe(manifest.recipe);
  message.set_linear_bits_per_weight(manifest.linear_bits_per_weight);
  message.set_bits_per_weight(manifest.bits_per_weight);
  message.set_packed_bytes(manifest.packed_bytes);
  message.set_chat(chat);
  uint64_t parameters = 0;
  for (const PackedTensorInfo& tensor : manifest.tensors) {
    parameters += tensor.weights();
    *message.add_tensors() = DescribeTensor(tensor);
  }
  message.set_parameters(parameters);
  return message;
}

uint64_t ResidentWeightBytes(const PackedManifest& manifest) {
  uint64_t bytes = manifest.packed_bytes;
  for (const PackedTensorInfo& tensor : manifest.tensors) {
    if (tensor.bits.index == 0) continue;
    // A presence bit for every 8 weights, and 8 bits for those that have outliers: at 1 to 25 % of
    // outliers 1.1 to 1.2 times the index, never more than all.
    const double map_bits = 0.125 + std::min(1.0, 1.2 * tensor.bits.index);
    bytes += static_cast<uint64_t>(std::max(0.0, map_bits - tensor.bits.index) / 8 *
                                   static_cast<double>(tensor.weights()));
  }
  return bytes;
}

}  // namespace quantloom
