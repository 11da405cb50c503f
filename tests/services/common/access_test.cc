// Tokens, roles and limits over gRPC.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "access_token/access_token.h"
#include "quantloom/v1/generation.pb.h"
#include "quantloom/v1/model.pb.h"
#include "services/common/method_access.h"
#include "services/common/rpc_status.h"
#include "tests/services/common/call_method.h"
#include "tests/services/common/caller_service.h"
#include "tests/services/common/certificate_authority.h"
#include "tests/services/common/token_entry.h"

namespace quantloom::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kReflection[] = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

// Full names of all methods of the contract.
std::set<std::string> ContractMethods() {
  std::set<std::string> names;
  for (const google::protobuf::FileDescriptor* file :
       {v1::GenerateRequest::descriptor()->file(), v1::Model::descriptor()->file(),
        v1::Job::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        names.insert(
            absl::StrCat(file->service(s)->full_name(), "/", file->service(s)->method(m)->name()));
      }
    }
  }
  return names;
}

TEST(MethodAccessTest, Table_HasEveryMethodOfTheContractOnce) {
  const std::set<std::string> methods = ContractMethods();
  EXPECT_GE(methods.size(), 15U);
  std::set<std::string> rows;
  for (const MethodAccess& row : MethodAccessTable()) {
    EXPECT_TRUE(rows.emplace(row.method).second) << row.method << " is there twice";
  }
  for (const std::string& method : methods) {
    EXPECT_EQ(rows.erase(method), 1U) << method << " has no row: nobody could call it";
  }
  for (const std::string& row : rows) {
    EXPECT_FALSE(absl::StartsWith(row, "quantloom.")) << row << " is no method";
  }
}

TEST(MethodAccessTest, Table_LeavesOnlyHealthOpen) {
  for (const MethodAccess& row : MethodAccessTable()) {
    EXPECT_EQ(row.kind == MethodAccess::Kind::kOpen,
              absl::StartsWith(row.method, "grpc.health.v1.Health/"))
        << row.method;
  }
  EXPECT_EQ(FindMethodAccess("/grpc.health.v1.Healthy/Check"), nullptr);
  EXPECT_EQ(FindMethodAccess("/quantloom.v1.QuantizationService/GetJobs"), nullptr);
  EXPECT_EQ(FindMethodAccess(""), nullptr);
}

TEST(ClientAddressTest, ConnectionsOfOneMachineAreOneClient) {
  EXPECT_EQ(ClientAddress("ipv4:10.0.0.7:40312"), "ipv4:10.0.0.7");
  EXPECT_EQ(ClientAddress("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:40312"), "ipv6:2001:db8:1:2::/64");
  EXPECT_EQ(ClientAddress("ipv6:%5B2001:db8:1:2:ffff::1%5D:1"), "ipv6:2001:db8:1:2::/64");
  EXPECT_EQ(ClientAddress("ipv6:%5B2001:db8:1:3::1%5D:1"), "ipv6:2001:db8:1:3::/64");
  EXPECT_EQ(ClientAddress("ipv6:%5Bfe80::1%25eth0%5D:1"), "ipv6:fe80::/64");
  EXPECT_EQ(ClientAddress("ipv6:nonsense:1"), "ipv6:nonsense");
  EXPECT_EQ(ClientAddress("unix:/run/socket"), "unix:/run/socket");
  EXPECT_EQ(ClientAddress(""), "");
}

class AccessTest : public CallerServerTest {
 protected:
  AccessTest() { options_.access.token_file = Path("tokens"); }

  // Adds a token to those that the file will hold.
  std::string Token(const std::string& name, const std::vector<std::string>& roles,
                    const std::string& more = "") {
    const std::string token = NewToken(name).value_or("");
    lines_ += TokenLine(token, roles, more);
    return token;
  }
  // `metrics`: with /metrics, whose HTTP server takes two seconds to stop.
  void Start(bool metrics = false) {
    if (metrics) options_.metrics_address = "127.0.0.1:0";
    ReplaceFile(Path("tokens"), lines_);
    StartServer();
  }

  std::string lines_;
};

TEST_F(AccessTest, AValidTokenIsLetInAndNamesItsClient) {
  const std::string token = Token("alice", {"quantize"});
  Start();
  const Answer answer = Call(token);
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.caller, "token:alice");
}

