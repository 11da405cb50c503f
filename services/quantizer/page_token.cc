#include "services/quantizer/page_token.h"

#include <charconv>

#include "absl/strings/str_cat.h"
#include "core/base/sha256.h"

namespace quantloom {
namespace {

constexpr size_t kPositionDigits = 16;
constexpr size_t kSignatureDigits = 32;

}  // namespace

std::string MakePageToken(const std::string& secret, const std::string& query, int64_t position) {
  const std::string text = absl::StrCat(absl::Hex(position, absl::kZeroPad16));
  const std::string signed_text = absl::StrCat(secret, "/", text, "/", query);
  const std::string digest =
      Sha256::Of({reinterpret_cast<const uint8_t*>(signed_text.data()), signed_text.size()});
  return absl::StrCat(text, digest.substr(0, kSignatureDigits));
}

absl::StatusOr<int64_t> ReadPageToken(const std::string& secret, const std::string& query,
                                      const std::string& token) {
  int64_t position = 0;
  const char* end = token.data() + std::min(token.size(), kPositionDigits);
  const auto parsed = std::from_chars(token.data(), end, position, 16);
  if (parsed.ec != std::errc() || parsed.ptr != end || position < 0 ||
      token != MakePageToken(secret, query, position)) {
    return absl::InvalidArgumentError("is not a token that this listing gave");
  }
  return position;
}

}  // namespace quantloom
