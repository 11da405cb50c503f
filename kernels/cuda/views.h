// What kernels read and write: plain pointers into device memory, with the shapes and orders of
// what is there.
//
// A product's unit is a tile of 16 rows by a panel of 128 columns: the A operands of a warp's
// matrix multiply-accumulates (mma.m16n8k32 for int8, m16n8k16 for fp16). Which column of a panel
// is which k of an instruction is free as long as both operands agree; here lane 4 g + t owns
// columns 32 t .. 32 t + 31 of rows g and g + 8 and of token g, in their order. So whatever codes
// lie next to each other in a row are decoded by one lane.
#pragma once

#include <cstddef>
#include <cstdint>
#include <variant>

#include "core/base/host_device.h"
#include "core/codec/trellis_code.h"

namespace quantloom::cuda {

// Columns of a panel: what shares one activation scale.
constexpr uint32_t kPanelColumns = 128;
// Columns that a lane owns of a panel.
constexpr uint32_t kLaneColumns = kPanelColumns / 4;
// Columns whose outliers are coded on their own (core/codec/gap_code.h).
constexpr uint32_t kSegmentColumns = 256;
constexpr uint32_t kTileRows = 16;
constexpr uint32_t kTokenTile = 8;

QL_HOST_DEVICE constexpr uint32_t DivideUp(uint32_t x, uint32_t y) { return (x + y - 1) / y; }

// --- Activations.

enum class ActivationForm : uint8_t { kInt8, kHalf };

QL_HOST_DEVICE constexpr uint32_t ActivationElementBytes(ActivationForm form) {
  return form == ActivationForm::kInt8 ? 1 : 2;
}
// A part is the 16 bytes of a panel that a lane loads at once: 16 or 8 of its columns.
QL_HOST_DEVICE constexpr uint32_t PartsOfPanel(ActivationForm form) {
  return kLaneColumns * ActivationElementBytes(form) / 16;
}

// Activation rows as products read them, in int8 or fp16, with a scale for each panel of each
// token: value = scale * element. Tokens are padded to a multiple of 8, columns to whole panels;
// padding is zero.
struct Activations {
  ActivationForm form;
  uint32_t tokens;
  uint32_t panels;
  // [token tiles, panels, parts, 32 lanes, 16 bytes]: a warp's load is contiguous. Column
  // 32 t + 16 part + i (fp16: 32 t + 8 part + i) of token g of the tile is element i of lane
  // 4 g + t.
  uint32_t* fragments;
  float* scales;  // [panels, tokens padded]
  float* totals;  // [tokens padded]: sum over columns of scale * element; null for kHalf
};

// --- Matrices. Rows are padded to whole tiles, columns to whole panels, by zeros.

// A matrix of fp16 elements; value = scale of the row * element.
struct HalfMatrixView {
  // [row tiles, panels, 8 steps, 32 lanes, 4]: of the lane's columns 4 step .. 4 step + 3, in pairs
  // from the low half: the first two of row g, of row g + 8, the last two of row g, of row g + 8.
  const uint32_t* fragments = nullptr;
  const float* scales = nullptr;  // [rows padded]: powers of two
  uint32_t rows = 0;
  uint32_t panels = 0;

  template <typename Function>
  void ForEachArray(Function f) {
    f(fragments);
    f(scales);
  }
};

// A matrix of int8 elements; value = scale of the row * element + offset of the row.
struct ByteMatrixView {
  // [row tiles, panels, 4 steps, 32 lanes, 4]: of the lane's columns 8 step .. 8 step + 7, from the
  // low byte: the first four of row g, of row g + 8, the last four of row g, of row g + 8.
  const uint32_t* fragments = nullptr;
  const float* scales = nullptr;   // [rows padded]
  const float* offsets = nullptr;  // [rows padded]
  uint32_t rows = 0;
  uint32_t panels = 0;

