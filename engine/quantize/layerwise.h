// A model's decoder run layer by layer over calibration text, while it is being quantized: every
// linear layer's Hessian is taken from the inputs that the layer will really see, those left by the
// already quantized layers before it, so that later layers compensate what earlier ones lost.
//
// All windows pass one stage of one layer before the next stage begins, so memory holds one decoder
// layer's weights and Hessian and the activations of every token: (hidden_size + the larger of
// num_heads head_dim and intermediate_size) floats a token.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/format/model_config.h"
#include "core/rounding/hessian.h"
#include "engine/backend.h"
#include "engine/decoder_layer.h"
#include "engine/quantize/calibration.h"

namespace quantloom {

// Called once for each group of linear layers that share an input, in forward order, the output
// head last: sets every `linear->matrix` to what the pass goes on with (the quantized one, or the
// source's); the head's is not needed. The Hessian is the callee's to use up.
using InputGroupHandler =
    absl::FunctionRef<absl::Status(absl::Span<LinearWeight* const> group, Hessian hessian)>;

// Runs `text` through the decoder. Embedding, norms and biases come from `weights`. `step` is
// called every few hundred tokens of a stage; a non-OK status ends the pass. INVALID_ARGUMENT for a
// token outside the vocabulary or a window beyond the context; the backend's errors. The Hessians
// depend on the text, the weights, the matrices handed in and the kind of device alone.
absl::Status RunLayerwise(const ModelConfig& config, WeightSource& weights, Backend& backend,
                          const CalibrationText& text, InputGroupHandler handle,
                          absl::FunctionRef<absl::Status()> step);

}  // namespace quantloom
