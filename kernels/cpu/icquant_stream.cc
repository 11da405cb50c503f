#include "kernels/cpu/icquant_stream.h"

#include <bit>
#include <cstring>

#include "core/codec/code_packing.h"

namespace quantloom::cpu {
namespace {

static_assert(std::endian::native == std::endian::little, "bytes are handled eight in a word");

constexpr size_t kWords = kCodeBlockColumns / 8;
constexpr uint64_t kEveryByte = 0x0101010101010101;

// 64 bytes, eight in a word.
struct ByteLanes {
  uint64_t words[kWords] = {};
};

// The codes of a full block, one byte each.
ByteLanes UnpackBlock(const uint8_t* block, int bits) {
  ByteLanes codes;
  if (bits == 3) {
    const ByteLanes low = UnpackBlock(block, 2);
    const ByteLanes high = UnpackBlock(block + StridedBytes(2, kCodeBlockColumns), 1);
    for (size_t w = 0; w < kWords; ++w) codes.words[w] = low.words[w] | high.words[w] << 2;
    return codes;
  }
  const auto n = static_cast<size_t>(bits);  // words of the block; codes of a byte: 8 / n
  const uint64_t mask = kEveryByte * ((1u << bits) - 1);
  uint64_t packed[4];
  std::memcpy(packed, block, n * sizeof(uint64_t));
  for (size_t w = 0; w < kWords; ++w) codes.words[w] = packed[w % n] >> (w / n * n) & mask;
  return codes;
}

// Puts a step's codes in their places of the chunk's vectors.
void PlaceCodes(const ByteLanes& codes, int bits, size_t step, ByteLanes* vectors) {
  const size_t half = step % 2 * 4;
  const auto place = [&](size_t vector, size_t shift) {
    for (size_t w = 0; w < kWords; ++w) vectors[vector].words[w] |= codes.words[w] << shift;
  };
  switch (bits) {
    case 1:
      return place(0, half + step / 2);
    case 2:
      return place(step / 4, half + step % 4 / 2 * 2);
    case 3:
      if (step < 6) return place(step / 2, half);
      for (size_t b = 0; b < 3; ++b) {
        for (size_t w = 0; w < kWords; ++w) {
          vectors[b].words[w] |= (codes.words[w] >> b & kEveryByte) << (half + 3);
        }
      }
      return;
    default:
      return place(step / 2, half);
  }
}

// The flag bytes of a chunk: 8 presence bytes and those that are not zero, at `to`. Returns the
// end.
uint8_t* WriteFlags(const uint64_t* outliers, int bits, uint8_t* to) {
  uint8_t flags[kCodeBlockColumns] = {};
  uint64_t present = 0;
  for (size_t step = 0; step < kChunkSteps; ++step) {
    present |= outliers[step];
    const auto flag = static_cast<uint8_t>(1u << FlagBit(bits, static_cast<int>(step)));
    for (uint64_t left = outliers[step]; left != 0; left &= left - 1) {
      flags[std::countr_zero(left)] |= flag;
    }
  }
  std::memcpy(to, &present, sizeof(present));
  uint8_t* end = to + sizeof(present);
  for (uint64_t left = present; left != 0; left &= left - 1) {
    *end++ = flags[std::countr_zero(left)];
  }
  return end;
}

constexpr ExpandTable MakeExpandTable() {
  ExpandTable table = {};
  for (uint32_t bits = 0; bits < 256; ++bits) {
    uint8_t next = 0;
    for (uint32_t j = 0; j < 8; ++j) {
      table.shuffles[bits][j] = (bits >> j & 1) != 0 ? next++ : uint8_t{0x80};
    }
  }
  return table;
}

}  // namespace

constexpr ExpandTable kExpandTable = MakeExpandTable();

IcquantStream::IcquantStream(const IcquantMatrix& matrix)
    : steps_((matrix.cols() + kCodeBlockColumns - 1) / kCodeBlockColumns) {
  const size_t codes = steps_ * CodeBlockBytes(matrix.code_bits(), kCodeBlockColumns);
  // Outliers, seldom as many: half a bit a weight.
  const size_t map = matrix.has_outliers() ? chunks() * 36 + tail_steps() * 8 : 0;
  bytes_.reserve(matrix.rows() * (codes + map) + kOverread);
  begins_.reserve(matrix.rows() + 1);
  for (uint64_t row = 0; row < matrix.rows(); ++row) {
    begins_.push_back(bytes_.size());
    AppendRow(matrix, row);
  }
  begins_.push_back(bytes_.size());
  bytes_.resize(bytes_.size() + kOverread);
}

void IcquantStream::AppendRow(const IcquantMatrix& matrix, uint64_t row) {
  const int bits = matrix.code_bits();
  const size_t block_bytes = CodeBlockBytes(bits, kCodeBlockColumns);
  const uint8_t* codes = matrix.row_codes(row);
  std::vector<uint8_t> widened;
  if (const auto width = static_cast<uint32_t>(matrix.cols() % kCodeBlockColumns); width != 0) {
    widened.resize(steps_ * block_bytes);
    WidenRow(codes, bits, matrix.cols(), widened.data());
    codes = widened.data();
  }
  std::vector<uint64_t> outliers(steps_);
  if (matrix.has_outliers()) matrix.OutlierBitmap(row, 0, steps_, outliers.data());

  // At most so much; apart, so that nothing is written to where the rows go but them.
  std::vector<uint8_t> stream(steps_ * (block_bytes + kCodeBlockColumns / 8) + chunks() * 8);
  uint8_t* to = stream.data();
  size_t step = 0;
  for (; step + kChunkSteps <= steps_; step += kChunkSteps) {
    ByteLanes vectors[4];
    for (size_t s = 0; s < kChunkSteps; ++s) {
      PlaceCodes(UnpackBlock(codes + (step + s) * block_bytes, bits), bits, s, vectors);
    }
    std::memcpy(to, vectors, kChunkSteps * block_bytes);
    to += kChunkSteps * block_bytes;
    if (matrix.has_outliers()) to = WriteFlags(outliers.data() + step, bits, to);
  }
  for (; step < steps_; ++step) {
    std::memcpy(to, codes + step * block_bytes, block_bytes);
    to += block_bytes;
    if (!matrix.has_outliers()) continue;
    std::memcpy(to, &outliers[step], sizeof(uint64_t));
    to += sizeof(uint64_t);
  }
  bytes_.insert(bytes_.end(), stream.data(), to);
}

}  // namespace quantloom::cpu
