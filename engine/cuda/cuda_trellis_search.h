// The trellis search on a CUDA device (kernels/cuda/trellis_encode.h).
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "core/codec/trellis_search.h"
#include "engine/cuda/cuda_context.h"

namespace quantloom {

class CudaTrellisSearch final : public TrellisSearch {
 public:
  // `context` must outlive the search.
  explicit CudaTrellisSearch(CudaContext& context) : context_(context) {}

  bool Takes(const TrellisFormat& format) const override;
  absl::Status Run(const TrellisFormat& format, absl::Span<const int16_t> targets,
                   absl::Span<const uint8_t> ignored, absl::Span<uint8_t> bits) override;

 private:
  // Device memory that is kept for the next search.
  struct Scratch {
    CudaMemory memory;
    uint64_t bytes = 0;
  };

  absl::Status Search(const TrellisFormat& format, absl::Span<const int16_t> targets,
                      absl::Span<const uint8_t> ignored, absl::Span<uint8_t> bits);
  // The values of all states, [weights a step, 2^16].
  absl::StatusOr<const int16_t*> Values(const TrellisFormat& format);
  absl::Status Reserve(uint64_t bytes, Scratch& scratch) const;

  CudaContext& context_;
  std::map<std::pair<TrellisCode, int>, CudaMemory> values_;  // by code and half_bits
  Scratch targets_, ignored_, choices_, bits_;
};

}  // namespace quantloom
