#include "services/common/metrics.h"

#include <dirent.h>
#include <netdb.h>
#include <prometheus/gauge.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <exception>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/status.h"
#include "services/common/version.h"

namespace quantloom {
namespace {

constexpr int kBindAttempts = 16;

prometheus::MetricFamily Sample(const char* name, const char* help, prometheus::MetricType type,
                                double value) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  prometheus::ClientMetric metric;
  (type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  family.metric.push_back(metric);
  return family;
}

// Field `index`, from 0, of /proc/self/stat. The second field, the command in parentheses, may hold
// spaces; fields are counted from the last parenthesis.
double StatField(size_t index) {
  std::ifstream file("/proc/self/stat");
  std::string text;
  std::getline(file, text);
  const size_t end = text.rfind(')');
  if (end == std::string::npos || end + 2 > text.size()) return 0;
  const std::vector<std::string> fields = absl::StrSplit(text.substr(end + 2), ' ');
  double value = 0;
  if (index < 2 || index - 2 >= fields.size() || !absl::SimpleAtod(fields[index - 2], &value)) {
    return 0;
  }
  return value;
}

// Seconds since the epoch at which this process started: boot time plus field 21 of its stat.
double StartTime() {
  std::ifstream file("/proc/stat");
  std::string line;
  double boot = 0;
  while (std::getline(file, line)) {
    if (line.rfind("btime ", 0) == 0 && absl::SimpleAtod(line.substr(6), &boot)) break;
  }
  return boot + StatField(21) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  double size = 0;
  double resident = 0;
  file >> size >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double OpenFds() {
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return 0;
  double entries = 0;
  while (readdir(directory) != nullptr) ++entries;
  closedir(directory);
  return entries - 3;  // ".", ".." and the directory itself
}

double MaxFds() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<double>(limit.rlim_cur);
}

class ProcessMetrics final : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override {
    using prometheus::MetricType;
    return {
        Sample("process_resident_memory_bytes", "Resident memory", MetricType::Gauge,
               ResidentBytes()),
        Sample("process_virtual_memory_bytes", "Virtual memory", MetricType::Gauge, StatField(22)),
        Sample("process_cpu_seconds_total", "User and system CPU time", MetricType::Counter,
               CpuSeconds()),
        Sample("process_open_fds", "Open file descriptors", MetricType::Gauge, OpenFds()),
        Sample("process_max_fds", "Limit of open file descriptors", MetricType::Gauge, MaxFds()),
        Sample("process_start_time_seconds", "Start of the process, seconds since the epoch",
               MetricType::Gauge, start_time_),
    };
  }

 private:
  const double start_time_ = StartTime();
};

// A port on `host` that is free now. Its socket is closed again, so another process may take it
// before it is used: callers try again.
absl::StatusOr<int> FreePort(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), "0", &hints, &found); error != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot resolve '", host, "': ", gai_strerror(error)));
  }
  const absl::Cleanup free_addresses = [found] { freeaddrinfo(found); };
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return absl::UnavailableError("cannot create a socket");
  const absl::Cleanup close_socket = [fd] { close(fd); };
  sockaddr_storage bound{};
  socklen_t length = sizeof(bound);
  if (bind(fd, found->ai_addr, found->ai_addrlen) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &length) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot bind '", host, "': ", std::strerror(errno)));
  }
  char port[NI_MAXSERV];
  int number = 0;
  if (getnameinfo(reinterpret_cast<sockaddr*>(&bound), length, nullptr, 0, port, sizeof(port),
                  NI_NUMERICSERV) != 0 ||
      !absl::SimpleAtoi(port, &number)) {
    return absl::InternalError("cannot read the port of a socket");
  }
  return number;
}

}  // namespace

absl::StatusOr<HostPort> ParseHostPort(absl::string_view address) {
  const size_t colon = address.rfind(':');
  HostPort result;
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &result.port) || result.port < 0 ||
      result.port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("'", address, "' is not host:port"));
  }
  absl::string_view host = address.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  result.host = std::string(host);
  return result;
}

Metrics::Metrics(absl::string_view program)
    : registry_(std::make_shared<prometheus::Registry>()),
      collectables_{registry_, std::make_shared<ProcessMetrics>()} {
  prometheus::BuildGauge()
      .Name("quantloom_build_info")
      .Help("1, labelled with what this process is")
      .Register(*registry_)
      .Add({{"program", std::string(program)}, {"version", Version()}, {"compiler", __VERSION__}})
      .Set(1);
}

void Metrics::Add(std::shared_ptr<prometheus::Collectable> collectable) {
  collectables_.push_back(std::move(collectable));
}

absl::Status Metrics::Serve(const std::string& address) {
  QL_ASSIGN_OR_RETURN(const HostPort wanted, ParseHostPort(address));
  std::string reason;
  for (int attempt = 0; attempt < (wanted.port == 0 ? kBindAttempts : 1); ++attempt) {
    int port = wanted.port;
    if (port == 0) {
      QL_ASSIGN_OR_RETURN(port, FreePort(wanted.host));  // civetweb itself refuses port 0
    }
    const absl::string_view host = absl::string_view(address).substr(0, address.rfind(':'));
    try {
      exposer_ = std::make_unique<prometheus::Exposer>(absl::StrCat(host, ":", port));
    } catch (const std::exception& error) {
      reason = error.what();
      continue;
    }
    port_ = port;
    for (const auto& collectable : collectables_) exposer_->RegisterCollectable(collectable);
    return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat("cannot serve metrics on '", address, "': ", reason));
}

}  // namespace quantloom
