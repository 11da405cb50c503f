// The tile code of trellis-coded quantization: 16 x 16 weights of a matrix are one tail-biting
// sequence (trellis.h).
//
// Tile (R, C) holds rows 16 R .. and columns 16 C ..; weight t of its sequence is the one of row
// t / 16 and column t % 16 of the tile.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/codec/codec.h"
#include "core/codec/tile_code.h"
#include "core/codec/trellis.h"

namespace quantloom {

std::unique_ptr<const TileCode> MakeTrellisTiles(const TrellisFormat& format);
// The format of such a code; null for another's.
const TrellisFormat* TrellisFormatOf(const TileCode& code);

// Takes keys bits (default 2) and code (default mul1) out of `recipe`. INVALID_ARGUMENT naming key
// and allowed values.
absl::StatusOr<TrellisFormat> TakeTrellisFormat(Recipe& recipe);
// Adds them.
void AddTrellisFormat(const TrellisFormat& format, Recipe& recipe);
// Their documentation, for CodecInfo.
std::vector<std::pair<std::string, std::string>> TrellisOptionDescriptions();

}  // namespace quantloom
