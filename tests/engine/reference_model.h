// An independent forward pass in double precision, written from the architecture's definition with
// nothing shared with the engine but ModelConfig: what the engine's arithmetic is compared with.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/format/model_config.h"

namespace quantloom::testing {

// Logits [tokens][vocab] of every position of one sequence. `weights` as TinyWeights gives them.
std::vector<std::vector<double>> ReferenceLogits(
    const ModelConfig& config, const std::map<std::string, std::vector<float>>& weights,
    const std::vector<int32_t>& tokens);

}  // namespace quantloom::testing
