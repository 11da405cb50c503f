#include "core/codec/code_packing.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace quantloom {
namespace {

TEST(CodePackingTest, PackCodes_TwoBitBlockHasTheDocumentedBytes) {
  std::vector<uint8_t> codes(64);
  for (uint32_t c = 0; c < 64; ++c) codes[c] = static_cast<uint8_t>((c * 7 + c / 5) % 4);
  std::vector<uint8_t> row(CodeRowBytes(2, 64));
  ASSERT_EQ(row.size(), 16u);
  PackCodes(codes.data(), 2, 64, row.data());
  for (uint32_t byte = 0; byte < 16; ++byte) {
    EXPECT_EQ(row[byte],
              codes[byte] | codes[byte + 16] << 2 | codes[byte + 32] << 4 | codes[byte + 48] << 6);
  }
}

TEST(CodePackingTest, PackCodes_ThreeBitsAreATwoBitAndAOneBitPart) {
  std::vector<uint8_t> codes(64);
  for (uint32_t c = 0; c < 64; ++c) codes[c] = static_cast<uint8_t>((c * 5 + c / 3) % 8);
  std::vector<uint8_t> row(CodeRowBytes(3, 64));
  ASSERT_EQ(row.size(), 24u);
  PackCodes(codes.data(), 3, 64, row.data());
  for (uint32_t c = 0; c < 64; ++c) {
    const uint32_t low = row[c % 16] >> (c / 16 * 2) & 3u;
    const uint32_t high = row[16 + c % 8] >> (c / 8) & 1u;
    EXPECT_EQ(low | high << 2, codes[c]) << c;
  }
}

TEST(CodePackingTest, CodeRowBytes_WastesNoMoreThanTheLastByteOfAPart) {
  for (uint64_t cols = 1; cols <= 300; ++cols) {
    for (const int bits : {1, 2, 4, 8}) {
      EXPECT_EQ(CodeRowBytes(bits, cols), (cols * static_cast<uint64_t>(bits) + 7) / 8);
    }
    EXPECT_LE(CodeRowBytes(3, cols), (cols * 3 + 7) / 8 + 1);
  }
}

TEST(CodePackingTest, RoundTrip_AnyWidth) {
  std::mt19937 random(2);
  for (const int bits : {1, 2, 3, 4, 8}) {
    for (uint64_t cols = 1; cols <= 200; ++cols) {
      std::vector<uint8_t> codes(cols);
      for (uint8_t& code : codes) code = static_cast<uint8_t>(random() & ((1u << bits) - 1));
      // One byte of guard: a row's packing must not touch its neighbour.
      std::vector<uint8_t> row(CodeRowBytes(bits, cols) + 1, 0xA5);
      PackCodes(codes.data(), bits, cols, row.data());
      EXPECT_EQ(row.back(), 0xA5);
      for (uint64_t c = 0; c < cols; ++c) {
        ASSERT_EQ(RowCode(row.data(), bits, cols, c), codes[c])
            << bits << " bits, " << cols << " columns, column " << c;
      }
    }
  }
}

}  // namespace
}  // namespace quantloom
