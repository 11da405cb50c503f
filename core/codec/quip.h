// QuIP# (arXiv 2402.04396): E8P lattice codebooks on an incoherent matrix, 8 weights of a row at a
// time. e8p.h is the quantizer, tile_code.h the rest; docs/tile-codecs.md the bytes.
//
// A tile is 1 x 8: the E8P code (16 bits, little-endian), then at 3 bits the second stage's 8 bits
// and at 4 bits its 16.
#pragma once

#include "core/codec/registry.h"

namespace quantloom {

CodecRegistration QuipRegistration();

}  // namespace quantloom
