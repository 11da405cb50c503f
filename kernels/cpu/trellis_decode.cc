// A row of a tile at once: a byte shuffle gives each lane the 32 bits that hold its state, a shift
// and a mask leave the state. What 16 weights take then:
//   3INST  5 for the congruence and its masks, 5 to make floats of the two halves, 4 to round their
//          sum to binary16
//   HYB    half of: 5 for the hash, a gather of pairs of binary16, 6 to make floats of them
#include "kernels/cpu/trellis_decode.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/trellis_decode.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/lanes-inl.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

constexpr size_t kSide = 16;
// The tile's ring of at most 128 bytes, its beginning behind it so that 16 bytes can be read
// wherever a row starts.
constexpr size_t kRingBytes = 128 + 16;

#if QUANTLOOM_EMULATED

// Nothing to prepare.
struct StatePlaces {
  StatePlaces(int, int) {}
};

template <TrellisCode kCode>
void DecodeRing(const StatePlaces&, int half_bits, const uint8_t* ring, const float* scales,
                float* out, size_t stride) {
  constexpr int kWeights = WeightsPerState(kCode);
  const float* const codebook = TrellisCodebook(kCode);
  for (size_t t = 0; t < kSide * kSide; ++t) {
    const int step = static_cast<int>(t) / kWeights;
    const int offset = step * kWeights * half_bits / 2;
    uint32_t window;
    hwy::CopyBytes<4>(ring + offset / 8, &window);
    const uint32_t state = window >> (offset % 8) & (kTrellisStates - 1);
    const size_t row = t / kSide;
    out[row * stride + t % kSide] =
        scales[row] * codebook[state * kWeights + t % static_cast<size_t>(kWeights)];
  }
}

#else

// Lanes of 32 bits: 16 weights of a row, or HYB's 8 pairs.
template <TrellisCode kCode>
using StateTag = hn::CappedTag<uint32_t, kSide / WeightsPerState(kCode)>;

// For each state of a row: the bytes of its 32 bits, none beyond the eleventh, and where in them it
// begins.
struct StatePlaces {
  HWY_ALIGN uint8_t bytes[4 * kSide];
  HWY_ALIGN uint32_t shifts[kSide];

  StatePlaces(int half_bits, int weights) {
    for (int s = 0; s < static_cast<int>(kSide) / weights; ++s) {
      const int offset = s * weights * half_bits / 2;
      for (int i = 0; i < 4; ++i) bytes[4 * s + i] = static_cast<uint8_t>(offset / 8 + i);
      shifts[s] = static_cast<uint32_t>(offset % 8);
    }
  }
};

// The states from lane `first` on of the row whose bits begin at `row`.
template <class D>
HWY_INLINE hn::Vec<D> States(D d, const StatePlaces& places, size_t first, const uint8_t* row) {
  const hn::Repartition<uint8_t, D> d8;
  const auto bits = hn::LoadDup128(d8, row);
  const auto bytes = hn::TableLookupBytes(bits, hn::Load(d8, places.bytes + 4 * first));
  return hn::And(hn::Shr(hn::BitCast(d, bytes), hn::Load(d, places.shifts + first)),
                 hn::Set(d, kTrellisStates - 1));
}

// Binary16 numbers in the upper halves of lanes, neither subnormal nor infinite, as floats 2^-112
// times as large: sign, exponent and mantissa moved to their places. What is in the lower halves
// goes.
template <class D>
HWY_INLINE auto UpperHalves(D d, hn::Vec<D> x) {
  const hn::RebindToSigned<D> di;
  const auto moved = hn::ShiftRight<3>(hn::BitCast(di, x));
  return hn::BitCast(hn::RebindToFloat<D>(),
                     hn::And(moved, hn::Set(di, static_cast<int32_t>(0x8FFFE000u))));
}

constexpr float kHalfUnit = 0x1p112f;

template <class D>
HWY_INLINE void Store3Inst(D d, hn::Vec<D> states, float scale, float* out) {
  const hn::RebindToFloat<D> df;
  const hn::Rebind<hwy::float16_t, D> d16;
  const auto product =
      hn::Add(hn::Mul(states, hn::Set(d, k3InstMultiplier)), hn::Set(d, k3InstAddend));
  const auto halves = hn::Xor(hn::And(product, hn::Set(d, k3InstKept)), hn::Set(d, k3InstFlipped));
  const auto sum = hn::Add(UpperHalves(d, halves), UpperHalves(d, hn::ShiftLeft<16>(halves)));
  const auto rounded = hn::PromoteTo(df, hn::DemoteTo(d16, hn::Mul(sum, hn::Set(df, kHalfUnit))));
  hn::StoreU(hn::Mul(hn::Set(df, scale), rounded), df, out);
}

