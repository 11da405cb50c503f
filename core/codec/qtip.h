// QTIP (arXiv 2406.11235): trellis-coded quantization of an incoherent matrix in tiles of 16 x 16
// weights. trellis.h is the quantizer of a tile, tile_code.h the rest; docs/tile-codecs.md the
// bytes.
//
// Tile (R, C) holds rows 16 R .. and columns 16 C ..; weight t of its sequence is the one of row
// t / 16 and column t % 16 of the tile.
#pragma once

#include "core/codec/registry.h"

namespace quantloom {

CodecRegistration QtipRegistration();

}  // namespace quantloom
