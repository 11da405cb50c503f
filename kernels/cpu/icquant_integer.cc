// ICQuant with 8-bit centroids: codes become int8 centroids in registers and are multiplied there.
#include "kernels/cpu/icquant_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/icquant_integer.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/byte_product-inl.h"
#include "kernels/cpu/icquant_stream-inl.h"
#include "kernels/cpu/lanes-inl.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

// Steps of a group: activations of 4 and 8 bits' products have a scale for 16 columns, others for
// 32 (BestActivationForm).
template <int kBits>
constexpr size_t kGroupStepsOf = kBits <= kMaxWideBits ? Activations::kWideGroupSteps : kGroupSteps;

// T rows of codes, from `token` of the range's on (whose tokens are rows of codes): what products
// read of them, and where their outputs go.
template <size_t T, size_t kSteps>
struct CodeTile {
  HWY_INLINE CodeTile(const Activations& x, const ProductRange& range, size_t token)
      : input(x, range.first_token + token) {
    const auto first = static_cast<ptrdiff_t>(x.token_of(range.first_token));
#pragma GCC unroll 8
    for (size_t t = 0; t < T; ++t) {
      const size_t i = range.first_token + token + t;
      totals[t] = x.total(i);
      y[t] = range.y +
             (static_cast<ptrdiff_t>(x.token_of(i)) - first) * static_cast<ptrdiff_t>(range.stride);
      adds[t] = i >= x.tokens();
    }
  }

  TokenTile<T, kSteps> input;
  float totals[T];
  float* y[T];   // of row 0
  bool adds[T];  // what other codes of the token left: added to their products
};

// Scales R rows' sums and writes them.
template <size_t R, size_t T, size_t kSteps>
HWY_INLINE void StoreRows(const IcquantView& view, const CodeTile<T, kSteps>& tile, size_t row,
                          const float (&sums)[T][R]) {
  const hn::CappedTag<float, R> d;
  const float* const scales = view.scales + row;
  const float* const offsets = view.offsets == nullptr ? nullptr : view.offsets + row;
#pragma GCC unroll 8
  for (size_t r = 0; r < R; r += hn::MaxLanes(d)) {
    const auto scale = hn::LoadU(d, scales + r);
#pragma GCC unroll 8
    for (size_t t = 0; t < T; ++t) {
      auto y = hn::Mul(scale, hn::LoadU(d, sums[t] + r));
      if (offsets != nullptr) y = Fma(hn::LoadU(d, offsets + r), hn::Set(d, tile.totals[t]), y);
      float* const to = tile.y[t] + row + r;
      if (tile.adds[t]) y = hn::Add(hn::LoadU(d, to), y);
      hn::StoreU(y, d, to);
    }
  }
}

// The same of those of the rows that the range has.
template <size_t R, size_t T, size_t kSteps>
HWY_INLINE void StoreTile(const IcquantView& view, const CodeTile<T, kSteps>& tile,
                          const ProductRange& range, size_t row, const float (&sums)[T][R]) {
  if (HWY_LIKELY(row >= range.row_begin && row + R <= range.row_end)) {
    return StoreRows(view, tile, row, sums);
  }
  for (size_t r = 0; r < R; ++r) {
    if (row + r < range.row_begin || row + r >= range.row_end) continue;
    float of_row[T][1];
    for (size_t t = 0; t < T; ++t) of_row[t][0] = sums[t][r];
    StoreRows(view, tile, row + r, of_row);
  }
}

// --- Rows of a stream, decoded in registers.

// Rows of a pair that are multiplied together and share loads of activations; registers of 256 bits
// are too few for two.
#if QUANTLOOM_X86_512
constexpr size_t kTogether = kPairRows;
#else
constexpr size_t kTogether = 1;
#endif
constexpr size_t kParts = kPairRows / kTogether;  // of a pair

template <int kBits, bool kOutliers>
using Levels = LevelTable<kBits + kOutliers>;

// The levels of row `row`, or of the last one.
template <int kBits, bool kOutliers>
HWY_INLINE Levels<kBits, kOutliers> RowLevels(const IcquantView& view, size_t row) {
  const size_t last = view.matrix->rows() - 1;
  return LoadLevels<kBits + kOutliers>(view.matrix->centroids(HWY_MIN(row, last)));
}

