// Who may call the generation server, and what SIGHUP changes in it.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <csignal>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "access_token/access_token.h"
#include "services/server/request_conversion.h"
#include "tests/services/common/call_method.h"
#include "tests/services/common/certificate_authority.h"
#include "tests/services/common/service_process.h"
#include "tests/services/common/token_entry.h"
#include "tests/services/server/server_fixture.h"

namespace quantloom::testing {
namespace {

using ::testing::HasSubstr;

std::vector<std::string> Methods() {
  std::vector<std::string> methods;
  for (const google::protobuf::FileDescriptor* file :
       {v1::GenerateRequest::descriptor()->file(), v1::Model::descriptor()->file()}) {
    const google::protobuf::ServiceDescriptor& service = *file->service(0);
    for (int m = 0; m < service.method_count(); ++m) {
      methods.push_back(absl::StrCat("/", service.full_name(), "/", service.method(m)->name()));
    }
  }
  return methods;
}

class ServerAccessTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    options_.grpc.access.token_file = (files_.path() / "tokens").string();
  }
  // Generate with a token, to its end.
  grpc::Status Finish(const v1::GenerateRequest& request, const std::string& token,
                      v1::GenerateResponse* last = nullptr) const {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + token);
    const auto stream = generation_->Generate(&context, request);
    v1::GenerateResponse response;
    while (stream->Read(&response)) {
      if (last != nullptr) *last = response;
    }
    return stream->Finish();
  }

  TemporaryDirectory files_;
};

TEST_F(ServerAccessTest, NoMethodAnswersWithoutAToken) {
  ReplaceFile(options_.grpc.access.token_file, "");
  StartServer();
  ASSERT_GE(Methods().size(), 9U);
  for (const std::string& method : Methods()) {
    EXPECT_EQ(CallMethod(channel_, method).error_code(), grpc::StatusCode::UNAUTHENTICATED)
        << method;
    EXPECT_EQ(CallMethod(channel_, method, "", *NewToken("nobody")).error_code(),
              grpc::StatusCode::UNAUTHENTICATED)
        << method;
  }
}

TEST_F(ServerAccessTest, ATokenWithoutTheRoleChangesNothing) {
  const std::string token = *NewToken("alice");
  ReplaceFile(options_.grpc.access.token_file, TokenLine(token, {"quantize"}));
  StartServer();
  v1::UnloadModelRequest request;
  request.set_name("tiny");
  const grpc::Status refused = CallMethod(channel_, "/quantloom.v1.ModelService/UnloadModel",
                                          request.SerializeAsString(), token);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(refused.error_message(), HasSubstr("'admin'"));
  EXPECT_EQ(
      CallMethod(channel_, "/quantloom.v1.GenerationService/Generate", "", token).error_code(),
      grpc::StatusCode::PERMISSION_DENIED);
  v1::ListModelsResponse listed;
  std::string bytes;
  ASSERT_TRUE(
      CallMethod(channel_, "/quantloom.v1.ModelService/ListModels", "", token, &bytes).ok());
  ASSERT_TRUE(listed.ParseFromString(bytes));
  ASSERT_EQ(listed.models_size(), 1);
  EXPECT_EQ(listed.models(0).state(), v1::MODEL_STATE_LOADED);
}

