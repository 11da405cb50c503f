#include "services/common/configuration.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "command_line/empty_values.h"
#include "services/common/version.h"

namespace quantloom {
namespace {

constexpr int kUsageError = 2;

std::string EnvironmentName(const CLI::Option& option) {
  return absl::StrCat("QUANTLOOM_", absl::AsciiStrToUpper(absl::StrReplaceAll(
                                        option.get_single_name(), {{"-", "_"}})));
}

}  // namespace

Configuration::Configuration(std::string program, std::string description)
    : app_(std::move(description), std::move(program)) {
  app_.set_version_flag("--version", absl::StrCat(app_.get_name(), " ", Version()));
  app_.add_flag("--print-config", print_config_, "Print the settings in effect and exit")
      ->configurable(false);
  Declare(app_.set_config("--config", "", "TOML file of settings"));
  app_.allow_config_extras(CLI::config_extras_mode::error);
}

std::string Configuration::Flag(absl::string_view name) { return absl::StrCat("--", name); }

CLI::Option* Configuration::Declare(CLI::Option* option) {
  return option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->envname(EnvironmentName(*option));
}

CLI::Option* Configuration::Add(absl::string_view name, absl::Duration& value,
                                absl::string_view help) {
  const auto parse = [&value, flag = Flag(name)](const std::string& text) {
    absl::Duration parsed;
    if (!absl::ParseDuration(text, &parsed) || parsed < absl::ZeroDuration()) {
      throw CLI::ValidationError(flag,
                                 absl::StrCat("'", text, "' is not a duration such as 90s or 1h"));
    }
    value = parsed;
  };
  CLI::Option* option = app_.add_option_function<std::string>(Flag(name), parse, std::string(help));
  return Declare(option->default_str(absl::FormatDuration(value))->type_name("DURATION"));
}

CLI::Option* Configuration::Add(absl::string_view name, bool& value, absl::string_view help) {
  return Declare(app_.add_flag(Flag(name), value, std::string(help))
                     ->default_str(value ? "true" : "false")
                     ->type_name("BOOLEAN"));
}

CLI::Option* Configuration::Add(absl::string_view name, std::vector<std::string>& value,
                                absl::string_view help) {
  // Bound by a function, since a bound vector that is empty would print as one empty element.
  const auto take = [&value](const std::vector<std::string>& elements) { value = elements; };
  CLI::Option* option =
      app_.add_option_function<std::vector<std::string>>(Flag(name), take, std::string(help));
  if (!value.empty()) option->default_str(absl::StrJoin(value, ","));
  return Declare(option)->allow_extra_args(false)->delimiter(',')->multi_option_policy(
      CLI::MultiOptionPolicy::TakeAll);
}

std::optional<int> Configuration::Parse(int argc, const char* const* argv, std::ostream& out,
                                        std::ostream& err) {
  // The environment goes in front of the flags: the last of several wins, and the file only fills
  // in what neither gave. (CLI11's own order puts the file before the environment.) Of a list all
  // are taken, so its variable is left out when there is a flag.
  const std::vector<std::string> flags(argv + 1, argv + argc);
  const auto has_flag = [&flags](const std::string& flag) {
    return std::any_of(flags.begin(), flags.end(), [&flag](const std::string& argument) {
      return argument == flag || absl::StartsWith(argument, flag + "=");
    });
  };
  std::vector<std::string> arguments;
  for (const CLI::Option* option : app_.get_options()) {
    if (option->get_envname().empty()) continue;
    if (option->get_multi_option_policy() == CLI::MultiOptionPolicy::TakeAll &&
        has_flag(Flag(option->get_single_name()))) {
      continue;
    }
    const char* value = std::getenv(option->get_envname().c_str());
    if (value == nullptr || *value == '\0') continue;
    arguments.push_back(absl::StrCat(Flag(option->get_single_name()), "=", value));
  }
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  arguments = SeparateEmptyValues(app_, arguments);
  std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them last first
  try {
    app_.parse(std::move(arguments));
  } catch (const CLI::Success& done) {
    return app_.exit(done, out, err);
  } catch (const CLI::Error& error) {
    err << app_.get_name() << ": " << error.what() << "\nRun with --help for the settings.\n";
    return kUsageError;
  }
  if (print_config_) {
    out << ToString();
    return 0;
  }
  return std::nullopt;
}

std::string Configuration::ToString() const { return app_.config_to_str(/*default_also=*/true); }

std::vector<std::string> Configuration::Differences(const Configuration& other) const {
  const auto lines = [](const Configuration& configuration) {
    std::map<std::string, std::string> values;
    const std::string text = configuration.ToString();
    for (const absl::string_view line : absl::StrSplit(text, '\n')) {
      const std::pair<std::string, std::string> setting =
          absl::StrSplit(line, absl::MaxSplits('=', 1));
      values.insert(setting);
    }
    return values;
  };
  const std::map<std::string, std::string> theirs = lines(other);
  std::vector<std::string> names;
  for (const auto& [name, value] : lines(*this)) {
    const auto found = theirs.find(name);
    if (found == theirs.end() || found->second != value) names.push_back(name);
  }
  return names;
}

}  // namespace quantloom