// A chunk of a pair of rows, and where the stream goes on behind it.
template <int kBits, bool kOutliers>
struct PairChunk {
  Chunk<kBits, kOutliers> parts[kParts][kTogether];
  const uint8_t* codes;
  const uint8_t* end;

  HWY_INLINE Chunk<kBits, kOutliers>& row(size_t r) { return parts[r / kTogether][r % kTogether]; }

  // Reads the maps alone: the codes need no decoding that would delay their use.
  HWY_INLINE void Open(const uint8_t* begin) {
    codes = begin;
    end = begin + kPairRows * kBits * kStep;
    if constexpr (kOutliers) {
      uint64_t present[kPairRows];
      hwy::CopyBytes<sizeof(present)>(end, present);
      end += sizeof(present);
#pragma GCC unroll 2
      for (size_t r = 0; r < kPairRows; ++r) row(r).flags = ReadFlags(present[r], end);
    }
  }
  HWY_INLINE void LoadCodes() {
#pragma GCC unroll 2
    for (size_t r = 0; r < kPairRows; ++r) row(r).LoadCodes(codes + r * kBits * kStep);
  }
};

// Steps kAt .. kEnd - 1 of a chunk, which are of one group.
template <int kAt, int kEnd, int kBits, bool kOutliers, size_t R, size_t T, size_t kSteps>
HWY_INLINE void MultiplySteps(const Chunk<kBits, kOutliers> (&rows)[R],
                              const Levels<kBits, kOutliers> (&levels)[R],
                              const TokenTile<T, kSteps>& x, size_t group, Sums16 (&blocks)[R][T]) {
  Bytes64 tokens[T];
#pragma GCC unroll 8
  for (size_t t = 0; t < T; ++t) {
    tokens[t] = x.Step(t, group, kAt % kSteps);
    if constexpr (R > 1) KeepInRegister(tokens[t]);
  }
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) {
    const Bytes64 weights = LookUp(levels[r], rows[r].template Indices<kAt>());
#pragma GCC unroll 8
    for (size_t t = 0; t < T; ++t) blocks[r][t] = Dot(blocks[r][t], weights, tokens[t]);
  }
  if constexpr (kAt + 1 < kEnd) MultiplySteps<kAt + 1, kEnd>(rows, levels, x, group, blocks);
}

// A chunk's groups from step kAt of it on.
template <int kAt = 0, int kBits, bool kOutliers, size_t R, size_t T, size_t kSteps>
HWY_INLINE void MultiplyChunk(const Chunk<kBits, kOutliers> (&rows)[R],
                              const Levels<kBits, kOutliers> (&levels)[R],
                              const TokenTile<T, kSteps>& x, size_t chunk, Lanes (&sums)[R][T]) {
  Sums16 blocks[R][T];
  const size_t group = (chunk * kChunkSteps + kAt) / kSteps;
  StartBlocks(x, group, blocks);
  MultiplySteps<kAt, kAt + kSteps>(rows, levels, x, group, blocks);
  AddBlocks(x, group, blocks, sums);
  if constexpr (kAt + kSteps < kChunkSteps) {
    MultiplyChunk<kAt + kSteps>(rows, levels, x, chunk, sums);
  }
}

// A part's steps behind its last chunk, `first` and those that follow, as the weights of a product.
template <int kBits, bool kOutliers>
struct TailRows {
  static constexpr size_t kRowBytes = TailStepBytes<kBits, kOutliers>();
  static constexpr size_t kPairBytes = kPairRows * kRowBytes;

  const uint8_t* steps;
  size_t first;
  const Levels<kBits, kOutliers>* levels;  // of the part's rows
  HWY_INLINE TailRows From(size_t step) const {
    return {steps + (step - first) * kPairBytes, first, levels};
  }
  HWY_INLINE Bytes64 Step(size_t s, size_t r) const {
    return LookUp(levels[r], TailIndices<kBits, kOutliers>(steps + s * kPairBytes + r * kRowBytes));
  }
};

