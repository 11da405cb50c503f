// `launch_seed`: the order in which the emulation runs lanes between barriers. A device has its
// own, and tests run there twice in it.
#pragma once

#ifdef QUANTLOOM_CUDA_EMULATION
#include QUANTLOOM_CUDA_EMULATION
#else
#include <cstdint>

namespace quantloom::cuda {

inline uint64_t launch_seed = 1;

}  // namespace quantloom::cuda
#endif
