// Measures quantloom-server as its users meet it: how soon after its start a process gives the
// first token, how much memory it then holds beside what it serves, and how fast it streams.
//
//   server_bench SERVER MODEL_DIRECTORY [RUNS]
//
// Each run starts SERVER as a process with the model (verify=header, 16 x 2048 KV tokens), asks
// for 128 tokens after a prompt of about 16, and ends it with SIGTERM. One run before is not
// counted: after it the model's files are in the page cache. Prints a line per run and the medians;
// with --json as the last argument a JSON object alone.
#include <grpcpp/create_channel.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "bench/median.h"
#include "core/base/json.h"
#include "core/base/status.h"
#include "core/format/packed_model.h"
#include "engine/generation.h"
#include "quantloom/v1/generation.grpc.pb.h"

extern char** environ;  // NOLINT: POSIX declares it nowhere

namespace quantloom {
namespace {

constexpr char kPrompt[] = "The history of the steam engine begins long before the railways, when";
constexpr uint32_t kTokens = 128;
constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr double kMegabyte = 1e6;

struct Run {
  double first_token_seconds = 0;  // from just before the process is started
  double tokens_per_second = 0;    // of the tokens after the first
  double resident_bytes = 0;       // when the stream has ended
  double peak_bytes = 0;
};

class ServerProcess {
 public:
  ServerProcess(const std::string& program, const std::filesystem::path& model)
      : port_file_(std::filesystem::temp_directory_path() /
                   absl::StrCat("server_bench.", getpid())) {
    std::filesystem::remove(port_file_);
    std::vector<std::string> arguments = {
        program,
        "--address=127.0.0.1:0",
        "--metrics-address=127.0.0.1:0",
        absl::StrCat("--port-file=", port_file_.string()),
        absl::StrCat("--model-root=", model.parent_path().string()),
        absl::StrCat("--load=", model.filename().string()),
        "--log-level=warning"};
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    if (posix_spawn(&pid_, program.c_str(), nullptr, nullptr, pointers.data(), environ) != 0) {
      pid_ = -1;
    }
  }
  ~ServerProcess() {
    if (pid_ > 0) {
      kill(pid_, SIGTERM);
      waitpid(pid_, nullptr, 0);
    }
    std::filesystem::remove(port_file_);
  }
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  absl::StatusOr<int> WaitForPort() {
    for (const absl::Time end = absl::Now() + kPatience; absl::Now() < end;) {
      int port = 0;
      if (std::ifstream(port_file_) >> port) return port;
      if (waitpid(pid_, nullptr, WNOHANG) != 0) {
        pid_ = -1;  // it has exited
        break;
      }
      absl::SleepFor(absl::Milliseconds(1));
    }
    return absl::UnavailableError("the server did not start");
  }

  // A line of /proc/PID/status, in bytes.
  double Memory(const char* key) const {
    std::ifstream status(absl::StrCat("/proc/", pid_, "/status"));
    for (std::string line; std::getline(status, line);) {
      if (line.rfind(key, 0) == 0) return 1024.0 * std::atof(line.c_str() + std::strlen(key) + 1);
    }
    return 0;
  }

