// Certificates made for a test, good for minutes.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace quantloom::testing {

// In PEM format.
struct IssuedCertificate {
  std::string certificate;
  std::string key;
};

// One authority, with a key of its own (P-256).
class CertificateAuthority {
 public:
  explicit CertificateAuthority(const std::string& name);
  ~CertificateAuthority();
  CertificateAuthority(const CertificateAuthority&) = delete;
  CertificateAuthority& operator=(const CertificateAuthority&) = delete;

  const std::string& certificate() const { return certificate_; }
  // For localhost and 127.0.0.1, as server and client; good from an hour ago until `expiry`.
  IssuedCertificate Issue(const std::string& common_name,
                          absl::Time expiry = absl::Now() + absl::Hours(1)) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
  std::string certificate_;
};

// Replaces a file in one step, as tools that rotate certificates do.
void ReplaceFile(const std::filesystem::path& path, const std::string& text);

}  // namespace quantloom::testing
