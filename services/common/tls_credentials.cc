#include "services/common/tls_credentials.h"

#include <grpc/grpc.h>

#include <utility>

namespace quantloom {

TlsCredentials::TlsCredentials(CertificateFiles files) : files_(std::move(files)) {
  const auto request = files_.client_ca.empty()
                           ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                           : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
  credentials_ = grpc_ssl_server_credentials_create_with_options(
      grpc_ssl_server_credentials_create_options_using_config_fetcher(request, Fetch, this));
}

TlsCredentials::~TlsCredentials() { grpc_server_credentials_release(credentials_); }

void TlsCredentials::Replace(CertificateFiles files) {
  const std::lock_guard lock(mutex_);
  files_ = std::move(files);
  fetched_ = false;
}

CertificateFiles TlsCredentials::files() const {
  const std::lock_guard lock(mutex_);
  return files_;
}

grpc_ssl_certificate_config_reload_status TlsCredentials::Fetch(
    void* self, grpc_ssl_server_certificate_config** config) {
  auto& credentials = *static_cast<TlsCredentials*>(self);
  const std::lock_guard lock(credentials.mutex_);
  if (credentials.fetched_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
  const CertificateFiles& files = credentials.files_;
  const grpc_ssl_pem_key_cert_pair pair{files.key.c_str(), files.certificate.c_str()};
  // gRPC wants authorities even when clients need no certificate; then it does not use them.
  const std::string& authorities = files.client_ca.empty() ? files.certificate : files.client_ca;
  *config = grpc_ssl_server_certificate_config_create(authorities.c_str(), &pair, 1);
  credentials.fetched_ = true;
  return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

int TlsCredentials::AddPortToServer(const std::string& address, grpc_server* server) {
  return grpc_server_add_http2_port(server, address.c_str(), credentials_);
}

void TlsCredentials::SetAuthMetadataProcessor(
    const std::shared_ptr<grpc::AuthMetadataProcessor>& /*processor*/) {
  // Calls are admitted by services/common/access_interceptor.h, with and without TLS.
}

}  // namespace quantloom
