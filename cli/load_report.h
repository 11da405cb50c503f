// The figures of a load run: for people, for programs, and as a picture.
#pragma once

#include <string>

#include "cli/load_result.h"
#include "nlohmann/json_fwd.hpp"

namespace quantloom::cli {

// Several lines, each ending in '\n': counts, rates, and a table of latency percentiles.
std::string RenderLoad(const LoadResult& result, const LoadSummary& summary, bool color);

// One object; docs/cli.md lists its members. `settings` is what was asked for.
nlohmann::ordered_json LoadJson(const LoadResult& result, const LoadSummary& summary,
                                nlohmann::ordered_json settings);

// A self-contained SVG document: distribution functions of the latencies, and tokens per second
// over time. `title` is text.
std::string RenderLoadPlot(const LoadSummary& summary, const LoadResult& result,
                           const std::string& title);

// "OK", "RESOURCE_EXHAUSTED", ...
std::string StatusName(grpc::StatusCode code);

}  // namespace quantloom::cli