TEST_F(AccessTest, MissingMalformedUnknownAndExpiredTokensAreUnauthenticated) {
  const std::string good = Token("alice", {"quantize"});
  const std::string expired = Token("bob", {"quantize"}, R"("expires":"2020-01-01T00:00:00Z")");
  Start(/*metrics=*/true);
  const auto expect = [](const Answer& answer, const char* message, const std::string& token) {
    EXPECT_EQ(answer.status.code(), absl::StatusCode::kUnauthenticated) << answer.status;
    EXPECT_THAT(std::string(answer.status.message()), HasSubstr(message));
    if (!token.empty()) {
      EXPECT_THAT(std::string(answer.status.message()), Not(HasSubstr(token)));
    }
    EXPECT_EQ(answer.caller, "");
  };
  expect(Call(), "needs a token", "");
  const std::string unknown = *NewToken("alice");
  expect(Call(unknown), "not known", unknown);
  expect(Call(*NewToken("carol")), "not known", "");
  expect(Call("nonsense"), "not known", "");
  expect(Call(good + "x"), "not known", good);
  expect(Call(good.substr(0, good.size() - 1)), "not known", "");
  expect(Call(expired), "'bob' expired at 2020-01-01", expired);

  for (const char* header : {"", "Bearer", "Bearer ", "Basic YTpi"}) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", header);
    v1::Job job;
    const auto status =
        v1::QuantizationService::NewStub(channel_)->GetJob(&context, v1::GetJobRequest(), &job);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << header;
  }
  grpc::ClientContext twice;
  twice.AddMetadata("authorization", "Bearer " + good);
  twice.AddMetadata("authorization", "Bearer " + good);
  v1::Job job;
  EXPECT_EQ(v1::QuantizationService::NewStub(channel_)
                ->GetJob(&twice, v1::GetJobRequest(), &job)
                .error_code(),
            grpc::StatusCode::UNAUTHENTICATED);

  const std::string text =
      Scrape("quantloom_authentication_failures_total{reason=\"malformed\"} 5");
  EXPECT_THAT(text, HasSubstr("quantloom_authentication_failures_total{reason=\"malformed\"} 5"));
  EXPECT_THAT(text, HasSubstr("quantloom_authentication_failures_total{reason=\"missing\"} 1"));
  EXPECT_THAT(text, HasSubstr("quantloom_authentication_failures_total{reason=\"expired\"} 1"));
  EXPECT_THAT(text, HasSubstr("quantloom_authentication_failures_total{reason=\"unknown\"} 5"));
}

TEST_F(AccessTest, AStreamIsRefusedAsACallIs) {
  Start();
  grpc::ClientContext context;
  const auto reader =
      v1::QuantizationService::NewStub(channel_)->WatchJob(&context, v1::WatchJobRequest());
  v1::QuantizeEvent event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(AccessTest, AMissingRoleIsNamed) {
  const std::string token = Token("alice", {"generate", "admin"});
  Start(/*metrics=*/true);
  const Answer answer = Call(token);
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(answer.status.message()), HasSubstr("'alice' lacks the role 'quantize'"));
  const char* counted = "quantloom_authorization_failures_total{role=\"quantize\"} 1";
  EXPECT_THAT(Scrape(counted), HasSubstr(counted));
}

TEST_F(AccessTest, ReflectionNeedsAnyToken) {
  const std::string token = Token("alice", {"generate"});
  Start();
  const std::string list_services = "\x3a\x01*";  // list_services = 7
  const grpc::Status refused = CallMethod(channel_, kReflection, list_services);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAUTHENTICATED) << refused.error_message();
  EXPECT_THAT(refused.error_message(), HasSubstr("needs a token"));
  const grpc::Status answered = CallMethod(channel_, kReflection, list_services, token);
  EXPECT_TRUE(answered.ok()) << answered.error_message();
}

TEST_F(AccessTest, HealthNeedsNoToken) {
  Start();
  EXPECT_TRUE(CallMethod(channel_, "/grpc.health.v1.Health/Check").ok());
}

TEST_F(AccessTest, WithoutATokenFileCallersAreTheirAddress) {
  options_.access.token_file = "";
  Start();
  const Answer answer = Call();
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_THAT(answer.caller, ::testing::AnyOf("address:ipv4:127.0.0.1", "address:ipv6:::/64"));
}

TEST_F(AccessTest, Start_RefusesATokenFileThatCannotBeUsed) {
  const auto start = [&] {
    return GrpcServer::Start(options_, {&service_}, {}, metrics_).status();
  };
  EXPECT_THAT(std::string(start().message()), HasSubstr("token-file: "));
  ReplaceFile(Path("tokens"), "{\"name\":1}\n");
  EXPECT_THAT(std::string(start().message()), HasSubstr("line 1: field 'name'"));
}

