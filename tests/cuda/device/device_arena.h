// Host memory that a device reads and writes at the same addresses, for everything that tests
// allocate: tests that hand vectors to emulated kernels hand them to real ones.
#pragma once

#include <cstddef>

namespace quantloom::testing {

// From now on operator new takes memory from [memory, memory + bytes), aligned to 256, and ends the
// process when it has none left.
void UseDeviceArena(void* memory, size_t bytes);

}  // namespace quantloom::testing
