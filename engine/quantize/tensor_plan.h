// Which tensor is stored how: the job's recipes bound to the model's tensors.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/codec/codec.h"
#include "core/format/model_config.h"
#include "engine/quantize/quantize_model.h"

namespace quantloom {

// One tensor with its codec; a null codec keeps it as it is (norms, biases).
struct PlannedTensor {
  TensorSpec spec;
  std::shared_ptr<const Codec> codec;
  uint64_t weights() const {
    uint64_t product = 1;
    for (uint64_t size : spec.shape) product *= size;
    return product;
  }
};

// The model's tensors in forward order. Overrides apply to matrices, the first match wins.
// INVALID_ARGUMENT naming `recipe`, `embedding_recipe` or `overrides[i]` for a recipe that is
// wrong, and for an override that matches no matrix.
absl::StatusOr<std::vector<PlannedTensor>> PlanTensors(const ModelConfig& config,
                                                       const QuantizeOptions& options);

}  // namespace quantloom
