#include "kernels/cuda/attention.h"
#include "kernels/cuda/device/reduce.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kWarps = 8;  // queries of a block: of a tile's rows, the heads that share keys
static_assert(AttentionTileRows(1) == kWarps);
constexpr uint32_t kThreads = 32 * kWarps;
constexpr uint32_t kChunk = 32;  // positions in shared memory at a time, one a lane
static_assert(kAttentionPartition % kChunk == 0);
constexpr uint32_t kVector = 8;  // fp16 elements of 16 bytes
// Between rows of a chunk, in elements: 16 bytes more than a row, so that lanes which read the same
// columns of their rows meet no bank conflict.
constexpr uint32_t kPadding = 8;

__device__ __forceinline__ float2 ToFloats(uint32_t halves) {
  return make_float2(__half2float(__ushort_as_half(static_cast<uint16_t>(halves & 0xFFFFu))),
                     __half2float(__ushort_as_half(static_cast<uint16_t>(halves >> 16))));
}

// exp(x - maximum); 0 of a state that has seen no position.
__device__ __forceinline__ float Weight(float x, float maximum) {
  return x == -INFINITY ? 0.0f : expf(__fadd_rn(x, -maximum));
}

// A query's softmax over the positions seen so far. Lane l has columns 2 l, 2 l + 1, 64 + 2 l, ...
// of the weighted sum of values.
template <uint32_t kPairs>
struct SoftmaxState {
  float maximum = -INFINITY;
  float sum = 0;
  float values[2 * kPairs] = {};

  // Takes in the softmax over the positions that follow.
  __device__ __forceinline__ void Merge(const SoftmaxState& next) {
    const float largest = fmaxf(maximum, next.maximum);
    const float mine = Weight(maximum, largest);
    const float other = Weight(next.maximum, largest);
    maximum = largest;
    sum = __fmaf_rn(sum, mine, __fmul_rn(next.sum, other));
#pragma unroll
    for (uint32_t i = 0; i < 2 * kPairs; ++i) {
      values[i] = __fmaf_rn(values[i], mine, __fmul_rn(next.values[i], other));
    }
  }
};

// Chunk [first, first + kChunk) of a sequence's keys or values of one head, in shared memory; zero
// from position `end`.
__device__ __forceinline__ void LoadChunk(const uint16_t* head, const KvView& kv,
                                          const int32_t* table, uint32_t first, uint32_t end,
                                          uint16_t* chunk) {
  const uint32_t vectors = kv.head_dim / kVector;
  for (uint32_t i = threadIdx.x; i < kChunk * vectors; i += kThreads) {
    const uint32_t position = first + i / vectors;
    uint4 vector = make_uint4(0, 0, 0, 0);
    if (position < end) {
      const auto block = static_cast<size_t>(table[position / kv.block_tokens]);
      vector = *reinterpret_cast<const uint4*>(
          head + block * kv.block_stride +
          static_cast<size_t>(position % kv.block_tokens) * kv.head_dim + i % vectors * kVector);
    }
    *reinterpret_cast<uint4*>(chunk + i / vectors * (kv.head_dim + kPadding) +
                              i % vectors * kVector) = vector;
  }
}

// q . key, four partial sums of every fourth column.
__device__ __forceinline__ float Score(const float* query, const uint16_t* key, uint32_t dim) {
  float sums[4] = {};
  for (uint32_t c = 0; c < dim; c += kVector) {
    const uint4 vector = *reinterpret_cast<const uint4*>(key + c);
    const float4 low = *reinterpret_cast<const float4*>(query + c);
    const float4 high = *reinterpret_cast<const float4*>(query + c + 4);
    const float2 k01 = ToFloats(vector.x), k23 = ToFloats(vector.y);
    const float2 k45 = ToFloats(vector.z), k67 = ToFloats(vector.w);
    sums[0] = __fmaf_rn(high.x, k45.x, __fmaf_rn(low.x, k01.x, sums[0]));
    sums[1] = __fmaf_rn(high.y, k45.y, __fmaf_rn(low.y, k01.y, sums[1]));
    sums[2] = __fmaf_rn(high.z, k67.x, __fmaf_rn(low.z, k23.x, sums[2]));
    sums[3] = __fmaf_rn(high.w, k67.y, __fmaf_rn(low.w, k23.y, sums[3]));
  }
  return __fadd_rn(__fadd_rn(sums[0], sums[1]), __fadd_rn(sums[2], sums[3]));
}

