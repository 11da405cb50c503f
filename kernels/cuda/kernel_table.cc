#include "kernels/cuda/kernel_table.h"

namespace quantloom::cuda {

const KernelTable& Kernels() {
  static constexpr KernelTable kKernels = {.activation_bytes = ActivationBytes,
                                           .activations_at = ActivationsAt,
                                           .prepare_activations = PrepareActivations,
                                           .multiply = Multiply,
                                           .expand_rows = ExpandRows,
                                           .halve_rows = HalveRows,
                                           .scale_rows = ScaleRows,
                                           .embed_rows = EmbedRows,
                                           .rms_norm = RmsNorm,
                                           .add = Add,
                                           .swiglu = SwiGlu,
                                           .transform_rows = TransformRows,
                                           .run_row_chain = RunRowChain,
                                           .finish_outputs = FinishOutputs,
                                           .rotate_and_store = RotateAndStore,
                                           .attend = Attend,
                                           .add_to_hessian = AddToHessian,
                                           .trellis_choice_bytes = TrellisChoiceBytes,
                                           .trellis_shared_bytes = TrellisSharedBytes,
                                           .encode_trellis_tiles = EncodeTrellisTiles,
                                           .sample_tokens = SampleTokens,
                                           .launch_nothing = LaunchNothing,
                                           .read_sweep = ReadSweep,
                                           .repeat_pattern = RepeatPattern};
  return kKernels;
}

}  // namespace quantloom::cuda
