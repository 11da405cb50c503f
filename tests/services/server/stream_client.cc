// A client to be killed: starts long Generate streams on 127.0.0.1:PORT, prints a dot for each
// response, and never stops by itself before the streams do.
//
//   stream_client PORT STREAMS
#include <grpcpp/create_channel.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "quantloom/v1/generation.grpc.pb.h"

namespace {

bool ReadStream(quantloom::v1::GenerationService::Stub& stub) {
  quantloom::v1::GenerateRequest request;
  request.set_prompt("a client that will be killed");
  request.set_ignore_eos(true);
  grpc::ClientContext context;
  const auto stream = stub.Generate(&context, request);
  quantloom::v1::GenerateResponse response;
  while (stream->Read(&response)) {
    if (write(STDOUT_FILENO, ".", 1) != 1) return false;
    usleep(20'000);  // slow, so that it is killed midway
  }
  return stream->Finish().ok();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto channel =
      grpc::CreateChannel(std::string("127.0.0.1:") + argv[1], grpc::InsecureChannelCredentials());
  const auto stub = quantloom::v1::GenerationService::NewStub(channel);
  std::atomic<bool> ok = true;
  std::vector<std::thread> readers;
  for (int i = std::stoi(argv[2]); i > 0; --i) {
    readers.emplace_back([&] { ok = ReadStream(*stub) && ok; });
  }
  for (std::thread& reader : readers) reader.join();
  return ok ? 0 : 1;
}
