// A client to be killed: starts a long Generate stream on 127.0.0.1:PORT, prints a dot for each
// response, and never stops by itself before the stream does.
//
//   stream_client PORT
#include <grpcpp/create_channel.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <string>

#include "quantloom/v1/generation.grpc.pb.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const auto channel =
      grpc::CreateChannel(std::string("127.0.0.1:") + argv[1], grpc::InsecureChannelCredentials());
  const auto stub = quantloom::v1::GenerationService::NewStub(channel);
  quantloom::v1::GenerateRequest request;
  request.set_prompt("a client that will be killed");
  request.set_ignore_eos(true);
  grpc::ClientContext context;
  const auto stream = stub->Generate(&context, request);
  quantloom::v1::GenerateResponse response;
  while (stream->Read(&response)) {
    if (write(STDOUT_FILENO, ".", 1) != 1) return 1;
    usleep(20'000);  // slow, so that it is killed midway
  }
  return stream->Finish().ok() ? 0 : 1;
}
