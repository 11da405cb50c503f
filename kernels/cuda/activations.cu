#include "kernels/cuda/activations.h"
#include "kernels/cuda/device/prepare_row.h"

namespace quantloom::cuda {
namespace {

// Shared memory and with it the columns of the totals.
constexpr uint32_t kMostPanels = (48u << 10) / sizeof(float);

// A block a token.
__global__ void __launch_bounds__(32 * kPrepareWarps)
    ConvertActivations(const float* x, uint32_t cols, uint32_t stride, Activations out) {
  const float* const row = x + static_cast<size_t>(blockIdx.x) * stride;
  PrepareRow(
      out, blockIdx.x, cols, [row](uint32_t column) { return row[column]; },
      static_cast<float*>(DynamicShared()));
}

uint32_t PaddedTokens(uint32_t tokens) { return DivideUp(tokens, kTokenTile) * kTokenTile; }

// Elements of the arrays of Activations, which lie behind each other.
struct Extent {
  uint32_t panels;
  size_t words;   // of fragments
  size_t scales;  // [tokens, panels]
  size_t totals;  // [tokens]
};

Extent ExtentOf(ActivationForm form, uint32_t tokens, uint32_t cols) {
  const size_t padded = PaddedTokens(tokens);
  const uint32_t panels = DivideUp(cols, kPanelColumns);
  return {.panels = panels,
          .words = padded * panels * kPanelColumns * ActivationElementBytes(form) / 4,
          .scales = padded * panels,
          .totals = form == ActivationForm::kInt8 ? padded : 0};
}

}  // namespace

size_t ActivationBytes(ActivationForm form, uint32_t tokens, uint32_t cols) {
  const Extent extent = ExtentOf(form, tokens, cols);
  return extent.words * sizeof(uint32_t) + (extent.scales + extent.totals) * sizeof(float);
}

Activations ActivationsAt(ActivationForm form, uint32_t tokens, uint32_t cols, void* memory) {
  const Extent extent = ExtentOf(form, tokens, cols);
  auto* const fragments = static_cast<uint32_t*>(memory);
  auto* const scales = reinterpret_cast<float*>(fragments + extent.words);
  return {.form = form,
          .tokens = tokens,
          .panels = extent.panels,
          .fragments = fragments,
          .scales = scales,
          .totals = extent.totals > 0 ? scales + extent.scales : nullptr};
}

const char* PrepareActivations(const float* x, uint32_t cols, uint32_t stride,
                               const Activations& out, Stream stream) {
  if (out.panels > kMostPanels) return "PrepareActivations: too many columns";
  const uint32_t blocks = PaddedTokens(out.tokens);
  return LaunchKernel(blocks, 32 * kPrepareWarps, out.panels * sizeof(float), stream,
                      ConvertActivations, x, cols, stride, out);
}

}  // namespace quantloom::cuda
