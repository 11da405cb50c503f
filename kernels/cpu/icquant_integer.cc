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

// Where the outputs of row of codes i are, from those of the range's first row.
HWY_INLINE ptrdiff_t TokenOffset(const Activations& x, const ProductRange& range, size_t i) {
  return (static_cast<ptrdiff_t>(x.token_of(i)) -
          static_cast<ptrdiff_t>(x.token_of(range.first_token))) *
         static_cast<ptrdiff_t>(range.stride);
}

// Scales a tile's sums and writes them; adds them to what is there for rows of codes that have what
// others left. The range's tokens are rows of codes.
template <size_t R, size_t T>
HWY_INLINE void StoreTile(const IcquantView& view, const Activations& x, const ProductRange& range,
                          size_t row, size_t token, const float (&sums)[T][R]) {
  const hn::CappedTag<float, R> d;
  for (size_t r = 0; r < R; r += hn::MaxLanes(d)) {
    const auto scale = hn::LoadU(d, view.scales + row + r);
    for (size_t t = 0; t < T; ++t) {
      auto y = hn::Mul(scale, hn::LoadU(d, sums[t] + r));
      const size_t i = range.first_token + token + t;
      if (view.offsets != nullptr) {
        y = Fma(hn::LoadU(d, view.offsets + row + r), hn::Set(d, x.total(i)), y);
      }
      float* const to = range.y + TokenOffset(x, range, i) + row + r;
      if (i >= x.tokens()) y = hn::Add(hn::LoadU(d, to), y);
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
                             size_t chunk, Sums16 (&blocks)[1][T]) {
  const Bytes64 weights = LookUp(levels, row.template Indices<kAt>());
#pragma GCC unroll 8
  for (size_t t = 0; t < T; ++t) {
    const Bytes64 token = LoadBytes(x.codes[t] + (chunk * kChunkSteps + kAt) * kStep);
    blocks[0][t] = Dot(blocks[0][t], weights, token);
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
  MultiplyStep<4 * kHalf>(row, levels, x, chunk, blocks);
  MultiplyStep<4 * kHalf + 1>(row, levels, x, chunk, blocks);
  MultiplyStep<4 * kHalf + 2>(row, levels, x, chunk, blocks);
  MultiplyStep<4 * kHalf + 3>(row, levels, x, chunk, blocks);
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
  const TokenTile<T> tile = MakeTokenTile<T>(x, range.first_token + token);
  StreamRows<kBits, kOutliers, T> stream(view, tile, row);
  for (; row + kRows <= range.row_end; row += kRows) {
    Lanes lanes[kRows][T];
    for (size_t r = 0; r < kRows; ++r) stream.Next(lanes[r]);
    float sums[T][kRows];
    ReduceTile<kRows, T>(lanes, sums);
    StoreTile<kRows, T>(view, x, range, row, token, sums);
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
// 76 % of the peak. Longer tiles (8 x 3, 6 x 4) with their lanes in memory take 80 cycles for as
// much. For 8 tokens decoding is another 28 % of the time, since it is shared by few.

// Columns of a block: 4 decoded rows of 2048 columns are 8 KB, 3 tokens with their scales and
// biases 9 KB. Whole chunks of a stream.
constexpr size_t kBlockSteps = 32;
static_assert(kBlockSteps % kChunkSteps == 0);
// The last one may be half as large again: a small one would cost as much as it saves.
constexpr size_t kMaxBlockSteps = kBlockSteps * 3 / 2;

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

// A block of R rows times all tokens. `lanes` keeps the sums between blocks, [tokens, R, 16 lanes].
template <size_t R, class Source>
HWY_NOINLINE void MultiplyBlock(const IcquantView& view, const Activations& x,
                                const ProductRange& range, size_t row, const Source& rows,
                                const ColumnBlock& block, Prefetch prefetch, float* lanes) {
  ForTokenTiles(range.tokens, [&]<size_t T>(size_t t) HWY_ATTR {
    prefetch.Next();
    float* const kept = lanes + t * R * kLanes;
    Lanes tile[R][T];
    if (block.first == 0) {
      ZeroTile(tile);
    } else {
      LoadTile(kept, tile);
    }
    ByteGroups<R, T>(rows, MakeTokenTile<T>(x, range.first_token + t), block.first / kGroupSteps,
                     block.end, tile);
    if (block.end < view.steps) return KeepTile(tile, kept);
    float sums[T][R];
    ReduceTile<R, T>(tile, sums);
    StoreTile<R, T>(view, x, range, row, t, sums);
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
  uint8_t* rows;  // [steps of a block, rows of a tile, 64]
  float* lanes;   // [tokens, rows of a tile, 16]
};

template <int kBits, bool kOutliers, size_t R>
HWY_INLINE void MultiplyDecoded(const IcquantView& view, const Activations& x,
                                const ProductRange& range, size_t row, const Scratch& scratch) {
  const uint8_t* from[R];
  LevelTable<kBits + kOutliers> levels[R];
  for (size_t r = 0; r < R; ++r) {
    from[r] = view.stream->row(row + r);
    levels[r] = LoadLevels<kBits + kOutliers>(view.matrix->centroids(row + r));
  }
  const uint8_t* const next = view.stream->row(row + R);
  const uint8_t* const next_end = next + (next - from[0]);
  ForColumnBlocks(view.steps, [&](const ColumnBlock& block) HWY_ATTR {
    DecodeSteps<kBits, kOutliers, R>(levels, block.end - block.first, from, scratch.rows);
    const DecodedRows<R> rows = {scratch.rows, block.first / kGroupSteps};
    MultiplyBlock<R>(view, x, range, row, rows, block,
                     PrefetchDuring(block, view.steps, range.tokens, next, next_end),
                     scratch.lanes);
  });
}

template <int kBits, bool kOutliers>
void MultiplyBits(const IcquantView& view, const Activations& x, const ProductRange& range,
                  const Scratch& scratch) {
  if (range.tokens <= kStreamTokens) return MultiplyFewTokens<kBits, kOutliers>(view, x, range);
  size_t row = range.row_begin;
  for (; row + kByteRows <= range.row_end; row += kByteRows) {
    MultiplyDecoded<kBits, kOutliers, kByteRows>(view, x, range, row, scratch);
  }
  for (; row < range.row_end; ++row) {
    MultiplyDecoded<kBits, kOutliers, 1>(view, x, range, row, scratch);
  }
}

// --- Eight bits: the stored codes are the weights.

template <size_t R>
HWY_INLINE void MultiplyBytes(const IcquantView& view, const Activations& x,
                              const ProductRange& range, size_t row, float* lanes) {
  const ByteRows rows = {view.codes + row * view.code_stride, view.code_stride};
  const uint8_t* const next = rows.bytes + R * rows.stride;
  const uint8_t* const next_end = next + R * rows.stride;
  ForColumnBlocks(view.steps, [&](const ColumnBlock& block) HWY_ATTR {
    MultiplyBlock<R>(view, x, range, row, rows, block,
                     PrefetchDuring(block, view.steps, range.tokens, next, next_end), lanes);
  });
}

// One row of weights at a time (see StreamRows) times T rows of codes.
template <size_t T>
HWY_NOINLINE void MultiplyBytesOnce(const IcquantView& view, const Activations& x,
                                    const ProductRange& range, float* lanes) {
  const TokenTile<T> tile = MakeTokenTile<T>(x, range.first_token);
  constexpr size_t kRows = 4;
  size_t row = range.row_begin;
  for (; row + kRows <= range.row_end; row += kRows) {
    Lanes of_rows[kRows][T];
    for (size_t r = 0; r < kRows; ++r) {
      const ByteRows weights = {view.codes + (row + r) * view.code_stride, view.code_stride};
      Lanes of_row[1][T];
      ZeroTile(of_row);
      ByteGroups<1, T>(weights, tile, 0, view.steps, of_row);
      for (size_t t = 0; t < T; ++t) of_rows[r][t] = of_row[0][t];
    }
    float sums[T][kRows];
    ReduceTile<kRows, T>(of_rows, sums);
    StoreTile<kRows, T>(view, x, range, row, 0, sums);
  }
  for (; row < range.row_end; ++row) MultiplyBytes<1>(view, x, range, row, lanes);
}

void MultiplyEight(const IcquantView& view, const Activations& x, const ProductRange& range,
                   float* lanes) {
  if (range.tokens == 1) return MultiplyBytesOnce<1>(view, x, range, lanes);
  if (range.tokens == 2) return MultiplyBytesOnce<2>(view, x, range, lanes);
  size_t row = range.row_begin;
  for (; row + kByteRows <= range.row_end; row += kByteRows) {
    MultiplyBytes<kByteRows>(view, x, range, row, lanes);
  }
  for (; row < range.row_end; ++row) MultiplyBytes<1>(view, x, range, row, lanes);
}

size_t ScratchBytes(size_t tokens) {
  return kByteRows * (kMaxBlockSteps * kStep + tokens * kLanes * sizeof(float));
}

void MultiplyInteger(const IcquantView& view, const Activations& x, const ProductRange& range,
                     uint8_t* memory) {
  const Scratch scratch = {memory,
                           reinterpret_cast<float*>(memory + kByteRows * kMaxBlockSteps * kStep)};
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
