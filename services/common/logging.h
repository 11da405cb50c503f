// The one logging call: a sentence and named fields, a line each on stderr.
//
//   LogInfo("job finished", {{"job", name}, {"seconds", 12.5}});
//
// As text:  2026-01-02T03:04:05.678Z info job finished job=job-7f3a seconds=12.5
// As JSON:  {"time":"2026-01-02T03:04:05.678Z","level":"info","message":"job finished",
//            "job":"job-7f3a","seconds":12.5}
//
// Prompts, generated text and secrets never go into a log line. Thread-safe.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <variant>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "services/common/configuration.h"

namespace quantloom {

struct LogOptions {
  std::string level = "info";   // debug, info, warning, error
  std::string format = "text";  // text, json

  void AddTo(Configuration& configuration);
};

// Applies the options, and sends gRPC's own messages the same way. Before it: text, from info on.
void ConfigureLogging(const LogOptions& options);

// Changes the least severe level logged; `level` as in LogOptions.
void SetLogLevel(const std::string& level);

struct LogField {
  absl::string_view key;
  std::variant<std::string, int64_t, double> value;

  template <typename T>
  LogField(absl::string_view k, const T& v) : key(k) {
    if constexpr (std::is_floating_point_v<T>) {
      value = static_cast<double>(v);
    } else if constexpr (std::is_integral_v<T>) {
      value = static_cast<int64_t>(v);
    } else {
      value = std::string(v);
    }
  }
};

enum class LogLevel { kDebug, kInfo, kWarning, kError };

void Log(LogLevel level, absl::string_view message, absl::Span<const LogField> fields);

void LogDebug(absl::string_view message, std::initializer_list<LogField> fields = {});
void LogInfo(absl::string_view message, std::initializer_list<LogField> fields = {});
void LogWarning(absl::string_view message, std::initializer_list<LogField> fields = {});
void LogError(absl::string_view message, std::initializer_list<LogField> fields = {});

}  // namespace quantloom
