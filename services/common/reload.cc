#include "services/common/reload.h"

#include <sys/stat.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"

namespace quantloom {

bool ChangesAtRunTime(absl::string_view setting) {
  return setting == "log-level" || setting == "client-requests-per-second" ||
         setting == "client-burst" || setting == "client-concurrent-requests";
}

ReloadLog::ReloadLog(prometheus::Registry& registry)
    : reloads_(prometheus::BuildCounter()
                   .Name("quantloom_reloads_total")
                   .Help("Times that settings, tokens or certificates were read again, by result")
                   .Register(registry)) {}

void ReloadLog::Record(absl::string_view part, const absl::Status& status) {
  reloads_.Add({{"part", std::string(part)}, {"result", status.ok() ? "success" : "failure"}})
      .Increment();
  if (status.ok()) return LogInfo("reloaded", {{"part", part}});
  LogError("not reloaded; what was read before stays in effect",
           {{"part", part}, {"error", status.ToString()}});
}

CredentialReload::CredentialReload(Options options, std::shared_ptr<TlsCredentials> credentials,
                                   std::shared_ptr<AccessControl> access, ReloadLog& log,
                                   prometheus::Registry& registry)
    : options_(std::move(options)),
      credentials_(std::move(credentials)),
      access_(std::move(access)),
      log_(log),
      tls_stamp_(TlsStamp()),
      token_stamp_(Stamp(options_.token_file)) {
  if (credentials_ != nullptr) {
    expiry_ = &prometheus::BuildGauge()
                   .Name("quantloom_tls_certificate_expiry_timestamp_seconds")
                   .Help("When the server's certificate in use expires, seconds since the epoch")
                   .Register(registry)
                   .Add({});
    expiry_->Set(absl::ToDoubleSeconds(credentials_->files().expiry - absl::UnixEpoch()));
  }
  const bool has_files = credentials_ != nullptr || !options_.token_file.empty();
  if (has_files && options_.interval > absl::ZeroDuration()) {
    thread_ = std::thread([this] { Watch(); });
  }
}

CredentialReload::~CredentialReload() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

std::string CredentialReload::Stamp(const std::string& path) {
  struct stat file {};
  if (path.empty() || stat(path.c_str(), &file) != 0) return "";
  return absl::StrCat(file.st_dev, ":", file.st_ino, ":", file.st_size, ":", file.st_mtim.tv_sec,
                      ":", file.st_mtim.tv_nsec);
}

std::string CredentialReload::TlsStamp() const {
  return absl::StrCat(Stamp(options_.tls.certificate), " ", Stamp(options_.tls.key), " ",
                      Stamp(options_.tls.client_ca));
}

void CredentialReload::Reload() {
  const std::lock_guard lock(mutex_);
  ReloadCertificates();
  ReloadTokens();
}

void CredentialReload::ReloadCertificates() {
  if (credentials_ == nullptr) return;
  tls_stamp_ = TlsStamp();  // before the files are read: a later change is seen as one
  absl::StatusOr<CertificateFiles> files = ReadCertificateFiles(options_.tls);
  const absl::Status status = files.status();
  if (status.ok()) {
    LogInfo("TLS certificate", {{"subject", files->subject},
                                {"expires", absl::FormatTime(files->expiry, absl::UTCTimeZone())}});
    expiry_->Set(absl::ToDoubleSeconds(files->expiry - absl::UnixEpoch()));
    credentials_->Replace(*std::move(files));
  }
  log_.Record("certificates", status);
}

void CredentialReload::ReloadTokens() {
  if (options_.token_file.empty()) return;
  token_stamp_ = Stamp(options_.token_file);
  log_.Record("tokens", access_->ReloadTokens());
}

void CredentialReload::Watch() {
  const std::chrono::nanoseconds interval = absl::ToChronoNanoseconds(options_.interval);
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, interval, [this] { return stop_; })) {
    if (TlsStamp() != tls_stamp_) ReloadCertificates();
    if (Stamp(options_.token_file) != token_stamp_) ReloadTokens();
  }
}

}  // namespace quantloom
