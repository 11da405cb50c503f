#include "engine/cuda/cuda_trellis_search.h"

#include <algorithm>
#include <vector>

#include "core/base/status.h"

namespace quantloom {
namespace {

// Tiles searched side by side, each with up to a megabyte of choices: three on each of an H100's
// 132 multiprocessors, as many as their shared memory takes at 2 bits, and more at higher rates,
// whose choices are smaller.
constexpr uint32_t kMaxBlocks = 528;

uint32_t HalfBits(const TrellisFormat& format) { return static_cast<uint32_t>(format.half_bits()); }
uint32_t PerStep(const TrellisFormat& format) {
  return static_cast<uint32_t>(format.weights_per_step());
}

}  // namespace

bool CudaTrellisSearch::Takes(const TrellisFormat& format) const {
  return context_.kernels().trellis_shared_bytes(HalfBits(format), PerStep(format)) <=
         context_.runtime().properties().shared_bytes;
}

absl::Status CudaTrellisSearch::Run(const TrellisFormat& format, absl::Span<const int16_t> targets,
                                    absl::Span<const uint8_t> ignored, absl::Span<uint8_t> bits) {
  QL_RETURN_IF_ERROR(context_.status());
  const absl::Status status = Search(format, targets, ignored, bits);
  // Memory that cannot be had leaves the device as it was.
  if (!absl::IsResourceExhausted(status)) context_.Note(status);
  return status;
}

absl::Status CudaTrellisSearch::Search(const TrellisFormat& format,
                                       absl::Span<const int16_t> targets,
                                       absl::Span<const uint8_t> ignored,
                                       absl::Span<uint8_t> bits) {
  const auto tiles = static_cast<uint32_t>(targets.size() / kTileWeights);
  const uint32_t blocks = std::min(tiles, kMaxBlocks);
  const absl::Span<const uint8_t> target_bytes = BytesOf(targets);
  QL_ASSIGN_OR_RETURN(const int16_t* const values, Values(format));
  QL_RETURN_IF_ERROR(Reserve(target_bytes.size(), targets_));
  QL_RETURN_IF_ERROR(Reserve(ignored.size(), ignored_));
  QL_RETURN_IF_ERROR(Reserve(bits.size(), bits_));
  QL_RETURN_IF_ERROR(
      Reserve(blocks * context_.kernels().trellis_choice_bytes(HalfBits(format), PerStep(format)),
              choices_));

  cuda::DeviceRuntime& runtime = context_.runtime();
  const cuda::Stream stream = context_.stream();
  QL_RETURN_IF_ERROR(runtime.CopyToDevice(targets_.memory.as<void>(), target_bytes.data(),
                                          target_bytes.size(), stream));
  if (!ignored.empty()) {
    QL_RETURN_IF_ERROR(
        runtime.CopyToDevice(ignored_.memory.as<void>(), ignored.data(), ignored.size(), stream));
  }
  const cuda::TrellisEncoding encoding = {
      .values = values,
      .targets = targets_.memory.as<int16_t>(),
      .ignored = ignored.empty() ? nullptr : ignored_.memory.as<uint8_t>(),
      .choices = choices_.memory.as<uint8_t>(),
      .bits = bits_.memory.as<uint32_t>(),
      .tiles = tiles,
      .half_bits = HalfBits(format),
      .weights_per_step = PerStep(format)};
  const char* const error = context_.kernels().encode_trellis_tiles(encoding, blocks, stream);
  if (error != nullptr) return absl::InternalError(error);
  QL_RETURN_IF_ERROR(runtime.CopyToHost(bits.data(), bits_.memory.as<void>(), bits.size(), stream));
  return runtime.Synchronize(stream);
}

absl::StatusOr<const int16_t*> CudaTrellisSearch::Values(const TrellisFormat& format) {
  CudaMemory& memory = values_[{format.code(), format.half_bits()}];
  if (memory.empty()) {
    const TrellisIntegers integers(format);
    std::vector<int16_t> values(size_t{PerStep(format)} * kTrellisStates);
    for (uint32_t state = 0; state < kTrellisStates; ++state) {
      float decoded[2];
      DecodeTrellisState(format.code(), state, decoded);
      for (uint32_t v = 0; v < PerStep(format); ++v) {
        values[v * kTrellisStates + state] = integers.Value(decoded[v]);
      }
    }
    QL_ASSIGN_OR_RETURN(memory, context_.Upload(BytesOf(absl::MakeConstSpan(values))));
  }
  return memory.as<int16_t>();
}

absl::Status CudaTrellisSearch::Reserve(uint64_t bytes, Scratch& scratch) const {
  if (bytes <= scratch.bytes) return absl::OkStatus();
  scratch = {};  // first, so that the new memory may be the old
  absl::StatusOr<CudaMemory> memory = context_.Allocate(bytes);
  if (!memory.ok()) return Annotate(memory.status(), "trellis search");
  scratch = {*std::move(memory), bytes};
  return absl::OkStatus();
}

}  // namespace quantloom
