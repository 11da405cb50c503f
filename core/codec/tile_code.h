// What `qtip` and `quip` have in common: a matrix is made incoherent, normalized by one scale, cut
// into tiles, and each tile is coded on its own by a vector quantizer, block of columns by block of
// columns under LDLQ. A TileCode is the vector quantizer; MakeTileCodec and OpenTiles
// (tile_matrix.h) do the rest.
//
// Planes:
//   codes  U8   [row tiles, column tiles, tile_bytes], zero-padded to a multiple of 64 bytes; tiles
//               past the matrix's edge are completed by values that nobody reads
//   scale  F32 [1] or BF16 [rows]  s: W~ = s * code values
//   with outlier coding also those of tile_outliers.h
//
// The resolved recipe holds what decoding needs besides: the kind of incoherence processing and the
// seeds of its signs.
//
// Thread-safety: TileCode is immutable.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/parallel.h"
#include "core/codec/codec.h"
#include "core/codec/recipe_options.h"
#include "core/codec/tile_outliers.h"
#include "core/transform/incoherence.h"

namespace quantloom {

// A column of tiles to be coded.
struct TileColumn {
  const float* targets;    // [columns, rows] in codebook units
  const uint8_t* ignored;  // [columns, rows], not 0 where the value does not matter; may be null
  uint64_t columns;        // at most TileCode::tile_cols()
  uint64_t rows;
  uint8_t* codes;  // tile i's bytes go to codes + i * stride
  uint64_t stride;
  float* decoded;  // [columns, rows] in codebook units: what the bytes stand for
};

class TileCode {
 public:
  virtual ~TileCode() = default;

  virtual uint64_t tile_rows() const = 0;
  virtual uint64_t tile_cols() const = 0;  // also the block of LDLQ: 8 or 16
  virtual uint64_t tile_bytes() const = 0;
  // Root mean square, in codebook units, that weights are scaled to before they are coded; the
  // encoder searches around it.
  virtual float input_rms(bool feedback) const = 0;

  // Deterministic. `search`, where it is not null, does a trellis code's search; errors are its
  // own.
  virtual absl::Status Encode(const TileColumn& column, TrellisSearch* search,
                              ThreadTeam& team) const = 0;
  // Writes a tile's values, row-major [tile_rows, tile_cols]. Any bytes are valid.
  virtual void Decode(const uint8_t* code, float* values) const = 0;
};

// How many scales W~ has: one, or one for each row at 16 bits a row.
enum class TileScales : uint8_t { kTensor, kRow };

// The options that the codecs share.
struct TileOptions {
  IncoherenceOptions incoherence;  // seeds: resolved recipes only
  bool ldlq = true;
  TileScales scales = TileScales::kTensor;
  TileOutlierOptions outliers;

  // Takes the options that all tile codecs have out of `recipe` (incoherence, hadamard, rounding,
  // scales; input_signs and output_signs); `defaults` has the rest. INVALID_ARGUMENT naming key and
  // allowed values.
  static absl::StatusOr<TileOptions> TakeFrom(Recipe& recipe, TileOptions defaults);
  // Adds them. Seeds only when `resolved`.
  void AddTo(Recipe& recipe, bool resolved) const;
};

// The documentation of the keys that TakeFrom takes, for CodecInfo.
std::vector<std::pair<std::string, std::string>> TileOptionDescriptions();

// The codec that encodes with `code`. `own` holds the codec's name and its own options;
// TileOptions' are added to it.
std::unique_ptr<Codec> MakeTileCodec(std::unique_ptr<const TileCode> code,
                                     const TileOptions& options, Recipe own);

}  // namespace quantloom
