#include "tests/services/common/caller_service.h"

#include <grpcpp/create_channel.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/access_interceptor.h"
#include "services/common/rpc_status.h"
#include "tests/services/common/http_get.h"

namespace quantloom::testing {
namespace {

class EndlessStream final : public grpc::ServerWriteReactor<v1::QuantizeEvent> {
 public:
  explicit EndlessStream(const absl::StatusOr<Caller>& caller) {
    caller.ok() ? Next() : Finish(ToGrpcStatus(caller.status()));
  }
  void OnWriteDone(bool ok) override { ok ? Next() : Finish(grpc::Status::CANCELLED); }
  void OnDone() override { delete this; }

 private:
  void Next() {
    event_.set_sequence(event_.sequence() + 1);
    StartWrite(&event_);
  }
  v1::QuantizeEvent event_;
};

}  // namespace

grpc::ServerUnaryReactor* CallerService::GetJob(grpc::CallbackServerContext* context,
                                                const v1::GetJobRequest*, v1::Job* job) {
  const absl::StatusOr<Caller> caller = CallerOf(*context);
  if (caller.ok()) job->set_name(caller->client);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(caller.status()));
  return reactor;
}

grpc::ServerWriteReactor<v1::QuantizeEvent>* CallerService::WatchJob(
    grpc::CallbackServerContext* context, const v1::WatchJobRequest*) {
  return new EndlessStream(CallerOf(*context));
}

CallerServerTest::CallerServerTest() {
  options_.address = "127.0.0.1:0";
  options_.grace_period = absl::Milliseconds(200);
  options_.credential_refresh_interval = absl::ZeroDuration();
}

void CallerServerTest::StartServer() {
  auto server = GrpcServer::Start(options_, {&service_},
                                  {v1::QuantizationService::service_full_name()}, metrics_);
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  channel_ = Connect(grpc::InsecureChannelCredentials());
}

std::shared_ptr<grpc::Channel> CallerServerTest::Connect(
    const std::shared_ptr<grpc::ChannelCredentials>& credentials) const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(absl::StrCat("localhost:", server_->port()), credentials,
                                   arguments);
}

CallerServerTest::Answer CallerServerTest::Call(const std::shared_ptr<grpc::Channel>& channel,
                                                const std::string& token) {
  grpc::ClientContext context;
  if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
  v1::Job job;
  const auto stub = v1::QuantizationService::NewStub(channel);
  const grpc::Status status = stub->GetJob(&context, v1::GetJobRequest(), &job);
  return {FromGrpcStatus(status), job.name()};
}

std::string CallerServerTest::Scrape(const std::string& text) const {
  return HttpGetUntil(metrics_.port(), "/metrics", text);
}

}  // namespace quantloom::testing