// How far ahead memory is asked for. Hardware prefetchers stop at every 4 KB page: without, up to a
// third slower from memory. Half as far is a tenth slower where a processor has a memory channel of
// its own, equal where several share it.
constexpr size_t kPrefetchBytes = 8192;

// Touches the cache lines of [from, from + bytes). Addresses past the stream are harmless.
HWY_INLINE void PrefetchLines(const uint8_t* from, size_t bytes) {
#pragma GCC unroll 16
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i);
}

// Consecutive pairs of rows times T tokens, one pair at a time, so that memory is read in one
// sweep. Rows of several places would share loads of activations as well; but four such streams get
// a third of the bandwidth, and two begin twice as often where nothing was asked for ahead (rows of
// 576: a fifth slower).
template <int kBits, bool kOutliers, size_t T>
class StreamPairs {
 public:
  static constexpr size_t kSteps = kGroupStepsOf<kBits>;
  using Tokens = TokenTile<T, kSteps>;

  HWY_INLINE StreamPairs(const IcquantView& view, const Tokens& x, size_t row)
      : view_(view), x_(x), row_(row) {
    PrefetchLines(view.stream->pair(row), kPrefetchBytes);
    next_.Open(view.stream->pair(row));
  }

  // The sums of the next pair.
  HWY_INLINE void Next(Lanes (*out)[T]) {
    const size_t chunks = view_.stream->chunks();
    Levels<kBits, kOutliers> levels[kParts][kTogether];
    Lanes sums[kParts][kTogether][T];
#pragma GCC unroll 2
    for (size_t part = 0; part < kParts; ++part) {
#pragma GCC unroll 2
      for (size_t r = 0; r < kTogether; ++r) {
        levels[part][r] = RowLevels<kBits, kOutliers>(view_, row_ + part * kTogether + r);
      }
      ZeroTile(sums[part]);
    }
    const uint8_t* tail = view_.stream->pair(row_);
    for (size_t chunk = 0; chunk < chunks; ++chunk) {
      PairChunk<kBits, kOutliers> pair = next_;
      tail = pair.end;
      // One chunk ahead: a map takes longer to decode than a chunk to multiply.
      next_.Open(chunk + 1 < chunks ? pair.end : view_.stream->pair(row_ + kPairRows));
      pair.LoadCodes();
      PrefetchLines(pair.codes + kPrefetchBytes, kPairRows * (kBits + kOutliers) * kStep);
#pragma GCC unroll 2
      for (size_t part = 0; part < kParts; ++part) {
        MultiplyChunk(pair.parts[part], levels[part], x_, chunk, sums[part]);
      }
    }
    using Tail = TailRows<kBits, kOutliers>;
    const size_t first = chunks * kChunkSteps;
#pragma GCC unroll 2
    for (size_t part = 0; part < kParts; ++part) {
      const Tail rows = {tail + part * kTogether * Tail::kRowBytes, first, levels[part]};
      ByteGroups<kTogether, T>(rows, x_, first / kSteps, view_.steps, sums[part]);
#pragma GCC unroll 2
      for (size_t r = 0; r < kTogether; ++r) {
#pragma GCC unroll 8
        for (size_t t = 0; t < T; ++t) out[part * kTogether + r][t] = sums[part][r][t];
      }
    }
    row_ += kPairRows;
  }

 private:
  const IcquantView& view_;
  const Tokens& x_;
  size_t row_;
  PairChunk<kBits, kOutliers> next_;
};

// Rows [row, row_end) of the range, kRows at a time.
template <int kBits, bool kOutliers, size_t kRows, size_t T>
HWY_INLINE void MultiplyRows(const IcquantView& view, const CodeTile<T, kGroupStepsOf<kBits>>& tile,
                             const ProductRange& range, size_t row, size_t row_end) {
  StreamPairs<kBits, kOutliers, T> stream(view, tile.input, row);
  for (; row < row_end; row += kRows) {
    Lanes lanes[kRows][T];
    for (size_t r = 0; r < kRows; r += kPairRows) stream.Next(lanes + r);
    float sums[T][kRows];
    ReduceTile<kRows, T>(lanes, sums);
    StoreTile(view, tile, range, row, sums);
  }
}

