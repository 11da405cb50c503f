// The trellis search on the device against the host's, bit for bit.
#include "kernels/cuda/trellis_encode.h"

#include <string>
#include <vector>

#include "core/codec/trellis.h"
#include "gtest/gtest.h"
#include "tests/cuda/launch_seed.h"
#include "tests/kernels/random_floats.h"

namespace quantloom::cuda {
namespace {

struct Case {
  const char* name;
  TrellisCode code;
  int half_bits;
};

class EncodeTrellisTilesTest : public testing::TestWithParam<Case> {
 protected:
  // The bytes of all tiles, as the device finds them; `ignored` may be empty.
  static std::vector<uint8_t> OnDevice(const TrellisFormat& format,
                                       const std::vector<float>& targets,
                                       const std::vector<uint8_t>& ignored, uint32_t blocks) {
    const TrellisIntegers integers(format);
    const auto per_step = static_cast<uint32_t>(format.weights_per_step());
    std::vector<int16_t> values(per_step * kTrellisStates);
    for (uint32_t state = 0; state < kTrellisStates; ++state) {
      float decoded[2];
      DecodeTrellisState(format.code(), state, decoded);
      for (uint32_t v = 0; v < per_step; ++v) {
        values[v * kTrellisStates + state] = integers.Value(decoded[v]);
      }
    }
    std::vector<int16_t> integer_targets;
    for (const float target : targets) integer_targets.push_back(integers.Target(target));
    const auto half_bits = static_cast<uint32_t>(format.half_bits());
    std::vector<uint8_t> choices(blocks * TrellisChoiceBytes(half_bits, per_step));
    const size_t tiles = targets.size() / kTileWeights;
    std::vector<uint32_t> bits(tiles * 4 * half_bits, 0xABABABAB);
    const TrellisEncoding encoding = {.values = values.data(),
                                      .targets = integer_targets.data(),
                                      .ignored = ignored.empty() ? nullptr : ignored.data(),
                                      .choices = choices.data(),
                                      .bits = bits.data(),
                                      .tiles = static_cast<uint32_t>(tiles),
                                      .half_bits = half_bits,
                                      .weights_per_step = per_step};
    const char* const error = EncodeTrellisTiles(encoding, blocks, Stream{});
    EXPECT_EQ(error, nullptr) << error;
    const auto* const bytes = reinterpret_cast<const uint8_t*>(bits.data());
    return {bytes, bytes + bits.size() * sizeof(uint32_t)};
  }
};

TEST_P(EncodeTrellisTilesTest, FindsTheHostsBits) {
  const TrellisFormat format = *TrellisFormat::Create(GetParam().code, GetParam().half_bits);
  const float rms = TrellisCodebookRms(format.code()) * TrellisScaleFactor(format);
  // A Gaussian tile, and one with targets beyond the codebook, equal ones, and some without weight.
  constexpr size_t kTiles = 2;
  std::vector<float> targets = cpu::RandomFloats(kTiles * kTileWeights, 7, 1.5f * rms);
  std::vector<uint8_t> ignored(targets.size());
  for (size_t i = kTileWeights; i < targets.size(); ++i) {
    if (i % 11 == 0) targets[i] = 100 * rms;
    if (i % 4 == 0) targets[i] = 0;
    ignored[i] = i % 5 == 0;
  }
  std::vector<uint8_t> expected(kTiles * format.tile_bytes());
  TileEncoder encoder(format);
  for (size_t tile = 0; tile < kTiles; ++tile) {
    TileEncoder::Ignored without;
    for (size_t i = 0; i < kTileWeights; ++i) without[i] = ignored[tile * kTileWeights + i] != 0;
    float decoded[kTileWeights];
    encoder.Encode(&targets[tile * kTileWeights], without, &expected[tile * format.tile_bytes()],
                   decoded);
  }
  launch_seed = 3;
  // One block that takes both tiles in turn.
  EXPECT_EQ(OnDevice(format, targets, ignored, /*blocks=*/1), expected);
}

INSTANTIATE_TEST_SUITE_P(
    Rates, EncodeTrellisTilesTest,
    testing::Values(
        Case{"Mul1At1", TrellisCode::kMul1, 2}, Case{"Mul1At1AndAHalf", TrellisCode::kMul1, 3},
        Case{"Mul1At2", TrellisCode::kMul1, 4}, Case{"OneMadAt2AndAHalf", TrellisCode::k1Mad, 5},
        Case{"ThreeInstAt3", TrellisCode::k3Inst, 6},
        Case{"Mul1At3AndAHalf", TrellisCode::kMul1, 7}, Case{"Mul1At4", TrellisCode::kMul1, 8},
        Case{"Mul1At6", TrellisCode::kMul1, 12}, Case{"Mul1At8", TrellisCode::kMul1, 16},
        Case{"HybAt2", TrellisCode::kHyb, 4}, Case{"HybAt2AndAHalf", TrellisCode::kHyb, 5},
        Case{"HybAt3", TrellisCode::kHyb, 6}, Case{"HybAt3AndAHalf", TrellisCode::kHyb, 7},
        Case{"HybAt4", TrellisCode::kHyb, 8}),
    [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace quantloom::cuda
