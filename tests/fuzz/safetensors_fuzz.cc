// SafetensorsFile::Parse on any bytes: an error, or tensors whose bytes can be read and converted.
#include <cstdint>
#include <cstdlib>
#include <numeric>

#include "core/format/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = quantloom::SafetensorsFile::Parse({data, size});
  if (!file.ok()) return 0;
  uint64_t total = 0;
  for (const quantloom::SafetensorsTensor& tensor : file->tensors()) {
    total += tensor.bytes.size();
    const uint64_t sum = std::accumulate(tensor.bytes.begin(), tensor.bytes.end(), uint64_t{0});
    if (sum > 255 * tensor.bytes.size() || file->Find(tensor.name) != &tensor) std::abort();
    (void)quantloom::FloatsFromBytes(tensor.dtype, tensor.bytes);
  }
  if (total > size) std::abort();  // no two tensors share bytes
  return 0;
}