template <int kBits, bool kOutliers, size_t T>
HWY_NOINLINE void MultiplyStream(const IcquantView& view, const Activations& x,
                                 const ProductRange& range, size_t token) {
  constexpr size_t kRows = 4;
  const CodeTile<T, kGroupStepsOf<kBits>> tile(x, range, token);
  const size_t begin = range.row_begin / kPairRows * kPairRows;
  const size_t middle = begin + (range.row_end - begin) / kRows * kRows;
  MultiplyRows<kBits, kOutliers, kRows, T>(view, tile, range, begin, middle);
  if (middle == range.row_end) return;
  MultiplyRows<kBits, kOutliers, kPairRows, T>(view, tile, range, middle, range.row_end);
}

// Up to so many tokens, rows are decoded for two tokens at a time rather than to memory once.
#if QUANTLOOM_X86_512
constexpr size_t kStreamTokens = 4;
#else
constexpr size_t kStreamTokens = 1;
#endif

template <int kBits, bool kOutliers>
HWY_INLINE void MultiplyFewTokens(const IcquantView& view, const Activations& x,
                                  const ProductRange& range) {
  size_t t = 0;
  if constexpr (kStreamTokens > 1) {
    for (; t + 2 <= range.tokens; t += 2) MultiplyStream<kBits, kOutliers, 2>(view, x, range, t);
  }
  if (t < range.tokens) MultiplyStream<kBits, kOutliers, 1>(view, x, range, t);
}

// --- Several tokens: blocks of columns, so that what a tile reads again lies in the first cache.
//
// What a group of 4 steps (256 columns) of a tile of 4 rows x 3 tokens takes on AVX3_DL, 3,072
// products:
//   vpdpbusd       48   pipes 0, 1; 512-bit instructions take both: one a cycle
//   fma            12   pipes 0, 1
//   cvt            12   pipes 2, 3
//   vector loads   34   one a cycle: 16 of weights, 12 of codes, 3 of scales, 3 of biases
// 60 cycles at least, 80 % of the int8 peak; 62.5 to 64 measured from the first two caches (Zen 4),
// 76 % of the peak. A group of 8 steps takes 108 for twice the products, 89 % of the peak: a tenth
// more tokens a second in prompts and in batches of 8 (Zen 5). Zen 5 executes two of each a cycle:
// 30 for 4 steps at least, 32 measured in the loop over groups, and then what surrounds it counts:
// with the sums' way out (about 45 cycles a tile), the decoding (7 % for 64 tokens) and whatever
// the second cache makes it wait, 62 % of the peak. Longer tiles (8 x 3, 6 x 4) with their lanes in
// memory are no faster on either. For 8 tokens decoding is another quarter of the time, since it is
// shared by few.

// Columns of a block: 3 tokens of 2048 columns with their scales and biases are 9 KB. Whole chunks
// of a stream.
constexpr size_t kBlockSteps = 32;
static_assert(kBlockSteps % kChunkSteps == 0 && kChunkSteps % Activations::kWideGroupSteps == 0);
// The last one may be half as large again: a small one would cost as much as it saves.
constexpr size_t kMaxBlockSteps = kBlockSteps * 3 / 2;

// Row tiles of a block, which share an activation tile's way from the second cache to the first:
// two of 2048 columns are 16 KB, four of 1536 or less 24 KB at most.
constexpr size_t kWideTiles = 2, kNarrowTiles = 4;
constexpr size_t kNarrowSteps = 24;
constexpr size_t kScratchRowBytes = kWideTiles * kByteRows * kMaxBlockSteps * kStep;
static_assert(kNarrowTiles * kNarrowSteps <= kWideTiles * kMaxBlockSteps);

// body.operator()<R>(row, tiles) for blocks of `tiles` tiles of R rows, from `row` on, that make
// the range, whose ends need not be multiples of the smallest tile's kUnit rows.
template <size_t kUnit, class Body>
HWY_INLINE void ForRowBlocks(const ProductRange& range, size_t steps, const Body& body) {
  const size_t most = steps <= kNarrowSteps ? kNarrowTiles : kWideTiles;
  size_t row = range.row_begin / kUnit * kUnit;
  while (row + kByteRows <= range.row_end) {
    const size_t tiles = HWY_MIN(most, (range.row_end - row) / kByteRows);
    body.template operator()<kByteRows>(row, tiles);
    row += tiles * kByteRows;
  }
  for (; row < range.row_end; row += kUnit) body.template operator()<kUnit>(row, 1);
}

