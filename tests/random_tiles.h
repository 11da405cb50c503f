// Random stored matrices of the tile codes: any bits are valid tiles.
#pragma once

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/base/float16.h"
#include "core/codec/codec.h"
#include "gtest/gtest.h"

namespace quantloom {

// Owns the planes that its matrix views. Tiles of tile_rows x tile_cols take tile_bytes; one scale
// for each row.
class RandomTiles {
 public:
  RandomTiles(std::string recipe, uint64_t rows, uint64_t cols, uint64_t tile_rows,
              uint64_t tile_cols, uint64_t tile_bytes, uint32_t seed)
      : recipe_(std::move(recipe)), rows_(rows), cols_(cols), scales_(Padded(2 * rows)) {
    const uint64_t tiles =
        (rows + tile_rows - 1) / tile_rows * ((cols + tile_cols - 1) / tile_cols);
    codes_ = Padded(tiles * tile_bytes);
    std::mt19937 random(seed);
    for (uint64_t i = 0; i < tiles * tile_bytes; ++i) codes_[i] = static_cast<uint8_t>(random());
    for (uint64_t row = 0; row < rows; ++row) {
      const float scale = std::uniform_real_distribution<float>(0.001f, 0.01f)(random);
      const uint16_t bits = FloatToBFloat16(scale);
      std::memcpy(&scales_[2 * row], &bits, sizeof(bits));
    }
  }

  std::unique_ptr<PackedMatrix> Open() const {
    const PlaneView planes[] = {{"codes", DType::kU8, {codes_.size()}, codes_},
                                {"scale", DType::kBF16, {scales_.size() / 2}, scales_}};
    auto matrix = OpenMatrix(recipe_, rows_, cols_, planes);
    EXPECT_TRUE(matrix.ok()) << recipe_ << ": " << matrix.status();
    return *std::move(matrix);
  }

 private:
  static std::vector<uint8_t> Padded(uint64_t bytes) {
    return std::vector<uint8_t>((bytes + 63) / 64 * 64);
  }

  std::string recipe_;
  uint64_t rows_, cols_;
  std::vector<uint8_t> codes_, scales_;
};

}  // namespace quantloom
