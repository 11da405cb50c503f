#include "kernels/cpu/weight_memory.h"

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace quantloom::cpu {
namespace {

struct Array {
  uint8_t* begin;
  size_t bytes;
  uint8_t value;

  Array(size_t size, uint8_t fill)
      : begin(static_cast<uint8_t*>(AllocateWeights(size))), bytes(size), value(fill) {
    std::fill_n(begin, bytes, value);
  }
  bool IsWhole() const {
    return std::all_of(begin, begin + bytes, [this](uint8_t b) { return b == value; });
  }
  void Free() const { FreeWeights(begin, bytes); }
};

TEST(WeightMemory, ArraysOfAnySizeAreAlignedAndDoNotOverlap) {
  std::vector<Array> arrays;
  // More than a block of 32 MB, arrays that have memory of their own, and odd sizes.
  for (const size_t bytes : {1, 63, 64, 65, 4096, 1000001, 5 << 20, 9 << 20, 40 << 20}) {
    for (int i = 0; i < 3; ++i) {
      arrays.emplace_back(bytes, static_cast<uint8_t>(arrays.size()));
    }
  }
  for (size_t i = 0; i < 12; ++i) arrays.emplace_back(5 << 20, static_cast<uint8_t>(arrays.size()));
  for (const Array& array : arrays) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(array.begin) % 64, 0u) << array.bytes;
    EXPECT_TRUE(array.IsWhole()) << array.bytes;
  }
  for (const Array& array : arrays) array.Free();
}

TEST(WeightMemory, WhatIsFreedInAnyOrderLeavesTheOthersAlone) {
  std::vector<Array> arrays;
  for (size_t i = 0; i < 30; ++i) arrays.emplace_back(3 << 20, static_cast<uint8_t>(i));
  for (size_t i = 0; i < arrays.size(); i += 2) arrays[i].Free();
  std::vector<Array> more;
  for (size_t i = 0; i < 30; ++i) more.emplace_back(3 << 20, static_cast<uint8_t>(100 + i));
  for (size_t i = 1; i < arrays.size(); i += 2) {
    EXPECT_TRUE(arrays[i].IsWhole()) << i;
    arrays[i].Free();
  }
  for (const Array& array : more) {
    EXPECT_TRUE(array.IsWhole());
    array.Free();
  }
}

TEST(WeightMemory, SeveralThreadsMayAllocateAndFree) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int round = 0; round < 20; ++round) {
        std::vector<Array> arrays;
        for (size_t i = 0; i < 50; ++i) {
          arrays.emplace_back(1 + i * 3001, static_cast<uint8_t>(50 * t + round));
        }
        for (const Array& array : arrays) {
          EXPECT_TRUE(array.IsWhole());
          array.Free();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace quantloom::cpu