// body(block) for blocks in ascending order that make rows of `steps` steps.
template <class Body>
HWY_INLINE void ForColumnBlocks(size_t steps, const Body& body) {
  size_t first = 0;
  for (; steps - first > kMaxBlockSteps; first += kBlockSteps) {
    body(ColumnBlock{first, first + kBlockSteps});
  }
  body(ColumnBlock{first, steps});
}

// Memory of coming weights, asked for in small portions while others are multiplied.
class Prefetch {
 public:
  // [begin, end) in about `portions` of them.
  HWY_INLINE Prefetch(const uint8_t* begin, const uint8_t* end, size_t portions)
      : next_(begin), end_(end) {
    const size_t lines = (static_cast<size_t>(end - begin) + kLine - 1) / kLine;
    portion_ = (lines + portions - 1) / portions * kLine;
  }
  HWY_INLINE void Next() {
    const uint8_t* const stop = HWY_MIN(next_ + portion_, end_);
    for (; next_ < stop; next_ += kLine) __builtin_prefetch(next_, 0, /*locality: L2*/ 2);
  }

 private:
  static constexpr size_t kLine = 64;

  const uint8_t* next_;
  const uint8_t* end_;
  size_t portion_;  // a multiple of kLine
};

// `tiles` tiles of R rows, from `row` on, times T rows of codes. `kept` keeps the sums between
// blocks, [tiles, R, T, 16 lanes].
template <size_t kSteps, size_t R, size_t T, class Source>
HWY_NOINLINE void MultiplyTiles(const IcquantView& view, const Activations& x,
                                const ProductRange& range, const Source rows, size_t row,
                                size_t tiles, size_t token, const ColumnBlock block, float* kept) {
  const CodeTile<T, kSteps> tokens(x, range, token);
  const bool last = block.end == view.steps;
  for (size_t i = 0; i < tiles; ++i, row += R, kept += R * T * kLanes) {
    Lanes tile[R][T];
    if (block.first == 0) {
      ZeroTile(tile);
    } else {
      LoadTile(kept, tile);
    }
    ByteGroups<R, T>(rows.Tile(i * R), tokens.input, block.first / kSteps, block.end, tile);
    if (last) {
      float sums[T][R];
      ReduceTile<R, T>(tile, sums);
      StoreTile(view, tokens, range, row, sums);
    } else {
      KeepTile(tile, kept);
    }
  }
}

// The same times all tokens. `lanes` keeps the sums between blocks, [tokens, tiles, R, 16 lanes].
template <size_t kSteps, size_t R, class Source>
HWY_NOINLINE void MultiplyBlock(const IcquantView& view, const Activations& x,
                                const ProductRange& range, size_t row, size_t tiles,
                                const Source& rows, const ColumnBlock& block, Prefetch prefetch,
                                float* lanes) {
  ForTokenTiles(range.tokens, [&]<size_t T>(size_t t) HWY_ATTR {
    prefetch.Next();
    MultiplyTiles<kSteps, R, T>(view, x, range, rows, row, tiles, t, block,
                                lanes + t * tiles * R * kLanes);
  });
}

// The part of [begin, end) that is to be asked for while `block` is multiplied, [begin, end) being
// rows as wide as the block's.
HWY_INLINE Prefetch PrefetchDuring(const ColumnBlock& block, size_t steps, size_t tokens,
                                   const uint8_t* begin, const uint8_t* end) {
  const auto bytes = static_cast<size_t>(end - begin);
  return Prefetch(begin + bytes * block.first / steps, begin + bytes * block.end / steps,
                  (tokens + kByteTokens - 1) / kByteTokens);
}

// --- Rows decoded to memory once for many tokens.