// The positions of a chunk that the query sees: `count` of them, at least one.
template <uint32_t kPairs>
__device__ __forceinline__ void TakeChunk(const float* query, const uint16_t* keys,
                                          const uint16_t* values, uint32_t count, uint32_t dim,
                                          float scale, SoftmaxState<kPairs>& state) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t stride = dim + kPadding;
  const bool sees = lane < count;
  const float score = sees ? __fmul_rn(Score(query, keys + lane * stride, dim), scale) : -INFINITY;
  const float largest = fmaxf(state.maximum, WarpMaximum(score));
  const float weight = sees ? expf(__fadd_rn(score, -largest)) : 0.0f;
  const float before = Weight(state.maximum, largest);
  state.maximum = largest;
  state.sum = __fmaf_rn(state.sum, before, WarpSum(weight));
#pragma unroll
  for (uint32_t i = 0; i < 2 * kPairs; ++i) state.values[i] = __fmul_rn(state.values[i], before);
  for (uint32_t position = 0; position < count; ++position) {
    const float w = __shfl_sync(kAllLanes, weight, static_cast<int>(position));
#pragma unroll
    for (uint32_t pair = 0; pair < kPairs; ++pair) {
      const uint32_t c = 64 * pair + 2 * lane;
      if (c >= dim) continue;
      const float2 v = ToFloats(*reinterpret_cast<const uint32_t*>(values + position * stride + c));
      state.values[2 * pair] = __fmaf_rn(w, v.x, state.values[2 * pair]);
      state.values[2 * pair + 1] = __fmaf_rn(w, v.y, state.values[2 * pair + 1]);
    }
  }
}

template <uint32_t kPairs>
__device__ __forceinline__ void WriteAttended(const SoftmaxState<kPairs>& state, uint32_t dim,
                                              float* out) {
#pragma unroll
  for (uint32_t i = 0; i < 2 * kPairs; ++i) {
    const uint32_t c = i / 2 * 64 + 2 * (threadIdx.x % 32) + i % 2;
    if (c < dim) out[c] = state.values[i] / state.sum;
  }
}

// Blocks: (tile and, where more than kWarps heads share keys, part of them; kv head; partition).
template <uint32_t kPairs, bool kSplit>
__global__ void __launch_bounds__(kThreads)
    AttendTiles(BatchView batch, KvView kv, AttentionArguments arguments) {
  const uint32_t dim = kv.head_dim;
  const uint32_t stride = dim + kPadding;
  float* const queries = static_cast<float*>(DynamicShared());                 // [kWarps, dim]
  uint16_t* const keys = reinterpret_cast<uint16_t*>(queries + kWarps * dim);  // [kChunk, stride]
  uint16_t* const values = keys + kChunk * stride;

  const uint32_t group = arguments.heads / kv.kv_heads;
  const uint32_t parts = DivideUp(group, kWarps);
  const uint32_t tile_index = blockIdx.x / parts;
  const AttentionTile tile =
      arguments.tiles == nullptr ? AttentionTile{tile_index, 1} : arguments.tiles[tile_index];
  const auto end = static_cast<uint32_t>(batch.positions[tile.first_row + tile.rows - 1] + 1);
  const uint32_t first_partition = kSplit ? blockIdx.z : 0;
  if (first_partition * kAttentionPartition >= end) return;

  const uint32_t lane = threadIdx.x % 32;
  const uint32_t slot = blockIdx.x % parts * kWarps + threadIdx.x / 32;
  const bool has_query = slot / group < tile.rows;
  const uint32_t row = tile.first_row + (has_query ? slot / group : 0);
  const uint32_t head = blockIdx.y * group + slot % group;
  const uint32_t length = has_query ? static_cast<uint32_t>(batch.positions[row] + 1) : 0;
  float* const query = queries + threadIdx.x / 32 * dim;
  if (has_query) {
    const float* const from =
        arguments.qkv +
        (static_cast<size_t>(row) * (arguments.heads + 2 * kv.kv_heads) + head) * dim;
    for (uint32_t c = lane; c < dim; c += 32) query[c] = from[c];
  }
  const int32_t* const table = batch.blocks + batch.tables[tile.first_row];
  const uint64_t head_elements = static_cast<uint64_t>(kv.block_tokens) * dim;
  const uint16_t* const key_head = kv.keys + blockIdx.y * head_elements;
  const uint16_t* const value_head = key_head + kv.kv_heads * head_elements;

  SoftmaxState<kPairs> all;
  const uint32_t end_partition = kSplit ? first_partition + 1 : DivideUp(end, kAttentionPartition);
  for (uint32_t partition = first_partition; partition < end_partition; ++partition) {
    SoftmaxState<kPairs> state;
    const uint32_t partition_end = (partition + 1) * kAttentionPartition;
    for (uint32_t chunk = partition * kAttentionPartition; chunk < end && chunk < partition_end;
         chunk += kChunk) {
      __syncthreads();  // the chunk before has been read
      LoadChunk(key_head, kv, table, chunk, end, keys);
      LoadChunk(value_head, kv, table, chunk, end, values);
      __syncthreads();
      if (length <= chunk) continue;
      const uint32_t count = length - chunk < kChunk ? length - chunk : kChunk;
      TakeChunk(query, keys, values, count, dim, arguments.scale, state);
    }
    if (length <= partition * kAttentionPartition) continue;
    if constexpr (kSplit) {
      float* const partial =
          arguments.partials +
          ((static_cast<size_t>(row) * arguments.heads + head) * arguments.partitions + partition) *
              AttentionPartialFloats(dim);
#pragma unroll
      for (uint32_t i = 0; i < 2 * kPairs; ++i) {
        const uint32_t c = i / 2 * 64 + 2 * lane + i % 2;
        if (c < dim) partial[c] = state.values[i];
      }
      if (lane == 0) {
        partial[dim] = state.maximum;
        partial[dim + 1] = state.sum;
      }
    } else {
      all.Merge(state);
    }
  }
  if constexpr (!kSplit) {
    if (length == 0) return;
    WriteAttended(all, dim,
                  arguments.out + (static_cast<size_t>(row) * arguments.heads + head) * dim);
  }
}

