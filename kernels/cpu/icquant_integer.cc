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

// T rows of codes, from `token` of the range's on (whose tokens are rows of codes): what products
// read of them, and where their outputs go.
template <size_t T>
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

  TokenTile<T> input;
  float totals[T];
  float* y[T];   // of row 0
  bool adds[T];  // what other codes of the token left: added to their products
};

// Scales a tile's sums and writes them.
template <size_t R, size_t T>
HWY_INLINE void StoreTile(const IcquantView& view, const CodeTile<T>& tile, size_t row,
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

// --- Rows of a stream, decoded in registers.

// A chunk, and where the stream goes on behind it.
template <int kBits, bool kOutliers>
struct StreamChunk {
  Chunk<kBits, kOutliers> chunk;
  const uint8_t* codes;
  const uint8_t* end;

  // Reads the map alone: the codes need no decoding that would delay their use.
  HWY_INLINE void Open(const uint8_t* begin) {
    codes = begin;
    end = begin + kBits * kStep;
    if constexpr (kOutliers) chunk.flags = ReadFlags(end);
  }
};

template <int kAt, int kBits, bool kOutliers, size_t T>
HWY_INLINE void MultiplyStep(const Chunk<kBits, kOutliers>& row,
                             const LevelTable<kBits + kOutliers>& levels, const TokenTile<T>& x,
                             size_t group, Sums16 (&blocks)[1][T]) {
  const Bytes64 weights = LookUp(levels, row.template Indices<kAt>());
#pragma GCC unroll 8
  for (size_t t = 0; t < T; ++t) {
    blocks[0][t] = Dot(blocks[0][t], weights, x.Step(t, group, kAt % kGroupSteps));
  }
}

// The group of steps 4 kHalf .. 4 kHalf + 3 of a chunk.
template <int kHalf, int kBits, bool kOutliers, size_t T>
HWY_INLINE void MultiplyHalf(const Chunk<kBits, kOutliers>& row,
                             const LevelTable<kBits + kOutliers>& levels, const TokenTile<T>& x,
                             size_t chunk, Lanes (&sums)[1][T]) {
  Sums16 blocks[1][T];
  const size_t group = 2 * chunk + kHalf;
  StartBlocks(x, group, blocks);
  MultiplyStep<4 * kHalf>(row, levels, x, group, blocks);
  MultiplyStep<4 * kHalf + 1>(row, levels, x, group, blocks);
  MultiplyStep<4 * kHalf + 2>(row, levels, x, group, blocks);
  MultiplyStep<4 * kHalf + 3>(row, levels, x, group, blocks);
  AddBlocks(x, group, blocks, sums);
}

// Steps behind a row's last chunk, which begin with group `first`, as the weights of a product.
template <int kBits, bool kOutliers>
struct TailRow {
  const uint8_t* steps;
  size_t first;
  LevelTable<kBits + kOutliers> levels;
  HWY_INLINE TailRow Group(size_t group) const {
    const size_t step = (group - first) * kGroupSteps;
    return {steps + step * TailStepBytes<kBits, kOutliers>(), first, levels};
  }
  HWY_INLINE Bytes64 Step(size_t s, size_t /*r*/) const {
    return LookUp(levels,
                  TailIndices<kBits, kOutliers>(steps + s * TailStepBytes<kBits, kOutliers>()));
  }
};

// How far ahead memory is asked for. Hardware prefetchers stop at every 4 KB page: without, up to a
// fifth slower from memory; in the caches no difference.
constexpr size_t kPrefetchBytes = 4096;

// Touches the cache lines of [from, from + bytes). Addresses past the stream are harmless.
HWY_INLINE void PrefetchLines(const uint8_t* from, size_t bytes) {
#pragma GCC unroll 8
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i);
}

// Consecutive rows times T tokens. A row at a time, so that memory is read in one sweep: four rows
// side by side, which would share the loads of activations, get a third of the bandwidth.
template <int kBits, bool kOutliers, size_t T>
class StreamRows {
 public:
  HWY_INLINE StreamRows(const IcquantView& view, const TokenTile<T>& x, size_t row)
      : view_(view), x_(x), row_(row) {
    next_.Open(view.stream->row(row));
  }

  // The sums of the next row.
  HWY_INLINE void Next(Lanes (&out)[T]) {
    const size_t chunks = view_.stream->chunks();
    const auto levels = LoadLevels<kBits + kOutliers>(view_.matrix->centroids(row_));
    TailRow<kBits, kOutliers> tail = {view_.stream->row(row_), chunks * kChunkSteps / kGroupSteps,
                                      levels};
    Lanes sums[1][T];
    ZeroTile(sums);
    for (size_t chunk = 0; chunk < chunks; ++chunk) {
      StreamChunk<kBits, kOutliers> row = next_;
      tail.steps = row.end;
      // One chunk ahead: a map takes longer to decode than a chunk to multiply.
      next_.Open(chunk + 1 < chunks ? row.end : view_.stream->row(row_ + 1));
      row.chunk.LoadCodes(row.codes);
      PrefetchLines(row.codes + kPrefetchBytes, (kBits + kOutliers) * kStep);
      MultiplyHalf<0>(row.chunk, levels, x_, chunk, sums);
      MultiplyHalf<1>(row.chunk, levels, x_, chunk, sums);
    }
    ByteGroups<1, T>(tail, x_, tail.first, view_.steps, sums);
    ++row_;
#pragma GCC unroll 8
    for (size_t t = 0; t < T; ++t) out[t] = sums[0][t];
  }

