// ParseManifest on any text, as it is and, so that mutations get past the digest, with a valid seal
// in place of the last two bytes "\n}": an error, or a manifest that survives being written and
// read again.
#include <cstdint>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/format/packed_manifest.h"

namespace {

void Check(absl::string_view text) {
  const auto manifest = quantloom::ParseManifest(text);
  if (!manifest.ok()) return;
  const std::string written = quantloom::ManifestToText(*manifest);
  const auto again = quantloom::ParseManifest(written);
  if (!again.ok() || quantloom::ManifestToText(*again) != written) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  Check(text);
  if (absl::EndsWith(text, "\n}")) Check(quantloom::SealManifest(text));
  return 0;
}