TEST_F(ServerAccessTest, AClientKeepsItsLimitUnderAnyName) {
  const std::string alice = *NewToken("alice");
  const std::string bob = *NewToken("bob");
  ReplaceFile(options_.grpc.access.token_file,
              TokenLine(alice, {"generate"}) + TokenLine(bob, {"generate"}));
  options_.engine.max_client_requests = 1;
  StartServer();
  v1::GenerateRequest endless = Request("the rain", 4000);
  endless.set_client("one name");
  endless.set_logprobs(20);
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer " + alice);
  const auto stream = generation_->Generate(&context, endless);
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  v1::GenerateRequest request = Request("the rain", 1);
  request.set_client("another name");
  EXPECT_EQ(Finish(request, alice).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Finish(request, bob).ok());
  context.TryCancel();
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(ServerAccessTest, IsolatedClientsShareNoPrefixesWhateverTheyCallThemselves) {
  const std::string alice = *NewToken("alice");
  const std::string bob = *NewToken("bob");
  ReplaceFile(options_.grpc.access.token_file,
              TokenLine(alice, {"generate"}) + TokenLine(bob, {"generate"}));
  options_.engine.isolate_clients = true;
  StartServer();
  v1::GenerateRequest request = Request("", 1);
  for (int i = 1; i <= 64; ++i) request.mutable_prompt_tokens()->add_ids(i);
  v1::GenerateResponse last;
  request.set_client("alice");
  ASSERT_TRUE(Finish(request, alice, &last).ok());
  EXPECT_EQ(last.usage().cached_tokens(), 0U);
  ASSERT_TRUE(Finish(request, bob, &last).ok());
  EXPECT_EQ(last.usage().cached_tokens(), 0U);
  request.set_client("another name");
  ASSERT_TRUE(Finish(request, alice, &last).ok());
  EXPECT_EQ(last.usage().cached_tokens(), 63U);
}

TEST(StandingTest, AnAuthenticatedCallerCannotNameItselfAnother) {
  const Caller alice{"token:alice", true};
  const Caller address{"address:ipv4:127.0.0.1", false};
  EXPECT_EQ(ToStanding(v1::PRIORITY_HIGH, "bob", alice).client, "token:alice");
  EXPECT_EQ(ToStanding(v1::PRIORITY_HIGH, "", alice).client, "token:alice");
  EXPECT_EQ(ToStanding(v1::PRIORITY_HIGH, "bob", address).client, "bob");
  EXPECT_EQ(ToStanding(v1::PRIORITY_HIGH, "", address).client, "address:ipv4:127.0.0.1");
}

class ReloadProcessTest : public ::testing::Test {
 protected:
  ReloadProcessTest() {
    WritePackedModel(directory_.path() / "models", "tiny", /*seed=*/1);
    WriteSettings("log-level = \"info\"\n");
  }
  void WriteSettings(const std::string& settings) const {
    ReplaceFile(directory_.path() / "settings.toml", settings);
  }
  std::string Path(const char* name) const { return (directory_.path() / name).string(); }
  // Waits until the log has `text` after `offset`.
  static bool AwaitLog(const ServiceProcess& process, const std::string& text, size_t offset) {
    for (int i = 0; i < 2000; ++i, absl::SleepFor(absl::Milliseconds(5))) {
      const std::string log = process.Log();
      if (log.find(text, std::min(offset, log.size())) != std::string::npos) return true;
    }
    return false;
  }

  TemporaryDirectory directory_;
};

TEST_F(ReloadProcessTest, Sighup_ReadsSettingsAndTokensAgainAndKeepsThemWhenTheyAreWrong) {
  const std::string first = *NewToken("first");
  const std::string second = *NewToken("second");
  ReplaceFile(Path("tokens"), TokenLine(first, {"generate"}));
  ServiceProcess server(
      QUANTLOOM_SERVER,
      {absl::StrCat("--model-root=", Path("models")),
       absl::StrCat("--config=", Path("settings.toml")),
       absl::StrCat("--token-file=", Path("tokens")), "--credential-refresh-interval=0"},
      directory_.path());
  ASSERT_NE(server.port(), 0) << server.Log();
  const auto channel = NewChannel(server.port());
  const auto info = [&](const std::string& token) {
    return CallMethod(channel, "/quantloom.v1.ModelService/GetServerInfo", "", token).error_code();
  };
  EXPECT_EQ(info(first), grpc::StatusCode::OK);
  EXPECT_EQ(info(second), grpc::StatusCode::UNAUTHENTICATED);

  ReplaceFile(Path("tokens"), TokenLine(second, {"generate"}));
  WriteSettings("client-burst = 1\nclient-requests-per-second = 0.001\nmax-running = 3\n");
  size_t seen = server.Log().size();
  server.Signal(SIGHUP);
  ASSERT_TRUE(AwaitLog(server, "reloaded part=tokens", seen)) << server.Log();
  EXPECT_THAT(server.Log().substr(seen),
              HasSubstr("it takes effect at the next start setting=max-running"));
  EXPECT_EQ(info(second), grpc::StatusCode::OK);
  EXPECT_EQ(info(second), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(info(first), grpc::StatusCode::UNAUTHENTICATED);

  WriteSettings("no-such-setting = 1\n");
  ReplaceFile(Path("tokens"), "nonsense\n");
  seen = server.Log().size();
  server.Signal(SIGHUP);
  ASSERT_TRUE(AwaitLog(server, "part=tokens", seen)) << server.Log();
  EXPECT_THAT(server.Log().substr(seen), HasSubstr("no-such-setting"));
  EXPECT_EQ(info(second), grpc::StatusCode::RESOURCE_EXHAUSTED) << "what was read stays";
  EXPECT_THAT(server.Log(), ::testing::Not(HasSubstr(second)));
  EXPECT_THAT(server.Log(), ::testing::Not(HasSubstr(first)));
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0);
}

TEST_F(ReloadProcessTest, WrongSecuritySettingsEndTheStart) {
  for (const std::vector<std::string>& flags : std::vector<std::vector<std::string>>{
           {"--tls-key=/nonexistent"},
           {"--tls-certificate=/nonexistent", "--tls-key=/nonexistent"},
           {"--token-file=/nonexistent"},
           {"--health-address=nowhere"}}) {
    std::vector<std::string> arguments = flags;
    arguments.push_back(absl::StrCat("--model-root=", Path("models")));
    ServiceProcess server(QUANTLOOM_SERVER, arguments, directory_.path());
    EXPECT_EQ(server.Wait(), 1);
    EXPECT_THAT(server.Log(), HasSubstr(flags[0].substr(2, flags[0].find('=') - 2)));
  }
}

}  // namespace
}  // namespace quantloom::testing
