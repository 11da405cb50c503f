// A packed model as the contract's Model message.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "core/format/model_config.h"
#include "core/format/packed_model.h"
#include "quantloom/v1/model.pb.h"

namespace quantloom {

// Everything but state and load time; the tensors included.
v1::Model DescribeModel(absl::string_view name, const ModelConfig& config,
                        const PackedManifest& manifest, bool chat);

// Memory that the model's weights take once it is loaded, bytes: the stored tensors, with each
// outlier index in the larger form that products read (kernels/cpu/icquant_stream.h).
uint64_t ResidentWeightBytes(const PackedManifest& manifest);

}  // namespace quantloom
