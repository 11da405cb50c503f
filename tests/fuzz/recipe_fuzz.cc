// Recipe text from requests and manifests. What parses must print to text that parses to the same.
#include <cstdint>
#include <cstdlib>

#include "core/codec/codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto recipe = quantloom::Recipe::Parse(text);
  if (recipe.ok()) {
    const auto again = quantloom::Recipe::Parse(recipe->ToString());
    if (!again.ok() || again->options != recipe->options) std::abort();
  }
  const auto codec = quantloom::CreateCodec(text);
  if (codec.ok()) {
    const auto again = quantloom::CreateCodec((*codec)->recipe());
    if (!again.ok() || (*again)->recipe() != (*codec)->recipe()) std::abort();
  }
  return 0;
}
