// Empty values on the command line: CLI11 2.1 takes `--name=` for `--name`, and the argument after
// it for the value.
#pragma once

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <string>
#include <vector>

namespace quantloom {

// `arguments` (without the program's name) with each `--name=` that names an option with a value,
// of `app` or a subcommand, as the two arguments `--name` and "". What follows `--` stays as it is,
// and so does `--name=` of a switch. A value that itself reads `--name=` has to be attached:
// `--stop=--name=`.
std::vector<std::string> SeparateEmptyValues(const CLI::App& app,
                                             const std::vector<std::string>& arguments);

}  // namespace quantloom
