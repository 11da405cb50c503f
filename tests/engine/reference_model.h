// An independent forward pass in double precision, written from the architecture's definition with
// nothing shared with the engine but ModelConfig: what the engine's arithmetic is compared with.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/format/model_config.h"

namespace quantloom::testing {

// The vectors that each matrix was multiplied with, in order of positions, by tensor name.
using ReferenceInputs = std::map<std::string, std::vector<std::vector<double>>>;

// Logits [tokens][vocab] of every position of one sequence. `weights` as TinyWeights gives them.
// `inputs`, unless null, gets the inputs of every matrix appended.
std::vector<std::vector<double>> ReferenceLogits(
    const ModelConfig& config, const std::map<std::string, std::vector<float>>& weights,
    const std::vector<int32_t>& tokens, ReferenceInputs* inputs = nullptr);

}  // namespace quantloom::testing
