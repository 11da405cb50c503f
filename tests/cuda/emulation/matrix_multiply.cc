// Warp-wide matrix products: fragments as the PTX ISA lays them out over lanes ("Matrix Fragments
// for mma.m16n8k32", "for mma.m16n8k16").
#include <array>

#include "tests/cuda/emulation/primitives.h"

namespace quantloom::cuda {
namespace {

using cuda_emulation::kWarpLanes;
using cuda_emulation::MeetWarp;

template <typename Element>
struct Fragments {
  Element* d;  // 4
  const uint32_t* a;
  const uint32_t* b;
};

// Row and column of element i of a lane's accumulator.
uint32_t AccumulatorRow(uint32_t lane, uint32_t i) { return lane / 4 + (i < 2 ? 0 : 8); }
uint32_t AccumulatorColumn(uint32_t lane, uint32_t i) { return lane % 4 * 2 + i % 2; }

int Int8At(const uint32_t* registers, uint32_t i) {
  return static_cast<int8_t>(registers[i / 4] >> (i % 4 * 8));
}
int Unsigned8At(const uint32_t* registers, uint32_t i) {
  return static_cast<uint8_t>(registers[i / 4] >> (i % 4 * 8));
}
float HalfAt(const uint32_t* registers, uint32_t i) {
  return HalfToFloat(static_cast<uint16_t>(registers[i / 2] >> (i % 2 * 16)));
}

// Elements per register and the depth of the product follow from the element's width.
template <typename Element, uint32_t kDepth, Element AtA(const uint32_t*, uint32_t),
          Element AtB(const uint32_t*, uint32_t)>
void Multiply(void* const* arguments) {
  constexpr uint32_t kRun = kDepth / 8;  // consecutive elements of a lane, in depth
  std::array<std::array<Element, kDepth>, 16> a{};
  std::array<std::array<Element, 8>, kDepth> b{};
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    const auto& mine = *static_cast<const Fragments<Element>*>(arguments[lane]);
    for (uint32_t i = 0; i < 4 * kRun; ++i) {
      const uint32_t row = lane / 4 + (i / kRun % 2 == 0 ? 0 : 8);
      a[row][lane % 4 * kRun + i % kRun + (i < 2 * kRun ? 0 : kDepth / 2)] = AtA(mine.a, i);
    }
    for (uint32_t i = 0; i < 2 * kRun; ++i) {
      b[lane % 4 * kRun + i % kRun + (i < kRun ? 0 : kDepth / 2)][lane / 4] = AtB(mine.b, i);
    }
  }
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    const auto& mine = *static_cast<const Fragments<Element>*>(arguments[lane]);
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t row = AccumulatorRow(lane, i);
      const uint32_t column = AccumulatorColumn(lane, i);
      for (uint32_t k = 0; k < kDepth; ++k) mine.d[i] += a[row][k] * b[k][column];
    }
  }
}

}  // namespace

void MultiplyInt8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Fragments<int> mine{d, a, b};
  MeetWarp(0xFFFFFFFFu, "mma.m16n8k32.s8", &mine,
           [](uint32_t, void* const* arguments) { Multiply<int, 32, Int8At, Int8At>(arguments); });
}

void MultiplyUnsigned8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Fragments<int> mine{d, a, b};
  MeetWarp(0xFFFFFFFFu, "mma.m16n8k32.u8", &mine, [](uint32_t, void* const* arguments) {
    Multiply<int, 32, Unsigned8At, Int8At>(arguments);
  });
}

void MultiplyHalf(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Fragments<float> mine{d, a, b};
  MeetWarp(0xFFFFFFFFu, "mma.m16n8k16.f16", &mine, [](uint32_t, void* const* arguments) {
    Multiply<float, 16, HalfAt, HalfAt>(arguments);
  });
}

}  // namespace quantloom::cuda
