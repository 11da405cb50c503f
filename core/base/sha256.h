// SHA-256 digests (libcrypto), as lower-case hexadecimal.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/types/span.h"

namespace quantloom {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(absl::Span<const uint8_t> bytes);
  // Ends the digest: 64 hexadecimal characters. Call once.
  std::string Finish();

  static std::string Of(absl::Span<const uint8_t> bytes);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace quantloom
