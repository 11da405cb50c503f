#include "core/codec/gap_code.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>
#include <vector>

namespace quantloom {
namespace {

std::vector<uint32_t> DecodeSegment(const std::vector<uint8_t>& stream, int index_bits,
                                    uint64_t first, uint32_t count) {
  std::vector<uint32_t> columns;
  ForEachSegmentOutlier(stream.data(), index_bits, first, count,
                        [&](uint32_t column, uint32_t symbol) {
                          EXPECT_LT(symbol, count);
                          columns.push_back(column);
                        });
  return columns;
}

// Symbols written out by hand: B = 3, escape "advance 7".
TEST(GapCodeTest, WriteSegment_WritesTheDocumentedBits) {
  // Gaps 1, 7, 8, 15: literals 1, 7; escape + 1; escape, escape + 1. 0-based columns 0, 7, 15, 30.
  const std::vector<uint32_t> columns = {0, 7, 15, 30};
  ASSERT_EQ(SegmentSymbols(columns, 3), 7u);
  std::vector<uint8_t> stream(3);
  WriteSegment(columns, 3, 0, stream.data());
  // Symbols 1 7 0 1 0 0 1, lowest bits first: 001 | 111 | 000 | 001 | 000 | 000 | 001.
  const uint32_t bits = 1u | 7u << 3 | 0u << 6 | 1u << 9 | 1u << 18;
  EXPECT_EQ(stream[0], bits & 0xFF);
  EXPECT_EQ(stream[1], bits >> 8 & 0xFF);
  EXPECT_EQ(stream[2], bits >> 16 & 0xFF);
}

TEST(GapCodeTest, RoundTrip_AnyPositionsAndWidth) {
  std::mt19937 random(1);
  for (int index_bits = kMinIndexBits; index_bits <= kMaxIndexBits; ++index_bits) {
    for (int trial = 0; trial < 300; ++trial) {
      std::set<uint32_t> chosen;
      const uint32_t count = random() % (trial % 3 == 0 ? 256 : 20);
      while (chosen.size() < count) chosen.insert(random() % kGapSegmentColumns);
      const std::vector<uint32_t> columns(chosen.begin(), chosen.end());
      const uint32_t symbols = SegmentSymbols(columns, index_bits);
      ASSERT_LE(symbols, 255u);
      const uint64_t first = random() % 50;
      std::vector<uint8_t> stream(((first + symbols) * static_cast<uint64_t>(index_bits) + 7) / 8);
      WriteSegment(columns, index_bits, first, stream.data());
      EXPECT_EQ(DecodeSegment(stream, index_bits, first, symbols), columns);
      uint32_t outliers = 0;
      EXPECT_TRUE(
          CheckSegment(stream.data(), index_bits, first, symbols, kGapSegmentColumns, &outliers));
      EXPECT_EQ(outliers, columns.size());
    }
  }
}

TEST(GapCodeTest, RoundTrip_MostOutliersOfASegmentFitTheCount) {
  std::vector<uint32_t> columns;
  for (uint32_t c = 1; c < kGapSegmentColumns; ++c) columns.push_back(c);
  ASSERT_EQ(columns.size(), kMaxSegmentOutliers);
  for (int index_bits = kMinIndexBits; index_bits <= kMaxIndexBits; ++index_bits) {
    EXPECT_EQ(SegmentSymbols(columns, index_bits), 255u);
  }
}

TEST(GapCodeTest, CheckSegment_RejectsGapPastLastColumn) {
  const std::vector<uint32_t> columns = {3, 99};
  std::vector<uint8_t> stream(8);
  WriteSegment(columns, 4, 0, stream.data());
  const uint32_t symbols = SegmentSymbols(columns, 4);
  uint32_t outliers = 0;
  EXPECT_TRUE(CheckSegment(stream.data(), 4, 0, symbols, 100, &outliers));
  EXPECT_FALSE(CheckSegment(stream.data(), 4, 0, symbols, 99, &outliers));
}

TEST(GapCodeTest, CheckSegment_RejectsTrailingEscape) {
  const std::vector<uint8_t> stream = {0x01};  // literal 1, escape
  uint32_t outliers = 0;
  EXPECT_TRUE(CheckSegment(stream.data(), 4, 0, 1, 256, &outliers));
  EXPECT_FALSE(CheckSegment(stream.data(), 4, 0, 2, 256, &outliers));
}

// Bits per column of random positions, exactly `per_row` in each of many rows.
double StreamBits(uint32_t cols, uint32_t per_row, int index_bits) {
  std::mt19937 random(cols);
  constexpr int kRows = 4000;
  uint64_t symbols = 0;
  for (int row = 0; row < kRows; ++row) {
    std::set<uint32_t> chosen;
    while (chosen.size() < per_row) chosen.insert(random() % cols);
    std::vector<uint32_t> segment;
    for (uint32_t begin = 0; begin < cols; begin += kGapSegmentColumns) {
      segment.clear();
      for (auto c = chosen.lower_bound(begin); c != chosen.end() && *c < begin + kGapSegmentColumns;
           ++c) {
        segment.push_back(*c - begin);
      }
      symbols += SegmentSymbols(segment, index_bits);
    }
  }
  return static_cast<double>(symbols) * index_bits / (static_cast<double>(kRows) * cols);
}

// gamma B (1 + 1 / (e^{gamma (2^B - 1)} - 1)), arXiv 2505.00850.
double Formula(double gamma, int index_bits) {
  return gamma * index_bits * (1 + 1 / std::expm1(gamma * ((1 << index_bits) - 1)));
}

TEST(GapCodeTest, StreamSize_MatchesThePapersFormulaWithinTwoPercent) {
  EXPECT_NEAR(Formula(0.05, 6), 0.313, 0.0005);  // the paper's own figure
  for (const uint32_t cols : {576u, 1536u, 4096u}) {
    const uint32_t per_row = static_cast<uint32_t>(0.05 * cols + 0.5);
    const double gamma = static_cast<double>(per_row) / cols;
    const double bits = StreamBits(cols, per_row, 6);
    EXPECT_NEAR(bits / Formula(gamma, 6), 1.0, 0.02) << cols << " columns: " << bits;
  }
}

// Other widths: never above the formula (restarting at a segment only saves escapes).
TEST(GapCodeTest, StreamSize_IsAtMostTheFormulaAtAnyWidth) {
  for (const uint32_t cols : {576u, 4096u}) {
    const uint32_t per_row = static_cast<uint32_t>(0.05 * cols + 0.5);
    const double gamma = static_cast<double>(per_row) / cols;
    for (int index_bits = 4; index_bits <= kMaxIndexBits; ++index_bits) {
      const double bits = StreamBits(cols, per_row, index_bits);
      EXPECT_LT(bits, Formula(gamma, index_bits) * 1.005) << cols << ", B = " << index_bits;
    }
  }
}

}  // namespace
}  // namespace quantloom
