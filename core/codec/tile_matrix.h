// A stored matrix of a tile code (tile_code.h describes its planes).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/codec/codec.h"
#include "core/codec/tile_code.h"
#include "core/codec/tile_outliers.h"
#include "core/transform/incoherence.h"

namespace quantloom {

// Where a matrix's tiles are.
struct TileGrid {
  TileGrid(const TileCode& code, uint64_t rows, uint64_t cols);

  uint64_t offset(uint64_t row_tile, uint64_t col_tile) const {
    return (row_tile * col_tiles + col_tile) * tile_bytes;
  }
  uint64_t bytes() const { return row_tiles * col_tiles * tile_bytes; }

  uint64_t row_tiles, col_tiles, tile_bytes;
};

class TileMatrix final : public PackedMatrix {
 public:
  TileMatrix(std::unique_ptr<const TileCode> code, const TileOptions& options, std::string recipe,
             uint64_t rows, uint64_t cols);

  // Takes and checks the planes; errors are OpenMatrix's.
  absl::Status SetPlanes(absl::Span<const PlaneView> planes);

  // --- What kernels build on: value = scale(row) * the tile's value, outliers aside.
  const TileCode& code() const { return *code_; }
  const TileGrid& grid() const { return grid_; }
  const uint8_t* tile(uint64_t row_tile, uint64_t col_tile) const {
    return codes_ + grid_.offset(row_tile, col_tile);
  }
  float scale(uint64_t row) const { return scales_.size() == 1 ? scales_[0] : scales_[row]; }
  bool has_outliers() const { return outliers_.has_value(); }

  const Incoherence* incoherence() const override {
    return incoherence_.options().kind == IncoherenceKind::kNone ? nullptr : &incoherence_;
  }
  void DecodeTile(uint64_t row, uint64_t rows, uint64_t col, uint64_t cols, float* out,
                  uint64_t stride) const override;
  BitBreakdown bits() const override { return bits_; }

 private:
  std::unique_ptr<const TileCode> code_;
  TileGrid grid_;
  TileOptions options_;
  Incoherence incoherence_;
  std::vector<float> scales_;  // [rows] or [1]
  std::optional<StoredTileOutliers> outliers_;
  const uint8_t* codes_ = nullptr;
  BitBreakdown bits_;
};

// Opens a stored matrix. `recipe` is the whole resolved recipe. Errors are OpenMatrix's.
absl::StatusOr<std::unique_ptr<PackedMatrix>> OpenTiles(std::unique_ptr<const TileCode> code,
                                                        const TileOptions& options,
                                                        const Recipe& recipe, uint64_t rows,
                                                        uint64_t cols,
                                                        absl::Span<const PlaneView> planes);

}  // namespace quantloom
