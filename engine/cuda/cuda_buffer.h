// Activations in device memory, and the forms of them that products read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>

#include "engine/backend.h"
#include "engine/cuda/cuda_context.h"

namespace quantloom {

// A form of activations that products read, and where it is made.
struct PreparedForm {
  CudaMemory transformed;  // [max_rows, cols] fp32, once a transformed product has read the rows
  CudaMemory prepared;     // of either element type
};

class CudaBuffer final : public DeviceBuffer {
 public:
  CudaBuffer(size_t max_rows, size_t cols, CudaMemory memory)
      : max_rows_(max_rows), cols_(cols), memory_(std::move(memory)) {}
  // What a buffer takes.
  static uint64_t Bytes(size_t max_rows, size_t cols) {
    return uint64_t{max_rows} * cols * sizeof(float);
  }

  size_t max_rows() const override { return max_rows_; }
  size_t cols() const override { return cols_; }
  uint32_t stride() const { return static_cast<uint32_t>(cols_); }
  float* data() const { return memory_.as<float>(); }
  // The `form`-th of those in which a product last read the rows. They are added in order;
  // references stay valid.
  PreparedForm& form(size_t form) {
    if (form == forms_.size()) forms_.emplace_back();
    return forms_[form];
  }
  // Pinned, [max_rows, cols], once it has been asked for; copies from it are done when `copied` has
  // happened.
  struct Host {
    CudaMemory memory;
    CudaEvent copied;
  };
  // What the buffer is read into.
  Host& host() const { return host_; }
  // What it is written from: by turns, so that who writes for a step need not wait for the one
  // before.
  Host& next_source() { return sources_[++turn_ % sources_.size()]; }

 private:
  size_t max_rows_;
  size_t cols_;
  CudaMemory memory_;
  std::deque<PreparedForm> forms_;
  mutable Host host_;
  std::array<Host, kUnfinishedSteps> sources_;
  size_t turn_ = 0;
};

// Of a buffer that the CUDA backend made.
inline CudaBuffer& Cuda(DeviceBuffer& buffer) { return static_cast<CudaBuffer&>(buffer); }
inline const CudaBuffer& Cuda(const DeviceBuffer& buffer) {
  return static_cast<const CudaBuffer&>(buffer);
}

}  // namespace quantloom
