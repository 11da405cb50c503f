// The kernels of the shared library, under the names that tests call them by.
#pragma once

#include "kernels/cuda/kernel_table.h"

namespace quantloom::testing {

// Before any kernel is called.
void UseKernels(const cuda::KernelTable& kernels);

}  // namespace quantloom::testing
