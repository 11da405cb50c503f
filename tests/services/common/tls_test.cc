// TLS and mutual TLS over gRPC: who is let in, and certificates replaced under load.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "access_token/access_token.h"
#include "core/base/file.h"
#include "tests/services/common/call_method.h"
#include "tests/services/common/caller_service.h"
#include "tests/services/common/certificate_authority.h"
#include "tests/services/common/token_entry.h"

namespace quantloom::testing {
namespace {

using ::testing::HasSubstr;

class TlsTest : public CallerServerTest {
 protected:
  TlsTest() { options_.tls = {Path("certificate.pem"), Path("key.pem"), ""}; }

  void Use(const IssuedCertificate& issued) const {
    ReplaceFile(Path("certificate.pem"), issued.certificate);
    ReplaceFile(Path("key.pem"), issued.key);
  }
  void UseClientAuthority(const CertificateAuthority& authority) {
    ReplaceFile(Path("ca.pem"), authority.certificate());
    options_.tls.client_ca = Path("ca.pem");
  }
  // A connection that trusts `authority`, with a certificate of its own if it has one.
  std::shared_ptr<grpc::Channel> ConnectTls(const CertificateAuthority& authority,
                                            const IssuedCertificate& own = {}) const {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = authority.certificate();
    options.pem_cert_chain = own.certificate;
    options.pem_private_key = own.key;
    return Connect(grpc::SslCredentials(options));
  }
  static bool Connects(const std::shared_ptr<grpc::Channel>& channel) {
    const absl::Status status = Call(channel).status;
    EXPECT_TRUE(status.ok() || absl::IsUnavailable(status)) << status;
    return status.ok();
  }

