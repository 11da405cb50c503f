// The tile code of QuIP#'s lattice codebooks: 8 weights of a row (e8p.h).
//
// A tile is 1 x 8: the E8P code (16 bits, little-endian), then at 3 bits the second stage's 8 bits
// and at 4 bits its 16.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "core/codec/codec.h"
#include "core/codec/e8p.h"
#include "core/codec/tile_code.h"

namespace quantloom {

std::unique_ptr<const TileCode> MakeE8pTiles(const E8pRate& rate);
// The rate of such a code; null for another's.
const E8pRate* E8pRateOf(const TileCode& code);

// Takes key bits (2, 3 or 4; default 2) out of `recipe`. INVALID_ARGUMENT naming key and allowed
// values.
absl::StatusOr<E8pRate> TakeE8pRate(Recipe& recipe);
// Adds it.
void AddE8pRate(const E8pRate& rate, Recipe& recipe);

}  // namespace quantloom