  template <typename Function>
  void ForEachArray(Function f) {
    f(fragments);
    f(scales);
    f(offsets);
  }
};

// Where word `word` of a lane's `words` words is stored, in words from the beginning of the block
// of 32 lanes: in parts of 4, then of 2, then of 1, of which each has the lanes' vectors side by
// side, so that a warp's loads are contiguous.
QL_HOST_DEVICE constexpr uint32_t LaneWordPlace(uint32_t words, uint32_t lane, uint32_t word) {
  const uint32_t fours = words / 4 * 4;
  const uint32_t part = word < fours ? 4 : (words % 4 >= 2 && word < fours + 2 ? 2 : 1);
  const uint32_t begin = word < fours ? word / 4 * 4 : (part == 2 ? fours : words - 1);
  return begin * 32 + lane * part + (word - begin);
}

// Words of ICQuant's codes of a lane and panel (icquant_image.h).
QL_HOST_DEVICE constexpr uint32_t PanelWords(int bits) { return 2 * static_cast<uint32_t>(bits); }
// Words of a byte of each of a row's levels.
QL_HOST_DEVICE constexpr uint32_t CentroidWords(int bits, bool outliers) {
  return DivideUp((outliers ? 2u : 1u) << bits, 4);
}

// A matrix of ICQuant's codes of 1 to 4 bits (icquant_image.h); value = scale of the row * level +
// offset of the row.
struct IcquantView {
  const uint32_t* codes = nullptr;
  const uint32_t* symbols = nullptr;       // null without outliers
  const uint32_t* first_symbol = nullptr;  // [row tiles, segments]; null without outliers
  const uint8_t* counts = nullptr;  // [row tiles, segments, 16 rows]: symbols of each row; or null
  // [rows padded or 1, level_bytes, CentroidWords]: int8; of fp16 first the low bytes, then the
  // high ones.
  const uint32_t* levels = nullptr;
  const float* scales = nullptr;   // [rows padded]
  const float* offsets = nullptr;  // [rows padded]; null with fp16
  uint32_t rows = 0;
  uint32_t panels = 0;
  uint32_t segments = 0;
  uint32_t symbol_bits = 0;
  uint32_t level_stride = 0;  // words from one row's table to the next; 0: one for all
  uint32_t level_bytes = 1;   // 1: int8; 2: fp16
  uint32_t bits = 0;          // 1 to 4

  template <typename Function>
  void ForEachArray(Function f) {
    f(codes);
    f(symbols);
    f(first_symbol);
    f(counts);
    f(levels);
    f(scales);
    f(offsets);
  }
};

// A matrix of QTIP's tiles (trellis_image.h); value = scale of the row * the state's value, which
// for 1MAD is its integer: scales include its unit.
struct TrellisView {
  const uint32_t* codes = nullptr;  // [row tiles, panels, 32 lanes, 2 K], LaneWordPlace
  const uint32_t* table = nullptr;  // HYB: its 512 pairs; else null
  const float* scales = nullptr;    // [rows padded]
  uint32_t rows = 0;
  uint32_t panels = 0;
  uint32_t half_bits = 0;  // 2 K: 2 to 8
  TrellisCode code = TrellisCode::kMul1;

  template <typename Function>
  void ForEachArray(Function f) {
    f(codes);
    f(table);
    f(scales);
  }
};

// Words of QuIP#'s codes of a lane and panel (e8p_image.h).
QL_HOST_DEVICE constexpr uint32_t E8pLaneWords(uint32_t bits) { return 2 * bits; }

// A matrix of QuIP#'s vectors; value = scale of the row * (first + second_unit * second), first the
// E8P vector's integers, in quarters, second the integers of the second stage.
struct E8pView {
  const uint32_t* codes = nullptr;      // [row tiles, panels, 32 lanes, words], LaneWordPlace
  const float* scales = nullptr;        // [rows padded]: include the quarter
  const uint32_t* selectors = nullptr;  // [256]: an entry's magnitudes and signs, a nibble each
  const uint32_t* one_bit = nullptr;    // [256, 2]: the 1-bit E8 codebook's integers, a byte each
  uint32_t rows = 0;
  uint32_t panels = 0;
  uint32_t bits = 0;  // 2 to 4
  float second_unit = 0;

  template <typename Function>
  void ForEachArray(Function f) {
    f(codes);
    f(scales);
    f(selectors);
    f(one_bit);
  }
};

using MatrixView = std::variant<HalfMatrixView, ByteMatrixView, IcquantView, TrellisView, E8pView>;

// The activations that a product with the matrix reads.
inline ActivationForm ActivationFormOf(const HalfMatrixView&) { return ActivationForm::kHalf; }
inline ActivationForm ActivationFormOf(const ByteMatrixView&) { return ActivationForm::kInt8; }
inline ActivationForm ActivationFormOf(const IcquantView& w) {
  return w.level_bytes == 1 ? ActivationForm::kInt8 : ActivationForm::kHalf;
}
inline ActivationForm ActivationFormOf(const E8pView&) { return ActivationForm::kInt8; }
inline ActivationForm ActivationFormOf(const TrellisView& w) {
  return w.code == TrellisCode::k1Mad || w.code == TrellisCode::kMul1 ? ActivationForm::kInt8
                                                                      : ActivationForm::kHalf;
}
inline ActivationForm ActivationFormOf(const MatrixView& matrix) {
  return std::visit([](const auto& view) { return ActivationFormOf(view); }, matrix);
}

}  // namespace quantloom::cuda
