// What protects the calls to the services: TLS, a client certificate, a bearer token.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace quantloom::cli {

struct SecurityOptions {
  bool tls = false;
  std::string ca_file;           // authorities of the services; empty: the system's
  std::string certificate_file;  // the client's own, with its key; empty: none
  std::string key_file;
  std::string token_file;  // of the token's text; empty: `token`
  std::string token;       // empty: none

  // Every file of TLS asks for TLS.
  bool wants_tls() const { return tls || !ca_file.empty() || !certificate_file.empty(); }
};

// What channels are opened with.
struct ChannelSecurity {
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  bool encrypted = false;
  std::string token;  // empty: none
};

// Reads the files. INVALID_ARGUMENT for a certificate without its key and for what cannot be a
// token; else why a file cannot be read, naming the option. No message has a secret.
absl::StatusOr<ChannelSecurity> LoadSecurity(const SecurityOptions& options);

// Every call over the channel carries the token.
std::shared_ptr<grpc::Channel> OpenChannel(const std::string& address,
                                           const grpc::ChannelArguments& arguments,
                                           const ChannelSecurity& security);

// Whether who listens on the way to `address` would learn the token.
bool ExposesToken(const std::string& address, const ChannelSecurity& security);

}  // namespace quantloom::cli
