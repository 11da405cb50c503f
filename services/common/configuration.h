// A service's settings, from four places with one precedence: command line flag, environment
// variable, configuration file, default.
//
//   Configuration configuration("quantloom-quantizer", "Quantizes language models.");
//   configuration.Add("threads", options.threads, "Threads that encode; 0: one per processor");
//   if (auto exit_code = configuration.Parse(argc, argv, std::cout, std::cerr)) return *exit_code;
//
// The setting `max-running-jobs` is the flag --max-running-jobs, the variable
// QUANTLOOM_MAX_RUNNING_JOBS (unset when empty) and the key max-running-jobs of the TOML file named
// by --config or QUANTLOOM_CONFIG. An unknown flag or key is refused. An unknown variable is not:
// Kubernetes injects names of this prefix for each service called quantloom-*.
#pragma once

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace quantloom {

class Configuration {
 public:
  Configuration(std::string program, std::string description);
  Configuration(const Configuration&) = delete;
  Configuration& operator=(const Configuration&) = delete;

  // Declares a setting; what `value` holds now is its default, and Parse writes to it, so it must
  // outlive this object. `name` has lower-case words joined by '-'. The returned option takes
  // further conditions, e.g. ->check(CLI::Range(1, 64)) or ->required().
  template <typename T>
  CLI::Option* Add(absl::string_view name, T& value, absl::string_view help) {
    return Declare(app_.add_option(Flag(name), value, std::string(help))->capture_default_str());
  }
  // A setting written as "90s", "1h30m" or "0"; negative ones are refused.
  CLI::Option* Add(absl::string_view name, absl::Duration& value, absl::string_view help);
  // A switch: the flag alone means true; it may have a value, as variable and key do.
  CLI::Option* Add(absl::string_view name, bool& value, absl::string_view help);
  // A list: the flag may be given several times. Elements may be separated by commas, too.
  CLI::Option* Add(absl::string_view name, std::vector<std::string>& value, absl::string_view help);

  // Fills the settings in. nullopt: go on. Otherwise the code to exit with: 0 after --help,
  // --version or --print-config, written to `out`; 2 for wrong settings, described on `err`.
  std::optional<int> Parse(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

  // Every setting in effect, a `name=value` line each: a file that --config reads.
  std::string ToString() const;

  // Names of the settings whose values are others in `other`, which has declared the same.
  std::vector<std::string> Differences(const Configuration& other) const;

 private:
  static std::string Flag(absl::string_view name);
  CLI::Option* Declare(CLI::Option* option);

  CLI::App app_;
  bool print_config_ = false;
};

}  // namespace quantloom
