#include "tests/services/common/call_method.h"

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>

namespace quantloom::testing {

grpc::Status CallMethod(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                        const std::string& request, const std::string& token,
                        std::string* response) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
  grpc::CompletionQueue queue;
  const grpc::Slice slice(request);
  const auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&slice, 1), &queue);
  call->StartCall();
  grpc::ByteBuffer bytes;
  grpc::Status status;
  call->Finish(&bytes, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  grpc::Slice slices;
  if (response != nullptr && status.ok() && bytes.DumpToSingleSlice(&slices).ok()) {
    response->assign(slices.begin(), slices.end());
  }
  return status;
}

}  // namespace quantloom::testing