// A warp a query: merges its partitions.
template <uint32_t kPairs>
__global__ void __launch_bounds__(kThreads)
    MergePartitions(BatchView batch, uint32_t dim, AttentionArguments arguments) {
  const uint32_t head = blockIdx.y * kWarps + threadIdx.x / 32;
  const auto length = static_cast<uint32_t>(batch.positions[blockIdx.x] + 1);
  if (head >= arguments.heads || length == 0) return;
  const size_t query = static_cast<size_t>(blockIdx.x) * arguments.heads + head;
  SoftmaxState<kPairs> all;
  for (uint32_t p = 0; p * kAttentionPartition < length; ++p) {
    const float* const partial =
        arguments.partials + (query * arguments.partitions + p) * AttentionPartialFloats(dim);
    SoftmaxState<kPairs> state;
    state.maximum = partial[dim];
    state.sum = partial[dim + 1];
#pragma unroll
    for (uint32_t i = 0; i < 2 * kPairs; ++i) {
      const uint32_t c = i / 2 * 64 + 2 * (threadIdx.x % 32) + i % 2;
      if (c < dim) state.values[i] = partial[c];
    }
    all.Merge(state);
  }
  WriteAttended(all, dim, arguments.out + query * dim);
}

template <uint32_t kPairs>
const char* AttendWith(const BatchView& batch, const KvView& kv, const AttentionArguments& a,
                       Stream stream) {
  const uint32_t tiles = a.tiles == nullptr ? batch.rows : a.tile_count;
  const uint32_t parts = DivideUp(a.heads / kv.kv_heads, kWarps);
  const size_t shared_bytes = kWarps * kv.head_dim * sizeof(float) +
                              2 * kChunk * (kv.head_dim + kPadding) * sizeof(uint16_t);
  if (a.partials == nullptr) {
    return LaunchKernel(dim3(tiles * parts, kv.kv_heads), kThreads, shared_bytes, stream,
                        AttendTiles<kPairs, false>, batch, kv, a);
  }
  if (const char* error =
          LaunchKernel(dim3(tiles * parts, kv.kv_heads, a.partitions), kThreads, shared_bytes,
                       stream, AttendTiles<kPairs, true>, batch, kv, a)) {
    return error;
  }
  return LaunchKernel(dim3(batch.rows, DivideUp(a.heads, kWarps)), kThreads, 0, stream,
                      MergePartitions<kPairs>, batch, kv.head_dim, a);
}

}  // namespace

const char* Attend(const BatchView& batch, const KvView& kv, const AttentionArguments& arguments,
                   Stream stream) {
  if (kv.head_dim % kVector != 0 || kv.head_dim > kMaxHeadDim) {
    return "Attend: head_dim must be a multiple of 8, at most 256";
  }
  if (kv.head_dim <= 64) return AttendWith<1>(batch, kv, arguments, stream);
  if (kv.head_dim <= 128) return AttendWith<2>(batch, kv, arguments, stream);
  return AttendWith<4>(batch, kv, arguments, stream);
}

}  // namespace quantloom::cuda