template <class D>
HWY_INLINE void StoreHyb(D d, hn::Vec<D> states, float scale, float* out) {
  const hn::RebindToFloat<D> df;
  const hn::RebindToSigned<D> di;
  const auto hash = hn::Mul(states, hn::Add(states, hn::Set(d, 1)));
  const auto index = hn::And(hn::ShiftRight<6>(hash), hn::Set(d, 0x1FF));
  const auto* const table = reinterpret_cast<const uint32_t*>(kHybTable);
  const auto pairs =
      hn::Xor(hn::GatherIndex(d, table, hn::BitCast(di, index)), hn::And(hash, hn::Set(d, 0x8000)));
  const auto value = [&](hn::Vec<D> halves) HWY_ATTR {
    return hn::Mul(hn::Set(df, scale), hn::Mul(UpperHalves(d, halves), hn::Set(df, kHalfUnit)));
  };
  hn::StoreInterleaved2(value(hn::ShiftLeft<16>(pairs)), value(pairs), df, out);
}

template <TrellisCode kCode>
HWY_INLINE void DecodeRing(const StatePlaces& places, int half_bits, const uint8_t* ring,
                           const float* scales, float* out, size_t stride) {
  const StateTag<kCode> d;
  constexpr int kWeights = WeightsPerState(kCode);
  constexpr size_t kStates = kSide / kWeights;
  for (size_t r = 0; r < kSide; ++r) {
    for (size_t s = 0; s < kStates; s += hn::Lanes(d)) {
      const auto states = States(d, places, s, ring + r * static_cast<size_t>(half_bits));
      float* const to = out + r * stride + s * kWeights;
      if constexpr (kCode == TrellisCode::k3Inst) {
        Store3Inst(d, states, scales[r], to);
      } else {
        StoreHyb(d, states, scales[r], to);
      }
    }
  }
}

#endif

template <TrellisCode kCode>
void DecodeTiles(int half_bits, const TileRow& row) {
  const StatePlaces places(half_bits, WeightsPerState(kCode));
  const size_t bytes = kSide * static_cast<size_t>(half_bits);
  HWY_ALIGN uint8_t ring[kRingBytes];
  for (size_t i = 0; i < row.count; ++i) {
    const uint8_t* const tile = row.tiles + i * bytes;
    memcpy(ring, tile, bytes);
    memcpy(ring + bytes, tile, kSide);
    DecodeRing<kCode>(places, half_bits, ring, row.scales, row.out + kSide * i, row.stride);
  }
}

void Decode3Inst(int half_bits, const TileRow& row) {
  DecodeTiles<TrellisCode::k3Inst>(half_bits, row);
}
void DecodeHyb(int half_bits, const TileRow& row) {
  DecodeTiles<TrellisCode::kHyb>(half_bits, row);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom::cpu {

HWY_EXPORT(Decode3Inst);
HWY_EXPORT(DecodeHyb);

namespace {

// Neither subnormal nor infinite, as the kernels take the table's numbers to be.
constexpr bool IsNormal(uint16_t half) {
  const int exponent = half >> 10 & 0x1F;
  return exponent != 0 && exponent != 0x1F;
}
constexpr bool HybTableIsNormal() {
  for (const auto& pair : kHybTable) {
    if (!IsNormal(pair[0]) || !IsNormal(pair[1])) return false;
  }
  return true;
}
static_assert(HybTableIsNormal());

}  // namespace

bool IsHalfTrellis(const TrellisFormat& format) {
  const bool half = format.code() == TrellisCode::k3Inst || format.code() == TrellisCode::kHyb;
  return half && format.half_bits() <= 8;
}

void DecodeHalfTrellis(const TrellisFormat& format, const TileRow& row) {
  if (format.code() == TrellisCode::k3Inst) {
    HWY_DYNAMIC_DISPATCH(Decode3Inst)(format.half_bits(), row);
  } else {
    HWY_DYNAMIC_DISPATCH(DecodeHyb)(format.half_bits(), row);
  }
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
