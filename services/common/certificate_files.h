// The certificate, key and client authorities of a TLS server: read from PEM files and checked
// before any of them is used.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/common/configuration.h"

namespace quantloom {

// Paths of PEM files.
struct TlsOptions {
  std::string certificate;  // the server's, then the intermediate ones; empty: no TLS
  std::string key;          // its private key, not encrypted
  std::string client_ca;    // authorities one of which must have signed a client's; empty: none

  bool enabled() const { return !certificate.empty(); }
  void AddTo(Configuration& configuration);
  // INVALID_ARGUMENT for settings that do not belong together.
  absl::Status Check() const;
};

// The files' contents.
struct CertificateFiles {
  std::string certificate;
  std::string key;
  std::string client_ca;
  std::string subject;  // of the server's certificate, for the log
  absl::Time expiry;    // the same

  bool SameContents(const CertificateFiles& other) const {
    return certificate == other.certificate && key == other.key && client_ca == other.client_ca;
  }
};

// Reads what `options`, which are enabled and checked, name. FAILED_PRECONDITION for a file that is
// malformed, a key that is not the certificate's, or a certificate that has expired; else why a
// file cannot be read. The message names the setting and the file, and has nothing of a key.
absl::StatusOr<CertificateFiles> ReadCertificateFiles(const TlsOptions& options);

}  // namespace quantloom
