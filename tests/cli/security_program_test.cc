// The client with the real server behind TLS, client certificates and tokens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/cli/program.h"
#include "tests/services/common/certificate_authority.h"
#include "tests/services/common/service_process.h"
#include "tests/temporary_directory.h"

namespace quantloom::cli {
namespace {

using quantloom::testing::CertificateAuthority;
using quantloom::testing::ReplaceFile;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class SecurityProgramTest : public ::testing::Test {
 protected:
  SecurityProgramTest() {
    std::filesystem::create_directories(directory_.path() / "models");
    const auto server = authority_.Issue("server");
    Write("ca.pem", authority_.certificate());
    Write("certificate.pem", server.certificate);
    Write("key.pem", server.key);
    const auto client = authority_.Issue("client");
    Write("client.pem", client.certificate);
    Write("client-key.pem", client.key);
  }

  std::string Path(const char* name) const { return (directory_.path() / name).string(); }
  void Write(const char* name, const std::string& text) const {
    ReplaceFile(directory_.path() / name, text);
  }
  // A token whose line is in the token file.
  std::string NewToken(const std::string& name, const std::string& role) const {
    const Outcome made = RunProgram(
        {"token", "new", "--name", name, "--role", role, "--append-to", Path("tokens"), "--json"});
    EXPECT_EQ(made.status, 0) << made.error;
    return nlohmann::json::parse(made.output)["token"];
  }
  void StartServer(std::vector<std::string> flags) {
    flags.push_back(absl::StrCat("--model-root=", Path("models")));
    server_.emplace(QUANTLOOM_SERVER, flags, directory_.path());
    ASSERT_NE(server_->port(), 0) << server_->Log();
  }
  Outcome Info(std::vector<std::string> flags, const std::string& token = "") const {
    flags.insert(flags.begin(), {"info", "--server", absl::StrCat("localhost:", server_->port())});
    ProgramOptions options;
    if (!token.empty()) options.environment["QUANTLOOM_TOKEN"] = token;
    return RunProgram(flags, options);
  }

  quantloom::testing::TemporaryDirectory directory_;
  CertificateAuthority authority_{"authority"};
  std::optional<quantloom::testing::ServiceProcess> server_;
};

TEST_F(SecurityProgramTest, TlsAndTokens_LetTheRightOnesIn) {
  const std::string token = NewToken("alice", "generate");
  Write("alice.token", token + "\n");
  StartServer({absl::StrCat("--tls-certificate=", Path("certificate.pem")),
               absl::StrCat("--tls-key=", Path("key.pem")),
               absl::StrCat("--tls-client-ca=", Path("ca.pem")),
               absl::StrCat("--token-file=", Path("tokens"))});
  const std::vector<std::string> tls = {"--tls-ca",         Path("ca.pem"), "--tls-certificate",
                                        Path("client.pem"), "--tls-key",    Path("client-key.pem")};
  const Outcome by_variable = Info(tls, token);
  EXPECT_EQ(by_variable.status, 0) << by_variable.error;
  EXPECT_THAT(by_variable.output, HasSubstr("version"));
  std::vector<std::string> with_file = tls;
  with_file.insert(with_file.end(), {"--token-file", Path("alice.token")});
  EXPECT_EQ(Info(with_file).status, 0);

  const Outcome no_token = Info(tls);
  EXPECT_EQ(no_token.status, 1);
  EXPECT_THAT(no_token.error, StartsWith("error: UNAUTHENTICATED: "));
  EXPECT_EQ(Info({"--tls-ca", Path("ca.pem")}, token).status, 3) << "no client certificate";
  EXPECT_EQ(Info({"--tls"}, token).status, 3) << "the system does not know the authority";
  EXPECT_EQ(Info({}, token).status, 3) << "no TLS";
}

TEST_F(SecurityProgramTest, WrongFiles_AreNamed) {
  StartServer({});
  const auto expect = [&](const std::vector<std::string>& flags, const std::string& message) {
    const Outcome outcome = Info(flags);
    EXPECT_EQ(outcome.status, 1);
    EXPECT_THAT(outcome.error, HasSubstr(message));
  };
  expect({"--tls-ca", Path("none")}, "--tls-ca: ");
  expect({"--tls-certificate", Path("client.pem")},
         "--tls-certificate and --tls-key belong together");
  Write("text", "text\n");
  expect({"--tls-ca", Path("text")}, "--tls-ca: '" + Path("text") + "' is not in PEM format");
  expect({"--token-file", Path("none")}, "--token-file: ");
  expect({"--token-file", Path("text")}, "--token-file: is no token");
  const Outcome wrong = Info({}, "hunter2");
  EXPECT_EQ(wrong.status, 1);
  EXPECT_THAT(wrong.error, HasSubstr("QUANTLOOM_TOKEN: is no token"));
  EXPECT_THAT(wrong.error, Not(HasSubstr("hunter2")));
}

TEST_F(SecurityProgramTest, TokenNew_AppendsLinesThatAServiceTakes) {
  std::ofstream(Path("tokens")) << "# no newline at the end";
  const Outcome made =
      RunProgram({"token", "new", "--name", "bob", "--role", "admin", "--role", "generate",
                  "--expires-in", "1h", "--requests-per-second", "0.001", "--burst", "2",
                  "--concurrent-requests", "4", "--append-to", Path("tokens")});
  ASSERT_EQ(made.status, 0) << made.error;
  EXPECT_THAT(made.output, StartsWith("ql_bob."));
  const std::string token = made.output.substr(0, made.output.size() - 1);
  StartServer({absl::StrCat("--token-file=", Path("tokens"))});
  EXPECT_EQ(Info({}, token).status, 0);
  EXPECT_EQ(Info({}, token).status, 0);
  EXPECT_THAT(Info({}, token).error, StartsWith("error: RESOURCE_EXHAUSTED: "));

  EXPECT_EQ(RunProgram({"token", "new", "--name", "a b", "--role", "admin"}).status, 1);
  EXPECT_EQ(RunProgram({"token", "new", "--name", "a", "--role", "root"}).status, 2);
  EXPECT_EQ(RunProgram({"token", "new", "--name", "a"}).status, 2);
}

}  // namespace
}  // namespace quantloom::cli
