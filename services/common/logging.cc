#include "services/common/logging.h"

#include <grpc/support/log.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <memory>

#include "absl/strings/str_cat.h"
#include "core/base/json.h"

namespace quantloom {
namespace {

std::atomic<bool> json_format{false};

void SetPattern(spdlog::logger& logger, bool json) {
  // %v is the fields as FormatJson and FormatText write them.
  logger.set_pattern(
      json ? R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l",%v})" : "%Y-%m-%dT%H:%M:%S.%eZ %l %v",
      spdlog::pattern_time_type::utc);
}

spdlog::logger& Logger() {
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto created = std::make_shared<spdlog::logger>(
        "quantloom", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    SetPattern(*created, false);
    return created;
  }();
  return *logger;
}

// The members of a JSON object, without its braces.
std::string FormatJson(absl::string_view message, absl::Span<const LogField> fields) {
  std::string text = absl::StrCat("\"message\":", DumpJson(std::string(message)));
  for (const LogField& field : fields) {
    const nlohmann::json value =
        std::visit([](const auto& v) { return nlohmann::json(v); }, field.value);
    absl::StrAppend(&text, ",", DumpJson(std::string(field.key)), ":", DumpJson(value));
  }
  return text;
}

// Strings with anything but plain characters are quoted, so that no value can forge a line.
std::string FormatText(absl::string_view message, absl::Span<const LogField> fields) {
  std::string text = DumpJson(std::string(message));
  text = text.substr(1, text.size() - 2);
  for (const LogField& field : fields) {
    absl::StrAppend(&text, " ", field.key, "=");
    if (const auto* string = std::get_if<std::string>(&field.value)) {
      const std::string quoted = DumpJson(*string);
      const bool plain = !string->empty() && quoted.size() == string->size() + 2 &&
                         string->find_first_of(" =") == std::string::npos;
      absl::StrAppend(&text, plain ? *string : quoted);
    } else {
      std::visit([&](const auto& v) { absl::StrAppend(&text, v); }, field.value);
    }
  }
  return text;
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      break;
  }
  return spdlog::level::err;
}

void LogFromGrpc(gpr_log_func_args* args) {
  switch (args->severity) {
    case GPR_LOG_SEVERITY_DEBUG:
      return LogDebug(args->message, {{"source", "grpc"}});
    case GPR_LOG_SEVERITY_INFO:
      return LogInfo(args->message, {{"source", "grpc"}});
    case GPR_LOG_SEVERITY_ERROR:
      return LogWarning(args->message, {{"source", "grpc"}});
  }
}

}  // namespace

void LogOptions::AddTo(Configuration& configuration) {
  configuration.Add("log-level", level, "Least severe messages to log")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}));
  configuration.Add("log-format", format, "Log lines as text or as JSON objects")
      ->check(CLI::IsMember({"text", "json"}));
}

void ConfigureLogging(const LogOptions& options) {
  json_format = options.format == "json";
  SetPattern(Logger(), json_format);
  SetLogLevel(options.level);
  gpr_set_log_function(LogFromGrpc);
}

void SetLogLevel(const std::string& level) { Logger().set_level(spdlog::level::from_str(level)); }

void Log(LogLevel level, absl::string_view message, absl::Span<const LogField> fields) {
  spdlog::logger& logger = Logger();
  if (!logger.should_log(ToSpdlog(level))) return;
  const std::string text =
      json_format.load() ? FormatJson(message, fields) : FormatText(message, fields);
  logger.log(ToSpdlog(level), spdlog::string_view_t(text.data(), text.size()));
}

void LogDebug(absl::string_view message, std::initializer_list<LogField> fields) {
  Log(LogLevel::kDebug, message, absl::MakeConstSpan(fields.begin(), fields.size()));
}
void LogInfo(absl::string_view message, std::initializer_list<LogField> fields) {
  Log(LogLevel::kInfo, message, absl::MakeConstSpan(fields.begin(), fields.size()));
}
void LogWarning(absl::string_view message, std::initializer_list<LogField> fields) {
  Log(LogLevel::kWarning, message, absl::MakeConstSpan(fields.begin(), fields.size()));
}
void LogError(absl::string_view message, std::initializer_list<LogField> fields) {
  Log(LogLevel::kError, message, absl::MakeConstSpan(fields.begin(), fields.size()));
}

}  // namespace quantloom
