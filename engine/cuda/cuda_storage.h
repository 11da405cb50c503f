// Parameters and the KV cache in device memory.
#pragma once

#include <cstdint>
#include <utility>

#include "engine/backend.h"
#include "engine/cuda/cuda_context.h"
#include "kernels/cuda/batch.h"

namespace quantloom {

class CudaVector final : public DeviceVector {
 public:
  CudaVector(uint64_t size, CudaMemory memory) : size_(size), memory_(std::move(memory)) {}
  uint64_t size() const override { return size_; }
  const float* data() const { return memory_.as<float>(); }

 private:
  uint64_t size_;
  CudaMemory memory_;
};

// Of a vector that the CUDA backend made.
inline const float* Data(const DeviceVector& vector) {
  return static_cast<const CudaVector&>(vector).data();
}

class CudaKvStorage final : public KvStorage {
 public:
  CudaKvStorage(const KvShape& shape, CudaMemory memory)
      : KvStorage(shape), memory_(std::move(memory)) {}

  // Block layout: [layer][keys, values][kv head][slot][head_dim].
  cuda::KvView layer(uint32_t layer) const {
    cuda::KvView view = {.keys = memory_.as<uint16_t>(),
                         .block_stride = shape().block_bytes() / sizeof(uint16_t),
                         .block_tokens = shape().block_tokens,
                         .kv_heads = shape().kv_heads,
                         .head_dim = shape().head_dim};
    view.keys += layer * 2 * view.plane();
    return view;
  }
  uint8_t* block(int32_t block) const {
    return memory_.as<uint8_t>() + static_cast<size_t>(block) * shape().block_bytes();
  }

 private:
  CudaMemory memory_;
};

}  // namespace quantloom
