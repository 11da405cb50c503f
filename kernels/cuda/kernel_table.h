// The kernels as a table of functions: how code that is linked without them calls them, whether
// they come from the shared library for CUDA or from the emulation.
#pragma once

#include "kernels/cuda/activations.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/dense_operands.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/hadamard.h"
#include "kernels/cuda/hessian.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/probe.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/rotary.h"
#include "kernels/cuda/row_chain.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/trellis_encode.h"

namespace quantloom::cuda {

struct KernelTable {
  decltype(&ActivationBytes) activation_bytes;
  decltype(&ActivationsAt) activations_at;
  decltype(&PrepareActivations) prepare_activations;
  decltype(&Multiply) multiply;
  decltype(&ExpandRows) expand_rows;
  decltype(&HalveRows) halve_rows;
  decltype(&ScaleRows) scale_rows;
  decltype(&EmbedRows) embed_rows;
  decltype(&RmsNorm) rms_norm;
  decltype(&Add) add;
  decltype(&SwiGlu) swiglu;
  decltype(&TransformRows) transform_rows;
  decltype(&RunRowChain) run_row_chain;
  decltype(&FinishOutputs) finish_outputs;
  decltype(&RotateAndStore) rotate_and_store;
  decltype(&Attend) attend;
  decltype(&AddToHessian) add_to_hessian;
  decltype(&TrellisChoiceBytes) trellis_choice_bytes;
  decltype(&TrellisSharedBytes) trellis_shared_bytes;
  decltype(&EncodeTrellisTiles) encode_trellis_tiles;
  decltype(&SampleTokens) sample_tokens;
  decltype(&LaunchNothing) launch_nothing;
  decltype(&ReadSweep) read_sweep;
  decltype(&RepeatPattern) repeat_pattern;
};

// Those that this is linked with.
const KernelTable& Kernels();

}  // namespace quantloom::cuda
