// What a running service reads again: settings, tokens, certificates. Each is taken whole or not at
// all, and each time is logged and counted.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/common/access_control.h"
#include "services/common/tls_credentials.h"

namespace quantloom {

// Whether a setting (services/common/configuration.h) can change in a running service.
bool ChangesAtRunTime(absl::string_view setting);

// quantloom_reloads_total{part,result}. Thread-safe.
class ReloadLog {
 public:
  explicit ReloadLog(prometheus::Registry& registry);
  // `part`: "settings", "tokens" or "certificates".
  void Record(absl::string_view part, const absl::Status& status);

 private:
  prometheus::Family<prometheus::Counter>& reloads_;
};

// The files behind a server's certificates and tokens, looked at regularly and on request.
// Thread-safe.
class CredentialReload {
 public:
  struct Options {
    TlsOptions tls;
    std::string token_file;
    absl::Duration interval;  // zero: on request only
  };
  // `credentials` is null without TLS.
  CredentialReload(Options options, std::shared_ptr<TlsCredentials> credentials,
                   std::shared_ptr<AccessControl> access, ReloadLog& log,
                   prometheus::Registry& registry);
  ~CredentialReload();
  CredentialReload(const CredentialReload&) = delete;
  CredentialReload& operator=(const CredentialReload&) = delete;

  // Reads all files again, whether or not they have changed.
  void Reload();

 private:
  // What of a file is compared: where it is, its size and its time; empty when there is none.
  static std::string Stamp(const std::string& path);
  std::string TlsStamp() const;

  void ReloadCertificates();
  void ReloadTokens();
  void Watch();

  const Options options_;
  const std::shared_ptr<TlsCredentials> credentials_;
  const std::shared_ptr<AccessControl> access_;
  ReloadLog& log_;
  prometheus::Gauge* expiry_ = nullptr;

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::string tls_stamp_;
  std::string token_stamp_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace quantloom
