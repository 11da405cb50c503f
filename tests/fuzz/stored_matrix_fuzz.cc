// Damaged planes of a stored matrix of any codec: refused, or decoded to finite values.
//
// Input: the recipe's number, then edits of four bytes: plane; offset (two bytes, little-endian,
// modulo the plane's size); value to XOR. An edit of value 0 cuts the plane off at the offset.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "core/codec/codec.h"

namespace quantloom {
namespace {

constexpr uint64_t kRows = 66;  // two entries of index_base
constexpr uint64_t kCols = 320;

EncodedMatrix Encode(absl::string_view recipe) {
  std::vector<float> weights(kRows * kCols);
  uint32_t state = 1;
  for (float& w : weights) {
    state = state * 1664525u + 1013904223u;
    w = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
  }
  ThreadTeam team(1);
  auto encoded =
      (*CreateCodec(recipe))->Encode({.weights = weights, .rows = kRows, .cols = kCols}, team);
  if (!encoded.ok()) std::abort();
  return *std::move(encoded);
}

const std::vector<EncodedMatrix>& Samples() {
  static const auto* const kSamples = new std::vector<EncodedMatrix>{
      Encode("icquant:bits=2,codebook=int8,offset=row"),
      Encode("icquant:bits=3,codebook=fp16,index_bits=3,outliers=0.2"),
      Encode("icquant:bits=1,codebook=tensor,index_bits=8"),
      Encode("icquant:bits=4,inner=rtn,codebook=range"),
      Encode("icquant:bits=8"),
      Encode("icquant:bits=2,inner=trellis,outliers=0.1"),
      Encode("icquant:bits=3,inner=e8p,index_bits=4"),
      Encode("qtip:bits=1.5,code=hyb"),
      Encode("quip:bits=4,scales=row"),
      Encode("rtn:bits=4,group=48"),
  };
  return *kSamples;
}

}  // namespace
}  // namespace quantloom

// Encodes before the first input is timed: instrumented, the trellis takes seconds.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  quantloom::Samples();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantloom;
  if (size == 0) return 0;
  EncodedMatrix sample = Samples()[data[0] % Samples().size()];
  for (size_t i = 1; i + 4 <= size; i += 4) {
    Plane& plane = sample.planes[data[i] % sample.planes.size()];
    if (plane.bytes.empty()) continue;
    const size_t offset =
        (data[i + 1] | static_cast<size_t>(data[i + 2]) << 8) % plane.bytes.size();
    if (data[i + 3] == 0) {
      plane.bytes.resize(offset);
      plane.shape = {offset / DTypeSize(plane.dtype)};
    } else {
      plane.bytes[offset] ^= data[i + 3];
    }
  }
  std::vector<PlaneView> views;
  for (const Plane& plane : sample.planes) views.push_back(plane.view());
  const auto matrix = OpenMatrix(sample.recipe, kRows, kCols, views);
  if (!matrix.ok()) return 0;
  std::vector<float> values(kRows * kCols);
  (*matrix)->DecodeTile(0, kRows, 0, kCols, values.data(), kCols);
  for (const float value : values) {
    if (!std::isfinite(value)) std::abort();
  }
  return 0;
}
