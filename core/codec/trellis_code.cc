#include "core/codec/trellis_code.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/base/float16.h"

namespace quantloom {
namespace {

struct Spread {
  float rms;
  float peak;
};

Spread SpreadOf(TrellisCode code) {
  double squares = 0;
  float peak = 0;
  for (uint32_t state = 0; state < kTrellisStates; ++state) {
    float values[2];
    DecodeTrellisState(code, state, values);
    for (int i = 0; i < WeightsPerState(code); ++i) {
      squares += static_cast<double>(values[i]) * values[i];
      peak = std::max(peak, std::fabs(values[i]));
    }
  }
  const double count = static_cast<double>(kTrellisStates) * WeightsPerState(code);
  return {static_cast<float>(std::sqrt(squares / count)), peak};
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

float TrellisCodebookRms(TrellisCode code) { return CodebookSpread(code).rms; }
float TrellisCodebookPeak(TrellisCode code) { return CodebookSpread(code).peak; }

}  // namespace quantloom
