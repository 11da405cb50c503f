#include "kernels/cpu/icquant_stream.h"

#include <bit>
#include <cstring>

#include "absl/types/span.h"
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

// A row's flags of a chunk.
struct Flags {
  uint64_t present = 0;
  uint8_t bytes[kCodeBlockColumns] = {};

  Flags(const uint64_t* outliers, int bits) {
    for (size_t step = 0; step < kChunkSteps; ++step) {
      present |= outliers[step];
      const auto flag = static_cast<uint8_t>(1u << FlagBit(bits, static_cast<int>(step)));
      for (uint64_t left = outliers[step]; left != 0; left &= left - 1) {
        bytes[std::countr_zero(left)] |= flag;
      }
    }
  }
};

// Makes pairs of a matrix's rows.
class PairWriter {
 public:
  PairWriter(const IcquantMatrix& matrix, size_t steps)
      : matrix_(matrix),
        steps_(steps),
        block_bytes_(CodeBlockBytes(matrix.code_bits(), kCodeBlockColumns)) {
    const size_t chunks = steps / kChunkSteps;
    // At most so much.
    pair_.resize(kPairRows *
                 (steps * (block_bytes_ + kCodeBlockColumns / 8) + chunks * sizeof(uint64_t)));
    for (Row& row : rows_) row.outliers.resize(steps);
    if (matrix.cols() % kCodeBlockColumns == 0) return;
    for (Row& row : rows_) row.widened.resize(steps * block_bytes_);
  }

  // The pair of rows that begins with row `row`, valid until the next one.
  absl::Span<const uint8_t> Make(uint64_t row) {
    for (Row& r : rows_) {
      Read(row, r);
      if (row + 1 < matrix_.rows()) ++row;
    }
    uint8_t* to = pair_.data();
    size_t step = 0;
    for (; step + kChunkSteps <= steps_; step += kChunkSteps) {
      for (const Row& r : rows_) to = WriteCodes(r, step, to);
      if (matrix_.has_outliers()) to = WriteFlags(step, to);
    }
    for (; step < steps_; ++step) {
      for (const Row& r : rows_) {
        to = Write(r.codes + step * block_bytes_, block_bytes_, to);
        if (matrix_.has_outliers()) to = Write(&r.outliers[step], sizeof(uint64_t), to);
      }
    }
    return {pair_.data(), static_cast<size_t>(to - pair_.data())};
  }

 private:
  // As it is stored, in whole blocks.
  struct Row {
    const uint8_t* codes;
    std::vector<uint8_t> widened;    // what `codes` points to where blocks are not whole
    std::vector<uint64_t> outliers;  // a step's in a word
  };

  void Read(uint64_t row, Row& r) const {
    r.codes = matrix_.row_codes(row);
    if (!r.widened.empty()) {
      WidenRow(r.codes, matrix_.code_bits(), matrix_.cols(), r.widened.data());
      r.codes = r.widened.data();
    }
    if (matrix_.has_outliers()) matrix_.OutlierBitmap(row, 0, steps_, r.outliers.data());
  }

  static uint8_t* Write(const void* from, size_t bytes, uint8_t* to) {
    std::memcpy(to, from, bytes);
    return to + bytes;
  }

  // A row's codes of a chunk.
  uint8_t* WriteCodes(const Row& r, size_t step, uint8_t* to) const {
    const int bits = matrix_.code_bits();
    ByteLanes vectors[4];
    for (size_t s = 0; s < kChunkSteps; ++s) {
      PlaceCodes(UnpackBlock(r.codes + (step + s) * block_bytes_, bits), bits, s, vectors);
    }
    return Write(vectors, kChunkSteps * block_bytes_, to);
  }

  // Both rows' flags of a chunk.
  uint8_t* WriteFlags(size_t step, uint8_t* to) const {
    const Flags flags[kPairRows] = {{rows_[0].outliers.data() + step, matrix_.code_bits()},
                                    {rows_[1].outliers.data() + step, matrix_.code_bits()}};
    for (const Flags& f : flags) to = Write(&f.present, sizeof(f.present), to);
    for (const Flags& f : flags) {
      for (uint64_t left = f.present; left != 0; left &= left - 1) {
        *to++ = f.bytes[std::countr_zero(left)];
      }
    }
    return to;
  }

  const IcquantMatrix& matrix_;
  const size_t steps_;
  const size_t block_bytes_;
  Row rows_[kPairRows];
  std::vector<uint8_t> pair_;
};

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
  const size_t pairs = (matrix.rows() + kPairRows - 1) / kPairRows;
  const size_t codes = steps_ * CodeBlockBytes(matrix.code_bits(), kCodeBlockColumns);
  // Outliers, seldom as many: half a bit a weight.
  const size_t map = matrix.has_outliers() ? chunks() * 36 + tail_steps() * 8 : 0;
  bytes_.reserve(pairs * kPairRows * (codes + map) + kOverread);
  begins_.reserve(pairs + 1);
  PairWriter writer(matrix, steps_);
  for (uint64_t row = 0; row < matrix.rows(); row += kPairRows) {
    begins_.push_back(bytes_.size());
    const absl::Span<const uint8_t> pair = writer.Make(row);
    bytes_.insert(bytes_.end(), pair.begin(), pair.end());
  }
  begins_.push_back(bytes_.size());
  bytes_.resize(bytes_.size() + kOverread);
}

}  // namespace quantloom::cpu
