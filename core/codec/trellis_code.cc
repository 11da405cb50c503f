#include "core/codec/trellis_code.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "core/base/float16.h"

namespace quantloom {
namespace {

struct Spread {
  float rms;
  float peak;
};

std::vector<float> MakeCodebook(TrellisCode code) {
  const auto weights = static_cast<size_t>(WeightsPerState(code));
  std::vector<float> values(kTrellisStates * weights);
  for (uint32_t state = 0; state < kTrellisStates; ++state) {
    DecodeTrellisState(code, state, values.data() + state * weights);
  }
  return values;
}

Spread SpreadOf(TrellisCode code) {
  const float* const values = TrellisCodebook(code);
  const size_t count = size_t{kTrellisStates} * static_cast<size_t>(WeightsPerState(code));
  double squares = 0;
  float peak = 0;
  for (size_t i = 0; i < count; ++i) {
    squares += static_cast<double>(values[i]) * values[i];
    peak = std::max(peak, std::fabs(values[i]));
  }
  return {static_cast<float>(std::sqrt(squares / static_cast<double>(count))), peak};
}

const Spread& CodebookSpread(TrellisCode code) {
  static const std::array<Spread, 4> spreads = {
      SpreadOf(TrellisCode::k1Mad), SpreadOf(TrellisCode::kMul1), SpreadOf(TrellisCode::k3Inst),
      SpreadOf(TrellisCode::kHyb)};
  return spreads[static_cast<size_t>(code)];
}

}  // namespace

void DecodeTrellisState(TrellisCode code, uint32_t state, float* values) {
  switch (code) {
    case TrellisCode::k1Mad:
      values[0] = Code1Mad(state);
      return;
    case TrellisCode::kMul1:
      values[0] = CodeMul1(state);
      return;
    case TrellisCode::k3Inst:
      values[0] = Code3Inst(state);
      return;
    case TrellisCode::kHyb: {
      const uint32_t hash = CodeHybHash(state);
      const uint16_t* pair = kHybTable[CodeHybIndex(hash)];
      const float first = HalfToFloat(pair[0]);
      values[0] = CodeHybNegates(hash) ? -first : first;
      values[1] = HalfToFloat(pair[1]);
      return;
    }
  }
}

const float* TrellisCodebook(TrellisCode code) {
  const auto codebook = [&]<TrellisCode kCode>() {
    static const std::vector<float> values = MakeCodebook(kCode);
    return values.data();
  };
  switch (code) {
    case TrellisCode::k1Mad:
      return codebook.operator()<TrellisCode::k1Mad>();
    case TrellisCode::kMul1:
      return codebook.operator()<TrellisCode::kMul1>();
    case TrellisCode::k3Inst:
      return codebook.operator()<TrellisCode::k3Inst>();
    case TrellisCode::kHyb:
      break;
  }
  return codebook.operator()<TrellisCode::kHyb>();
}

float TrellisCodebookRms(TrellisCode code) { return CodebookSpread(code).rms; }
float TrellisCodebookPeak(TrellisCode code) { return CodebookSpread(code).peak; }

}  // namespace quantloom