 private:
  const std::filesystem::path port_file_;
  pid_t pid_ = -1;
};

// Asks until the model is loaded: FAILED_PRECONDITION until then.
absl::StatusOr<Run> Measure(const std::string& program, const std::filesystem::path& model) {
  const absl::Time start = absl::Now();
  ServerProcess server(program, model);
  QL_ASSIGN_OR_RETURN(const int port, server.WaitForPort());
  const auto channel =
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials());
  const auto stub = v1::GenerationService::NewStub(channel);
  v1::GenerateRequest request;
  request.set_model(model.filename().string());
  request.set_prompt(kPrompt);
  request.set_max_tokens(kTokens);
  request.set_ignore_eos(true);
  while (absl::Now() - start < kPatience) {
    grpc::ClientContext context;
    const auto stream = stub->Generate(&context, request);
    v1::GenerateResponse response;
    absl::Time first = absl::InfinitePast();
    int tokens = 0;
    while (stream->Read(&response)) {
      if (tokens == 0 && response.tokens_size() > 0) first = absl::Now();
      tokens += response.tokens_size();
    }
    const absl::Time end = absl::Now();
    const grpc::Status status = stream->Finish();
    if (status.error_code() == grpc::StatusCode::FAILED_PRECONDITION) {
      absl::SleepFor(absl::Milliseconds(2));
      continue;
    }
    if (!status.ok() || tokens < 2) return absl::InternalError(status.error_message());
    return Run{.first_token_seconds = absl::ToDoubleSeconds(first - start),
               .tokens_per_second = (tokens - 1) / absl::ToDoubleSeconds(end - first),
               .resident_bytes = server.Memory("VmRSS:"),
               .peak_bytes = server.Memory("VmHWM:")};
  }
  return absl::DeadlineExceededError("the model was not loaded in time");
}

double MedianOf(const std::vector<Run>& runs, double Run::*member) {
  std::vector<double> values;
  for (const Run& run : runs) values.push_back(run.*member);
  return Median(std::move(values));
}

absl::Status Benchmark(const std::string& program, const std::filesystem::path& directory, int runs,
                       bool json) {
  QL_ASSIGN_OR_RETURN(const auto packed, PackedModel::Open(directory, Verify::kHeader));
  const auto packed_bytes = static_cast<double>(packed->manifest().packed_bytes);
  const auto kv_bytes =
      static_cast<double>(GenerationEngine::MemoryFor(packed->config(), {}).kv_cache);
  QL_RETURN_IF_ERROR(Measure(program, directory).status());
  std::vector<Run> measured;
  for (int i = 0; i < runs; ++i) {
    QL_ASSIGN_OR_RETURN(const Run run, Measure(program, directory));
    measured.push_back(run);
    if (json) continue;
    std::printf("run %d: first token %.3f s, %.1f tokens/s, resident %.1f MB (peak %.1f MB)\n",
                i + 1, run.first_token_seconds, run.tokens_per_second,
                run.resident_bytes / kMegabyte, run.peak_bytes / kMegabyte);
  }
  const double first = MedianOf(measured, &Run::first_token_seconds);
  const double resident = MedianOf(measured, &Run::resident_bytes);
  const double peak = MedianOf(measured, &Run::peak_bytes);
  // The bound promised: 1.35 x packed + KV cache + 150 MB. KV pages that no token has touched are
  // not resident.
  const double bound = 1.35 * packed_bytes + kv_bytes + 150 * kMegabyte;
  if (json) {
    const nlohmann::json result = {
        {"first_token_seconds", first},
        {"tokens_per_second", MedianOf(measured, &Run::tokens_per_second)},
        {"resident_bytes", resident},
        {"peak_resident_bytes", peak},
        {"packed_bytes", packed_bytes},
        {"kv_cache_bytes", kv_bytes},
        {"resident_bound_bytes", bound}};
    std::cout << DumpJson(result, 2) << "\n";
    return absl::OkStatus();
  }
  std::printf("median of %d: first token %.3f s, %.1f tokens/s, resident %.1f MB, peak %.1f MB\n",
              runs, first, MedianOf(measured, &Run::tokens_per_second), resident / kMegabyte,
              peak / kMegabyte);
  std::printf("packed %.1f MB, KV cache %.1f MB, bound 1.35 x packed + KV + 150 MB = %.1f MB: %s\n",
              packed_bytes / kMegabyte, kv_bytes / kMegabyte, bound / kMegabyte,
              peak <= bound ? "kept" : "BROKEN");
  std::printf("resident without KV cache allowance: %.2f x packed\n", resident / packed_bytes);
  return absl::OkStatus();
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  const bool json = argc > 1 && std::string(argv[argc - 1]) == "--json";
  if (json) --argc;
  int runs = 5;
  if (argc < 3 || argc > 4 || (argc == 4 && (!absl::SimpleAtoi(argv[3], &runs) || runs < 1))) {
    std::cerr << "usage: server_bench SERVER MODEL_DIRECTORY [RUNS] [--json]\n";
    return 2;
  }
  const std::filesystem::path model = std::filesystem::absolute(argv[2]).lexically_normal();
  const absl::Status status =
      quantloom::Benchmark(argv[1], model.has_filename() ? model : model.parent_path(), runs, json);
  if (!status.ok()) {
    std::cerr << status << "\n";
    return 1;
  }
  return 0;
}
