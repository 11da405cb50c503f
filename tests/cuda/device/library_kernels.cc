#include "tests/cuda/device/library_kernels.h"

namespace quantloom {
namespace {

const cuda::KernelTable* table = nullptr;

}  // namespace

namespace testing {

void UseKernels(const cuda::KernelTable& kernels) { table = &kernels; }

}  // namespace testing

namespace cuda {

size_t ActivationBytes(ActivationForm form, uint32_t tokens, uint32_t cols) {
  return table->activation_bytes(form, tokens, cols);
}

Activations ActivationsAt(ActivationForm form, uint32_t tokens, uint32_t cols, void* memory) {
  return table->activations_at(form, tokens, cols, memory);
}

const char* PrepareActivations(const float* x, uint32_t cols, uint32_t stride,
                               const Activations& out, Stream stream) {
  return table->prepare_activations(x, cols, stride, out, stream);
}

const char* Multiply(const MatrixView& w, const Activations& x, float* y, uint32_t stride,
                     Stream stream) {
  return table->multiply(w, x, y, stride, stream);
}

const char* ExpandRows(const MatrixView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                       Stream stream) {
  return table->expand_rows(w, first_row, rows, out, stream);
}

const char* HalveRows(const float* x, uint32_t tokens, uint32_t cols, uint32_t stride,
                      uint16_t* out, float* scales, Stream stream) {
  return table->halve_rows(x, tokens, cols, stride, out, scales, stream);
}

const char* ScaleRows(float* y, uint32_t tokens, uint32_t rows, uint32_t stride,
                      const float* scales, Stream stream) {
  return table->scale_rows(y, tokens, rows, stride, scales, stream);
}

const char* EmbedRows(const MatrixView& matrix, const int32_t* tokens, const SampledToken* chosen,
                      uint32_t count, uint32_t cols, float* out, uint32_t stride, Stream stream) {
  return table->embed_rows(matrix, tokens, chosen, count, cols, out, stride, stream);
}

const char* RmsNorm(const float* x, const uint32_t* rows, uint32_t count, uint32_t cols,
                    const float* weight, float eps, float* out, Stream stream) {
  return table->rms_norm(x, rows, count, cols, weight, eps, out, stream);
}

const char* Add(float* x, uint32_t x_stride, const float* y, uint32_t y_stride, uint32_t rows,
                uint32_t cols, Stream stream) {
  return table->add(x, x_stride, y, y_stride, rows, cols, stream);
}

const char* SwiGlu(const float* gate_up, uint32_t rows, uint32_t cols, float* out, Stream stream) {
  return table->swiglu(gate_up, rows, cols, out, stream);
}

const char* RunRowChain(const RowChain& chain, Stream stream) {
  return table->run_row_chain(chain, stream);
}

const char* FinishOutputs(const OutputParts& parts, float* y, uint32_t stride, uint32_t rows,
                          Stream stream) {
  return table->finish_outputs(parts, y, stride, rows, stream);
}

const char* TransformRows(const HadamardView& transform, const float* x, uint32_t x_stride,
                          uint32_t rows, float* out, uint32_t out_stride, Stream stream) {
  return table->transform_rows(transform, x, x_stride, rows, out, out_stride, stream);
}

const char* AddToHessian(const HessianUpdate& update, Stream stream) {
  return table->add_to_hessian(update, stream);
}

size_t TrellisChoiceBytes(uint32_t half_bits, uint32_t weights_per_step) {
  return table->trellis_choice_bytes(half_bits, weights_per_step);
}

const char* EncodeTrellisTiles(const TrellisEncoding& encoding, uint32_t blocks, Stream stream) {
  return table->encode_trellis_tiles(encoding, blocks, stream);
}

const char* RotateAndStore(const BatchView& batch, const RotaryParameters& parameters,
                           const float* angles, float* qkv, const KvView& kv, Stream stream) {
  return table->rotate_and_store(batch, parameters, angles, qkv, kv, stream);
}

const char* Attend(const BatchView& batch, const KvView& kv, const AttentionArguments& arguments,
                   Stream stream) {
  return table->attend(batch, kv, arguments, stream);
}

const char* SampleTokens(float* logits, uint32_t rows, uint32_t cols,
                         const SampleParameters* parameters, const SampleEdit* edits,
                         SampledToken* chosen, Stream stream) {
  return table->sample_tokens(logits, rows, cols, parameters, edits, chosen, stream);
}

}  // namespace cuda
}  // namespace quantloom
