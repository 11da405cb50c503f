// TLS of a gRPC server whose certificates can be replaced while it runs: connections made from then
// on see the new ones, those that exist go on with what they have.
#pragma once

#include <grpc/grpc_security.h>
#include <grpcpp/security/server_credentials.h>

#include <cstdint>
#include <mutex>
#include <string>

#include "services/common/certificate_files.h"

namespace quantloom {

// TLS 1.2 and 1.3. Must outlive the server that it is used for. Thread-safe.
class TlsCredentials final : public grpc::ServerCredentials {
 public:
  // Clients must show a certificate when `files` has authorities for them, now and later.
  explicit TlsCredentials(CertificateFiles files);
  ~TlsCredentials() override;

  // For connections from now on.
  void Replace(CertificateFiles files);
  CertificateFiles files() const;

 private:
  // gRPC's calls (grpc_ssl_server_certificate_config_callback), before each handshake.
  static grpc_ssl_certificate_config_reload_status Fetch(
      void* self, grpc_ssl_server_certificate_config** config);

  int AddPortToServer(const std::string& address, grpc_server* server) override;
  void SetAuthMetadataProcessor(
      const std::shared_ptr<grpc::AuthMetadataProcessor>& processor) override;

  mutable std::mutex mutex_;
  CertificateFiles files_;
  bool fetched_ = false;  // gRPC has files_
  grpc_server_credentials* credentials_;
};

}  // namespace quantloom
