// Which kernel computes a product. All give the same bits, so the choice is free.
#pragma once

#include "kernels/cuda/device/many_tokens_kernel.h"
#include "kernels/cuda/device/product_kernel.h"

namespace quantloom::cuda {

// CUDA's limit on gridDim.y.
constexpr uint32_t kMostGridRows = 65535;
// Fewer blocks than this would leave most of a card of 100 multiprocessors and more without work.
constexpr uint32_t kManyTokensBlocks = 32;

template <typename Weights, uint32_t kTokenTiles>
const char* LaunchPass(const typename Weights::View& w, const Activations& x, uint32_t first_token,
                       float* y, uint32_t stride, Stream stream) {
  return LaunchKernel(DivideUp(w.rows, kTileRows * Weights::kRowTiles), 32 * kProductWarps,
                      sizeof(ProductShared<Weights, kTokenTiles>), stream,
                      Product<Weights, kTokenTiles>, w, x, first_token, y, stride);
}

template <typename Weights>
const char* LaunchProduct(const typename Weights::View& w, const Activations& x, float* y,
                          uint32_t stride, Stream stream) {
  constexpr uint32_t kPassTokens = kPassTiles * kTokenTile;
  const uint32_t row_blocks = DivideUp(w.rows, kTileRows * Weights::kRowTiles * kProductWarps);
  const uint32_t passes = DivideUp(x.tokens, kPassTokens);
  if (x.tokens > 2 * kTokenTile &&
      static_cast<uint64_t>(row_blocks) * passes >= kManyTokensBlocks && passes <= kMostGridRows) {
    return LaunchKernel(dim3(row_blocks, passes), 32 * kProductWarps,
                        sizeof(ManyTokensShared<Weights>), stream, ManyTokensProduct<Weights>, w, x,
                        y, stride);
  }
  for (uint32_t token = 0; token < x.tokens; token += kPassTokens) {
    const uint32_t left = x.tokens - token;
    const char* const error =
        left <= kTokenTile       ? LaunchPass<Weights, 1>(w, x, token, y, stride, stream)
        : left <= 2 * kTokenTile ? LaunchPass<Weights, 2>(w, x, token, y, stride, stream)
                                 : LaunchPass<Weights, kPassTiles>(w, x, token, y, stride, stream);
    if (error != nullptr) return error;
  }
  return nullptr;
}

}  // namespace quantloom::cuda