 private:
  const IcquantView& view_;
  const TokenTile<T>& x_;
  size_t row_;
  StreamChunk<kBits, kOutliers> next_;
};

// Rows from `row` on, kRows at a time as far as they go; returns the first row left.
template <int kBits, bool kOutliers, size_t kRows, size_t T>
HWY_INLINE size_t MultiplyRows(const IcquantView& view, const Activations& x,
                               const ProductRange& range, size_t row, size_t token) {
  const CodeTile<T> tile(x, range, token);
  StreamRows<kBits, kOutliers, T> stream(view, tile.input, row);
  for (; row + kRows <= range.row_end; row += kRows) {
    Lanes lanes[kRows][T];
    for (size_t r = 0; r < kRows; ++r) stream.Next(lanes[r]);
    float sums[T][kRows];
    ReduceTile<kRows, T>(lanes, sums);
    StoreTile<kRows, T>(view, tile, row, sums);
  }
  return row;
}

template <int kBits, bool kOutliers, size_t T>
HWY_NOINLINE void MultiplyStream(const IcquantView& view, const Activations& x,
                                 const ProductRange& range, size_t token) {
  const size_t row = MultiplyRows<kBits, kOutliers, 4, T>(view, x, range, range.row_begin, token);
  MultiplyRows<kBits, kOutliers, 1, T>(view, x, range, row, token);
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
// What a group (256 columns) of a tile of 4 rows x 3 tokens takes on AVX3_DL, 3,072 products:
//   vpdpbusd       48   pipes 0, 1; 512-bit instructions take both: one a cycle
//   fma            12   pipes 0, 1
//   cvt            12   pipes 2, 3
//   vector loads   34   one a cycle: 16 of weights, 12 of codes, 3 of scales, 3 of biases
// 60 cycles at least, 80 % of the int8 peak; 62.5 to 64 measured from the first two caches (Zen 4),
// 76 % of the peak. Zen 5 executes two of each a cycle: 30 at least, 32 measured in the loop over
// groups, and then what surrounds it counts: with the sums' way out (about 45 cycles a tile), the
// decoding (7 % for 64 tokens) and whatever the second cache makes it wait, 62 % of the peak.
// Longer tiles (8 x 3, 6 x 4) with their lanes in memory are no faster on either. For 8 tokens
// decoding is another quarter of the time, since it is shared by few.

// Columns of a block: 3 tokens of 2048 columns with their scales and biases are 9 KB. Whole chunks
// of a stream.
constexpr size_t kBlockSteps = 32;
static_assert(kBlockSteps % kChunkSteps == 0);
// The last one may be half as large again: a small one would cost as much as it saves.
constexpr size_t kMaxBlockSteps = kBlockSteps * 3 / 2;

// Row tiles of a block, which share an activation tile's way from the second cache to the first:
// two of 2048 columns are 16 KB, four of 1536 or less 24 KB at most.
constexpr size_t kWideTiles = 2, kNarrowTiles = 4;
constexpr size_t kNarrowSteps = 24;
constexpr size_t kScratchRowBytes = kWideTiles * kByteRows * kMaxBlockSteps * kStep;
static_assert(kNarrowTiles * kNarrowSteps <= kWideTiles * kMaxBlockSteps);

// body.operator()<R>(row, tiles) for blocks of `tiles` tiles of R rows, from `row` on, that make
// the range.
template <class Body>
HWY_INLINE void ForRowBlocks(const ProductRange& range, size_t steps, const Body& body) {
  const size_t most = steps <= kNarrowSteps ? kNarrowTiles : kWideTiles;
  size_t row = range.row_begin;
  while (row + kByteRows <= range.row_end) {
    const size_t tiles = HWY_MIN(most, (range.row_end - row) / kByteRows);
    body.template operator()<kByteRows>(row, tiles);
    row += tiles * kByteRows;
  }
  for (; row < range.row_end; ++row) body.template operator()<1>(row, 1);
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
template <size_t R, size_t T, class Source>
HWY_NOINLINE void MultiplyTiles(const IcquantView& view, const Activations& x,
                                const ProductRange& range, const Source rows, size_t row,
                                size_t tiles, size_t token, const ColumnBlock block, float* kept) {
  const CodeTile<T> tokens(x, range, token);
  const bool last = block.end == view.steps;
  for (size_t i = 0; i < tiles; ++i, row += R, kept += R * T * kLanes) {
    Lanes tile[R][T];
    if (block.first == 0) {
      ZeroTile(tile);
    } else {
      LoadTile(kept, tile);
    }
    ByteGroups<R, T>(rows.Tile(i * R), tokens.input, block.first / kGroupSteps, block.end, tile);
    if (last) {
      float sums[T][R];
      ReduceTile<R, T>(tile, sums);
      StoreTile<R, T>(view, tokens, row, sums);
    } else {
      KeepTile(tile, kept);
    }
  }
}

// The same times all tokens. `lanes` keeps the sums between blocks, [tokens, tiles, R, 16 lanes].
template <size_t R, class Source>
HWY_NOINLINE void MultiplyBlock(const IcquantView& view, const Activations& x,
                                const ProductRange& range, size_t row, size_t tiles,
                                const Source& rows, const ColumnBlock& block, Prefetch prefetch,
                                float* lanes) {
  ForTokenTiles(range.tokens, [&]<size_t T>(size_t t) HWY_ATTR {
    prefetch.Next();
    MultiplyTiles<R, T>(view, x, range, rows, row, tiles, t, block, lanes + t * tiles * R * kLanes);
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
                           const LevelTable<kBits + kOutliers>& levels, uint8_t* to) {
  StoreBytes(LookUp(levels, chunk.template Indices<kAt>()), to + kAt * R * kStep);
  if constexpr (kAt + 1 < kChunkSteps) StoreSteps<R, kAt + 1>(chunk, levels, to);
}

// The next `steps` steps of R rows, whole chunks and then the rows' last ones, to [steps, R, 64].
// from[r] is where row r goes on. Rows take turns at every chunk: a chunk's end, known when its map
// is read, is where the row's next one begins, and R such chains hide each other's latency.
template <int kBits, bool kOutliers, size_t R>
HWY_INLINE void DecodeSteps(const LevelTable<kBits + kOutliers> (&levels)[R], size_t steps,
                            const uint8_t* (&from)[R], uint8_t* to) {
  for (; steps >= kChunkSteps; steps -= kChunkSteps, to += kChunkSteps * R * kStep) {
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) {
      StreamChunk<kBits, kOutliers> stream;
      stream.Open(from[r]);
      stream.chunk.LoadCodes(from[r]);
      StoreSteps<R, 0>(stream.chunk, levels[r], to + r * kStep);
      from[r] = stream.end;
    }
  }
  for (; steps > 0; --steps, to += R * kStep) {
    for (size_t r = 0; r < R; ++r) {
      StoreBytes(LookUp(levels[r], TailIndices<kBits, kOutliers>(from[r])), to + r * kStep);
      from[r] += TailStepBytes<kBits, kOutliers>();
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
  const uint8_t* from[kNarrowTiles][R];
  LevelTable<kBits + kOutliers> levels[kNarrowTiles][R];
  for (size_t r = 0; r < tiles * R; ++r) {
    from[r / R][r % R] = view.stream->row(row + r);
    levels[r / R][r % R] = LoadLevels<kBits + kOutliers>(view.matrix->centroids(row + r));
  }
  const uint8_t* const next = view.stream->row(row + tiles * R);
  const uint8_t* const next_end = next + (next - view.stream->row(row));
  ForColumnBlocks(view.steps, [&](const ColumnBlock& block) HWY_ATTR {
    const size_t steps = block.end - block.first, tile_bytes = steps * R * kStep;
    for (size_t i = 0; i < tiles; ++i) {
      DecodeSteps<kBits, kOutliers, R>(levels[i], steps, from[i], scratch.rows + i * tile_bytes);
    }
    const DecodedRows<R> rows = {scratch.rows, block.first / kGroupSteps, tile_bytes};
    MultiplyBlock<R>(view, x, range, row, tiles, rows, block,
                     PrefetchDuring(block, view.steps, range.tokens, next, next_end),
                     scratch.lanes);
  });
}

template <int kBits, bool kOutliers>
void MultiplyBits(const IcquantView& view, const Activations& x, const ProductRange& range,
                  const Scratch& scratch) {
  if (range.tokens <= kStreamTokens) return MultiplyFewTokens<kBits, kOutliers>(view, x, range);
  ForRowBlocks(range, view.steps, [&]<size_t R>(size_t row, size_t tiles) HWY_ATTR {
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
    MultiplyBlock<R>(view, x, range, row, tiles, rows, block,
                     PrefetchDuring(block, view.steps, range.tokens, next, next_end), lanes);
  });
}

// One row of weights at a time (see StreamRows) times T rows of codes.
template <size_t T>
HWY_NOINLINE void MultiplyBytesOnce(const IcquantView& view, const Activations& x,
                                    const ProductRange& range, float* lanes) {
  const CodeTile<T> tile(x, range, 0);
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
    StoreTile<kRows, T>(view, tile, row, sums);
  }
  for (; row < range.row_end; ++row) MultiplyBytes<1>(view, x, range, row, 1, lanes);
}

void MultiplyEight(const IcquantView& view, const Activations& x, const ProductRange& range,
                   float* lanes) {
  if (range.tokens == 1) return MultiplyBytesOnce<1>(view, x, range, lanes);
  if (range.tokens == 2) return MultiplyBytesOnce<2>(view, x, range, lanes);
  ForRowBlocks(range, view.steps, [&]<size_t R>(size_t row, size_t tiles) HWY_ATTR {
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
