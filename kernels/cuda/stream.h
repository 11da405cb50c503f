// CUDA's stream type for code that includes no CUDA header.
#pragma once

struct CUstream_st;

namespace quantloom::cuda {

using Stream = CUstream_st*;  // cudaStream_t; null is the default stream

}  // namespace quantloom::cuda
