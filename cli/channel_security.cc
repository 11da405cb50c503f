#include "cli/channel_security.h"

#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "access_token/access_token.h"
#include "cli/local_text.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/support/client_interceptor.h"

namespace quantloom::cli {
namespace {

constexpr size_t kMaxFileBytes = size_t{1} << 20;

absl::StatusOr<std::string> Read(const char* option, const std::string& path) {
  if (path.empty()) return std::string();
  absl::StatusOr<std::string> text = ReadText(path, kMaxFileBytes);
  if (text.ok()) return text;
  return absl::Status(text.status().code(), absl::StrCat(option, ": ", text.status().message()));
}

absl::StatusOr<std::string> ReadToken(const SecurityOptions& options) {
  std::string text = options.token;
  const char* origin = "QUANTLOOM_TOKEN";
  if (!options.token_file.empty()) {
    origin = "--token-file";
    absl::StatusOr<std::string> read = Read(origin, options.token_file);
    if (!read.ok()) return read.status();
    text = *std::move(read);
  }
  absl::StripAsciiWhitespace(&text);
  if (!text.empty() && !NameInToken(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ": is no token, as `quantloom token new` makes them"));
  }
  return text;
}

// Adds the token to calls, with and without TLS alike. (gRPC's call credentials refuse to go
// without TLS, which is up to the user where the network is trusted.)
class TokenInterceptor final : public grpc::experimental::Interceptor {
 public:
  explicit TokenInterceptor(const std::string& header) : header_(header) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("authorization", header_);
    }
    methods->Proceed();
  }

 private:
  const std::string& header_;
};

class TokenInterceptorFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit TokenInterceptorFactory(const std::string& token)
      : header_(absl::StrCat("Bearer ", token)) {}

  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo* /*info*/) override {
    return new TokenInterceptor(header_);
  }

 private:
  const std::string header_;
};

}  // namespace

absl::StatusOr<ChannelSecurity> LoadSecurity(const SecurityOptions& options) {
  if (options.certificate_file.empty() != options.key_file.empty()) {
    return absl::InvalidArgumentError("--tls-certificate and --tls-key belong together");
  }
  ChannelSecurity security;
  absl::StatusOr<std::string> token = ReadToken(options);
  if (!token.ok()) return token.status();
  security.token = *std::move(token);
  security.encrypted = options.wants_tls();
  if (!security.encrypted) {
    security.credentials = grpc::InsecureChannelCredentials();
    return security;
  }
  grpc::SslCredentialsOptions files;
  for (const auto& [option, path, text] :
       {std::tuple{"--tls-ca", &options.ca_file, &files.pem_root_certs},
        std::tuple{"--tls-certificate", &options.certificate_file, &files.pem_cert_chain},
        std::tuple{"--tls-key", &options.key_file, &files.pem_private_key}}) {
    absl::StatusOr<std::string> read = Read(option, *path);
    if (!read.ok()) return read.status();
    if (!path->empty() && !absl::StrContains(*read, "-----BEGIN ")) {
      return absl::InvalidArgumentError(
          absl::StrCat(option, ": '", *path, "' is not in PEM format"));
    }
    *text = *std::move(read);
  }
  security.credentials = grpc::SslCredentials(files);
  return security;
}

std::shared_ptr<grpc::Channel> OpenChannel(const std::string& address,
                                           const grpc::ChannelArguments& arguments,
                                           const ChannelSecurity& security) {
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  if (!security.token.empty()) {
    interceptors.push_back(std::make_unique<TokenInterceptorFactory>(security.token));
  }
  return grpc::experimental::CreateCustomChannelWithInterceptors(
      address, security.credentials, arguments, std::move(interceptors));
}

bool ExposesToken(const std::string& address, const ChannelSecurity& security) {
  return !security.token.empty() && !security.encrypted && !absl::StartsWith(address, "unix:") &&
         !absl::StartsWith(address, "127.") && !absl::StartsWith(address, "localhost:") &&
         !absl::StartsWith(address, "[::1]");
}

}  // namespace quantloom::cli