TEST_F(AccessTest, Reload_TakesNewTokensDropsOldOnesAndKeepsAllWhenTheFileIsWrong) {
  const std::string old = Token("old", {"quantize"});
  Start(/*metrics=*/true);
  const std::string next = *NewToken("next");
  ReplaceFile(Path("tokens"), TokenLine(next, {"quantize"}));
  EXPECT_TRUE(Call(old).status.ok()) << "nothing changes before Reload";
  server_->Reload(options_);
  EXPECT_TRUE(absl::IsUnauthenticated(Call(old).status));
  EXPECT_EQ(Call(next).caller, "token:next");

  ReplaceFile(Path("tokens"), TokenLine(old, {"quantize"}) + "nonsense\n");
  server_->Reload(options_);
  EXPECT_TRUE(absl::IsUnauthenticated(Call(old).status));
  EXPECT_EQ(Call(next).caller, "token:next");
  const std::string text = Scrape("result=\"failure\"} 1");
  EXPECT_THAT(text, HasSubstr("quantloom_reloads_total{part=\"tokens\",result=\"success\"} 1"));
  EXPECT_THAT(text, HasSubstr("quantloom_reloads_total{part=\"tokens\",result=\"failure\"} 1"));
  EXPECT_THAT(text, HasSubstr("quantloom_reloads_total{part=\"settings\",result=\"success\"} 2"));
}

TEST_F(AccessTest, TheTokenFileIsWatched) {
  options_.credential_refresh_interval = absl::Milliseconds(10);
  Start();
  const std::string token = *NewToken("alice");
  EXPECT_TRUE(absl::IsUnauthenticated(Call(token).status));
  ReplaceFile(Path("tokens"), TokenLine(token, {"quantize"}));
  for (int i = 0; i < 1000 && !Call(token).status.ok(); ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_TRUE(Call(token).status.ok());
}

TEST_F(AccessTest, RateLimit_RefusesWithARetryDelayAndHonoursATokensOwn) {
  const std::string alice = Token("alice", {"quantize"});
  const std::string bob = Token("bob", {"quantize"}, R"("requests_per_second":0.001,"burst":1)");
  options_.access.limits = {.requests_per_second = 0.001, .burst = 3};
  Start(/*metrics=*/true);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Call(alice).status.ok()) << i;
  const Answer refused = Call(alice);
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kResourceExhausted) << refused.status;
  const absl::Duration delay = RetryDelay(refused.status).value_or(absl::ZeroDuration());
  EXPECT_GT(delay, absl::Seconds(900));
  EXPECT_LE(delay, absl::Seconds(1000));
  EXPECT_TRUE(Call(bob).status.ok()) << "one client's limit is not another's";
  EXPECT_TRUE(absl::IsResourceExhausted(Call(bob).status));
  const char* counted = "quantloom_limited_requests_total{limit=\"rate\"} 2";
  EXPECT_THAT(Scrape(counted), HasSubstr(counted));
}

TEST_F(AccessTest, ConcurrencyLimit_CountsStreamsUntilTheyEnd) {
  const std::string token = Token("alice", {"quantize"}, R"("concurrent_requests":1)");
  Start();
  const auto stub = v1::QuantizationService::NewStub(channel_);
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer " + token);
  const auto reader = stub->WatchJob(&context, v1::WatchJobRequest());
  v1::QuantizeEvent event;
  ASSERT_TRUE(reader->Read(&event));
  const Answer refused = Call(token);
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kResourceExhausted) << refused.status;
  EXPECT_GT(RetryDelay(refused.status).value_or(absl::ZeroDuration()), absl::ZeroDuration());
  context.TryCancel();
  while (reader->Read(&event)) {
  }
  reader->Finish();
  absl::Status status = Call(token).status;
  for (int i = 0; i < 1000 && !status.ok(); ++i, status = Call(token).status) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(AccessTest, Reload_ChangesTheLimits) {
  options_.access.token_file = "";
  options_.access.limits = {.requests_per_second = 0.001, .burst = 1};
  Start();
  EXPECT_TRUE(Call().status.ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Call().status));
  server_->Reload(absl::InvalidArgumentError("wrong"));
  EXPECT_TRUE(absl::IsResourceExhausted(Call().status));
  options_.access.limits = {};
  server_->Reload(options_);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(Call().status.ok());
}

TEST_F(AccessTest, MessagesBeyondTheLimitAreRefused) {
  options_.access.token_file = "";
  options_.max_message_bytes = 1 << 16;
  Start();
  const auto get_job = [&](size_t bytes) {
    v1::GetJobRequest request;
    request.set_name(std::string(bytes, 'a'));
    return CallMethod(channel_, "/quantloom.v1.QuantizationService/GetJob",
                      request.SerializeAsString())
        .error_code();
  };
  EXPECT_EQ(get_job((1 << 16) - 100), grpc::StatusCode::OK);
  EXPECT_EQ(get_job(1 << 16), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(get_job(1 << 20), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace quantloom::testing