  CertificateAuthority authority_{"authority"};
  CertificateAuthority other_{"another authority"};
};

TEST_F(TlsTest, TheClientSeesTheServersCertificate) {
  Use(authority_.Issue("server"));
  StartServer();
  EXPECT_TRUE(Connects(ConnectTls(authority_)));
  EXPECT_FALSE(Connects(ConnectTls(other_))) << "it trusts another authority";
  EXPECT_FALSE(Connects(channel_)) << "it speaks no TLS";
}

TEST_F(TlsTest, MutualTls_TakesClientsOfItsAuthorityAloneAndNamesThem) {
  Use(authority_.Issue("server"));
  UseClientAuthority(authority_);
  StartServer();
  const Answer answer = Call(ConnectTls(authority_, authority_.Issue("client one")));
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.caller, "certificate:client one");
  EXPECT_FALSE(Connects(ConnectTls(authority_))) << "no certificate";
  EXPECT_FALSE(Connects(ConnectTls(authority_, other_.Issue("client"))))
      << "another authority's certificate";
  EXPECT_FALSE(
      Connects(ConnectTls(authority_, authority_.Issue("client", absl::Now() - absl::Minutes(1)))))
      << "an expired certificate";
  IssuedCertificate mixed = authority_.Issue("client");
  mixed.key = authority_.Issue("client").key;
  EXPECT_NE(Call(ConnectTls(authority_, mixed)).status, absl::OkStatus()) << "another's key";
}

TEST_F(TlsTest, MutualTls_ATokenSaysWhoTheClientIs) {
  const std::string token = *NewToken("alice");
  ReplaceFile(Path("tokens"), TokenLine(token, {"quantize"}));
  options_.access.token_file = Path("tokens");
  Use(authority_.Issue("server"));
  UseClientAuthority(authority_);
  StartServer();
  const auto channel = ConnectTls(authority_, authority_.Issue("client one"));
  EXPECT_TRUE(absl::IsUnauthenticated(Call(channel).status)) << "a certificate is no token";
  EXPECT_EQ(Call(channel, token).caller, "token:alice");
}

TEST_F(TlsTest, Reload_ServesTheNewCertificateAndRefusesAWrongOne) {
  options_.metrics_address = "127.0.0.1:0";
  Use(authority_.Issue("server"));
  StartServer();
  Use(other_.Issue("server"));
  EXPECT_TRUE(Connects(ConnectTls(authority_))) << "nothing changes before Reload";
  server_->Reload(options_);
  EXPECT_TRUE(Connects(ConnectTls(other_)));
  EXPECT_FALSE(Connects(ConnectTls(authority_)));

  ReplaceFile(Path("key.pem"), authority_.Issue("server").key);
  server_->Reload(options_);
  EXPECT_TRUE(Connects(ConnectTls(other_)));
  const std::string text = Scrape("result=\"failure\"} 1");
  EXPECT_THAT(text,
              HasSubstr("quantloom_reloads_total{part=\"certificates\",result=\"success\"} 1"));
  EXPECT_THAT(text,
              HasSubstr("quantloom_reloads_total{part=\"certificates\",result=\"failure\"} 1"));
  EXPECT_THAT(text, HasSubstr("quantloom_tls_certificate_expiry_timestamp_seconds "));
}

TEST_F(TlsTest, Reload_TakesAnotherClientAuthority) {
  Use(authority_.Issue("server"));
  UseClientAuthority(authority_);
  StartServer();
  const IssuedCertificate client = authority_.Issue("client");
  EXPECT_TRUE(Connects(ConnectTls(authority_, client)));
  UseClientAuthority(other_);
  server_->Reload(options_);
  EXPECT_FALSE(Connects(ConnectTls(authority_, client)));
  EXPECT_TRUE(Connects(ConnectTls(authority_, other_.Issue("client"))));
}

// Streams that run keep running, and no call fails while certificates change.
TEST_F(TlsTest, Rotation_UnderLoadDropsNothing) {
  constexpr int kRotations = 10;
  options_.credential_refresh_interval = absl::Milliseconds(5);  // and Reload comes in between
  Use(authority_.Issue("server 0"));
  StartServer();

  grpc::ClientContext context;
  const auto stream_channel = ConnectTls(authority_);
  const auto reader =
      v1::QuantizationService::NewStub(stream_channel)->WatchJob(&context, v1::WatchJobRequest());
  v1::QuantizeEvent event;
  ASSERT_TRUE(reader->Read(&event));

  std::atomic<bool> stop{false};
  std::atomic<int> calls{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      while (!stop) {
        const absl::Status status = Call(ConnectTls(authority_)).status;
        EXPECT_TRUE(status.ok()) << status;
        ++calls;
      }
    });
  }
  uint64_t sequence = event.sequence();
  for (int i = 1; i <= kRotations; ++i) {
    Use(authority_.Issue(absl::StrCat("server ", i)));
    if (i % 2 == 0) server_->Reload(options_);
    for (const int before = calls; calls < before + 3;) absl::SleepFor(absl::Milliseconds(1));
    for (int e = 0; e < 20; ++e) {
      ASSERT_TRUE(reader->Read(&event)) << "rotation " << i;
      ASSERT_EQ(event.sequence(), ++sequence);
    }
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  context.TryCancel();
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(TlsTest, HealthAddress_ServesHealthAndNothingElseWithoutTlsAndTokens) {
  ReplaceFile(Path("tokens"), "");
  options_.access.token_file = Path("tokens");
  options_.health_address = "127.0.0.1:0";
  options_.health_port_file = Path("health_port");
  Use(authority_.Issue("server"));
  StartServer();
  int port = 0;
  ASSERT_TRUE(absl::SimpleAtoi(ReadFile(Path("health_port")).value_or(""), &port));
  const auto channel =
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials());
  std::string answer;
  const auto health = [&] {
    EXPECT_TRUE(CallMethod(channel, "/grpc.health.v1.Health/Check", "", "", &answer).ok());
    return answer;
  };
  EXPECT_EQ(health(), "\x08\x02") << "NOT_SERVING";
  server_->SetServing(true);
  EXPECT_EQ(health(), "\x08\x01") << "SERVING";

  for (const char* method :
       {"/quantloom.v1.QuantizationService/GetJob", "/quantloom.v1.QuantizationService/WatchJob",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/a/b"}) {
    const grpc::Status status = CallMethod(channel, method, "\x3a\x01*");
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << method;
  }
  server_->SetServing(false);
  EXPECT_EQ(health(), "\x08\x02");
}

TEST_F(TlsTest, Start_RefusesWrongFilesAndAddresses) {
  const auto start = [&] {
    return std::string(GrpcServer::Start(options_, {&service_}, {}, metrics_).status().message());
  };
  EXPECT_THAT(start(), HasSubstr("tls-certificate: "));
  Use(authority_.Issue("server"));
  options_.health_address = "nowhere";
  EXPECT_THAT(start(), HasSubstr("health-address: 'nowhere' is not host:port"));
  options_.health_address = "";
  ReplaceFile(Path("key.pem"), authority_.Issue("another").key);
  EXPECT_THAT(start(), HasSubstr("tls-key: "));
}

}  // namespace
}  // namespace quantloom::testing
