// How --help looks: CLI11's sections, wrapped at 100 columns and without its annotations.
#pragma once

#include <string>

#include "CLI/CLI.hpp"

namespace quantloom::cli {

class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter();
  // What stands after an option's names: its placeholder, default and environment variable.
  std::string make_option_opts(const CLI::Option* option) const override;
  std::string make_option_desc(const CLI::Option* option) const override;
  std::string make_footer(const CLI::App* app) const override;
};

}  // namespace quantloom::cli
