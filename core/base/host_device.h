// Marks the functions that define a format once for the host and for CUDA.
#pragma once

#ifdef __CUDACC__
#define QL_HOST_DEVICE __host__ __device__
#else
#define QL_HOST_DEVICE
#endif
