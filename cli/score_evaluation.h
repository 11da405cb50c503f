// `score --source`: a packed model beside its source, measured by the quantizer.
#pragma once

#include <cstdint>
#include <string>

#include "cli/session.h"

namespace quantloom::cli {

// The command line of `score`. Numbers are 0 where nothing was said.
struct ScoreArguments {
  std::string file;  // here, "-" for standard input; empty when there is a text_path
  std::string model;
  uint32_t windows = 0;
  uint32_t window_tokens = 0;
  // With a source only:
  std::string source;  // empty: perplexity of a served model
  std::string text_path;
  std::string state_file;
};

// Scores window by window, each kept in the state file when there is one, and shows the figures.
CommandResult RunEvaluation(Session& session, const ScoreArguments& arguments);

}  // namespace quantloom::cli