// Steps of a row go to every R-th place of 64 bytes from `to` on.
template <size_t R, int kAt, int kBits, bool kOutliers>
HWY_INLINE void StoreSteps(const Chunk<kBits, kOutliers>& chunk,
                           const Levels<kBits, kOutliers>& levels, uint8_t* to) {
  StoreBytes(LookUp(levels, chunk.template Indices<kAt>()), to + kAt * R * kStep);
  if constexpr (kAt + 1 < kChunkSteps) StoreSteps<R, kAt + 1>(chunk, levels, to);
}

// The next `steps` steps of R rows, whole chunks and then the rows' last ones, to [steps, R, 64].
// from[p] is where pair p goes on. Pairs take turns at every chunk: a chunk's end, known when its
// maps are read, is where the pair's next one begins, and such chains hide each other's latency.
template <int kBits, bool kOutliers, size_t R>
HWY_INLINE void DecodeSteps(const Levels<kBits, kOutliers> (&levels)[R], size_t steps,
                            const uint8_t* (&from)[R / kPairRows], uint8_t* to) {
  for (; steps >= kChunkSteps; steps -= kChunkSteps, to += kChunkSteps * R * kStep) {
#pragma GCC unroll 8
    for (size_t p = 0; p < R / kPairRows; ++p) {
      PairChunk<kBits, kOutliers> pair;
      pair.Open(from[p]);
      pair.LoadCodes();
#pragma GCC unroll 2
      for (size_t i = 0; i < kPairRows; ++i) {
        const size_t r = p * kPairRows + i;
        StoreSteps<R, 0>(pair.row(i), levels[r], to + r * kStep);
      }
      from[p] = pair.end;
    }
  }
  for (; steps > 0; --steps) {
    for (size_t r = 0; r < R; ++r, to += kStep) {
      const uint8_t*& step = from[r / kPairRows];
      StoreBytes(LookUp(levels[r], TailIndices<kBits, kOutliers>(step)), to);
      step += TailStepBytes<kBits, kOutliers>();
    }
  }
}

// What products of several tokens keep in memory.
struct Scratch {
  uint8_t* rows;  // [tiles, steps of a block, rows of a tile, 64]
  float* lanes;   // [tokens, rows of a block, 16]
};

template <int kBits, bool kOutliers, size_t R>
HWY_INLINE void MultiplyDecoded(const IcquantView& view, const Activations& x,
                                const ProductRange& range, size_t row, size_t tiles,
                                const Scratch& scratch) {
  const uint8_t* from[kNarrowTiles][R / kPairRows];
  Levels<kBits, kOutliers> levels[kNarrowTiles][R];
  for (size_t r = 0; r < tiles * R; ++r) {
    from[r / R][r % R / kPairRows] = view.stream->pair(row + r);
    levels[r / R][r % R] = RowLevels<kBits, kOutliers>(view, row + r);
  }
  const uint8_t* const next = view.stream->pair(row + tiles * R);
  const uint8_t* const next_end = next + (next - view.stream->pair(row));
  ForColumnBlocks(view.steps, [&](const ColumnBlock& block) HWY_ATTR {
    const size_t steps = block.end - block.first, tile_bytes = steps * R * kStep;
    for (size_t i = 0; i < tiles; ++i) {
      DecodeSteps<kBits, kOutliers, R>(levels[i], steps, from[i], scratch.rows + i * tile_bytes);
    }
    const DecodedRows<R> rows = {scratch.rows, block.first, tile_bytes};
    MultiplyBlock<kGroupStepsOf<kBits>, R>(
        view, x, range, row, tiles, rows, block,
        PrefetchDuring(block, view.steps, range.tokens, next, next_end), scratch.lanes);
  });
}

template <int kBits, bool kOutliers>
void MultiplyBits(const IcquantView& view, const Activations& x, const ProductRange& range,
                  const Scratch& scratch) {
  if (range.tokens <= kStreamTokens) return MultiplyFewTokens<kBits, kOutliers>(view, x, range);
  ForRowBlocks<kPairRows>(range, view.steps, [&]<size_t R>(size_t row, size_t tiles) HWY_ATTR {
    MultiplyDecoded<kBits, kOutliers, R>(view, x, range, row, tiles, scratch);
  });
}

// --- Eight bits: the stored codes are the weights.

