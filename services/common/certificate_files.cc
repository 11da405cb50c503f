#include "services/common/certificate_files.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/file.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 20;

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Bio = std::unique_ptr<BIO, Deleter<BIO_free_all>>;
using Certificate = std::unique_ptr<X509, Deleter<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;

absl::Status Malformed(absl::string_view setting, const std::string& path,
                       absl::string_view problem) {
  ERR_clear_error();
  return absl::FailedPreconditionError(absl::StrCat(setting, ": '", path, "' ", problem));
}

absl::StatusOr<std::string> Read(absl::string_view setting, const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path, kMaxFileBytes);
  if (!text.ok()) return Annotate(text.status(), setting);
  return text;
}

Bio Open(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

Certificate NextCertificate(BIO* bio) {
  return Certificate(PEM_read_bio_X509(bio, nullptr, nullptr, nullptr));
}

// Whether the last PEM_read failed because there was nothing more to read.
bool AtEndOfPem() {
  const unsigned long error = ERR_peek_last_error();  // NOLINT(google-runtime-int): OpenSSL's type
  ERR_clear_error();
  return ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
}

// The first certificate of a file all of whose certificates can be read.
absl::StatusOr<Certificate> ParseCertificates(absl::string_view setting, const std::string& path,
                                              const std::string& text) {
  const Bio bio = Open(text);
  Certificate first = NextCertificate(bio.get());
  if (first == nullptr) return Malformed(setting, path, "has no certificate in PEM format");
  while (NextCertificate(bio.get()) != nullptr) {
  }
  if (!AtEndOfPem()) return Malformed(setting, path, "has a certificate that cannot be read");
  return first;
}

// Never asks a terminal for the passphrase of an encrypted key.
int NoPassphrase(char*, int, int, void*) { return 0; }

absl::StatusOr<Key> ParseKey(absl::string_view setting, const std::string& path,
                             const std::string& text) {
  const Bio bio = Open(text);
  Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassphrase, nullptr));
  if (key == nullptr) {
    return Malformed(setting, path, "has no private key in PEM format, or an encrypted one");
  }
  return key;
}

absl::Time Expiry(const X509& certificate) {
  std::tm time{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(&certificate), &time) != 1) return absl::InfinitePast();
  return absl::FromTM(time, absl::UTCTimeZone());
}

std::string Subject(const X509& certificate) {
  const Bio bio(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(bio.get(), X509_get_subject_name(&certificate), 0, XN_FLAG_RFC2253);
  char* data = nullptr;
  const auto size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<size_t>(size));
}

}  // namespace

void TlsOptions::AddTo(Configuration& configuration) {
  configuration.Add("tls-certificate", certificate,
                    "PEM file of the server's certificate chain; \"\": no TLS");
  configuration.Add("tls-key", key, "PEM file of the certificate's private key");
  configuration.Add("tls-client-ca", client_ca,
                    "PEM file of authorities; clients must show a certificate that one of them "
                    "has signed");
}

absl::Status TlsOptions::Check() const {
  if (!enabled() && !key.empty()) {
    return absl::InvalidArgumentError("tls-key is set, but tls-certificate is not");
  }
  if (!enabled() && !client_ca.empty()) {
    return absl::InvalidArgumentError("tls-client-ca is set, but tls-certificate is not");
  }
  if (enabled() && key.empty()) {
    return absl::InvalidArgumentError("tls-certificate is set, but tls-key is not");
  }
  return absl::OkStatus();
}

absl::StatusOr<CertificateFiles> ReadCertificateFiles(const TlsOptions& options) {
  CertificateFiles files;
  QL_ASSIGN_OR_RETURN(files.certificate, Read("tls-certificate", options.certificate));
  QL_ASSIGN_OR_RETURN(files.key, Read("tls-key", options.key));
  QL_ASSIGN_OR_RETURN(const Certificate certificate,
                      ParseCertificates("tls-certificate", options.certificate, files.certificate));
  QL_ASSIGN_OR_RETURN(const Key key, ParseKey("tls-key", options.key, files.key));
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Malformed("tls-key", options.key,
                     absl::StrCat("is not the key of the certificate in '", options.certificate,
                                  "' (tls-certificate)"));
  }
  files.subject = Subject(*certificate);
  files.expiry = Expiry(*certificate);
  if (files.expiry <= absl::Now()) {
    return Malformed("tls-certificate", options.certificate,
                     absl::StrCat("expired at ", absl::FormatTime(files.expiry)));
  }
  if (!options.client_ca.empty()) {
    QL_ASSIGN_OR_RETURN(files.client_ca, Read("tls-client-ca", options.client_ca));
    QL_RETURN_IF_ERROR(
        ParseCertificates("tls-client-ca", options.client_ca, files.client_ca).status());
  }
  return files;
}

}  // namespace quantloom