HWY_INLINE ByteRows AllRows(const IcquantView& view) { return {view.codes, view.code_stride}; }

template <size_t R>
HWY_INLINE void MultiplyBytes(const IcquantView& view, const Activations& x,
                              const ProductRange& range, size_t row, size_t tiles, float* lanes) {
  const ByteRows rows = AllRows(view).Tile(row);
  const uint8_t* const next = rows.Tile(tiles * R).bytes;
  const uint8_t* const next_end = rows.Tile(2 * tiles * R).bytes;
  ForColumnBlocks(view.steps, [&](const ColumnBlock& block) HWY_ATTR {
    MultiplyBlock<kGroupSteps, R>(view, x, range, row, tiles, rows, block,
                                  PrefetchDuring(block, view.steps, range.tokens, next, next_end),
                                  lanes);
  });
}

// One row of weights at a time (see StreamPairs) times T rows of codes.
template <size_t T>
HWY_NOINLINE void MultiplyBytesOnce(const IcquantView& view, const Activations& x,
                                    const ProductRange& range, float* lanes) {
  const CodeTile<T, kGroupSteps> tile(x, range, 0);
  constexpr size_t kRows = 4;
  size_t row = range.row_begin;
  for (; row + kRows <= range.row_end; row += kRows) {
    Lanes of_rows[kRows][T];
    for (size_t r = 0; r < kRows; ++r) {
      Lanes of_row[1][T];
      ZeroTile(of_row);
      ByteGroups<1, T>(AllRows(view).Tile(row + r), tile.input, 0, view.steps, of_row);
      for (size_t t = 0; t < T; ++t) of_rows[r][t] = of_row[0][t];
    }
    float sums[T][kRows];
    ReduceTile<kRows, T>(of_rows, sums);
    StoreRows(view, tile, row, sums);
  }
  for (; row < range.row_end; ++row) MultiplyBytes<1>(view, x, range, row, 1, lanes);
}

void MultiplyEight(const IcquantView& view, const Activations& x, const ProductRange& range,
                   float* lanes) {
  if (range.tokens == 1) return MultiplyBytesOnce<1>(view, x, range, lanes);
  if (range.tokens == 2) return MultiplyBytesOnce<2>(view, x, range, lanes);
  ForRowBlocks<1>(range, view.steps, [&]<size_t R>(size_t row, size_t tiles) HWY_ATTR {
    MultiplyBytes<R>(view, x, range, row, tiles, lanes);
  });
}

size_t ScratchBytes(size_t tokens) {
  return kScratchRowBytes + tokens * kNarrowTiles * kByteRows * kLanes * sizeof(float);
}

void MultiplyInteger(const IcquantView& view, const Activations& x, const ProductRange& range,
                     uint8_t* memory) {
  const Scratch scratch = {memory, reinterpret_cast<float*>(memory + kScratchRowBytes)};
  const bool outliers = view.matrix->has_outliers();
  switch (view.matrix->code_bits()) {
    case 1:
      return outliers ? MultiplyBits<1, true>(view, x, range, scratch)
                      : MultiplyBits<1, false>(view, x, range, scratch);
    case 2:
      return outliers ? MultiplyBits<2, true>(view, x, range, scratch)
                      : MultiplyBits<2, false>(view, x, range, scratch);
    case 3:
      return outliers ? MultiplyBits<3, true>(view, x, range, scratch)
                      : MultiplyBits<3, false>(view, x, range, scratch);
    case 4:
      return outliers ? MultiplyBits<4, true>(view, x, range, scratch)
                      : MultiplyBits<4, false>(view, x, range, scratch);
    default:
      return MultiplyEight(view, x, range, scratch.lanes);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom::cpu {

HWY_EXPORT(ScratchBytes);
HWY_EXPORT(MultiplyInteger);

void MultiplyIcquantInteger(const IcquantView& view, const Activations& x,
                            const ProductRange& range) {
  thread_local AlignedVector<uint8_t> scratch;
  scratch.resize(HWY_DYNAMIC_DISPATCH(ScratchBytes)(range.tokens));
  HWY_DYNAMIC_DISPATCH(MultiplyInteger)(view, x, range, scratch.data());
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
