// quantloom quantize
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/job_view.h"
#include "cli/local_text.h"
#include "cli/session.h"

namespace quantloom::cli {

using ::quantloom::v1::QuantizeRequest;

namespace {

constexpr char kQuantizeFooter[] =
    "Recipes are `codec:key=value,...`, for example "
    "icquant:bits=2,outliers=0.05,inner=kmeans.\n\n"
    "A lost connection is taken up again by itself. Ctrl-C detaches: the job goes on, `quantloom "
    "watch JOB`\n"
    "shows it again, `quantloom cancel JOB` ends it. Repeating a command with the same "
    "--request-id attaches\n"
    "to the same job.\n\n"
    "Examples:\n"
    "  quantloom quantize SmolLM2-135M smollm2-2bit --recipe "
    "icquant:bits=2,outliers=0.05,inner=kmeans\n"
    "  quantloom quantize model.gguf mixed -r icquant:bits=3 --override "
    "'*.down_proj.weight=icquant:bits=4'\n"
    "  quantloom quantize model.gguf out -r icquant:bits=4 --calibration wiki.txt --evaluate "
    "test.txt --windows 40\n"
    "  quantloom quantize model.gguf out -r icquant:bits=4 --detach --json | jq -r .job.name\n";

struct QuantizeArguments {
  std::string source;
  std::string output;
  std::string recipe;
  std::string embedding_recipe;
  std::vector<std::string> overrides;  // "PATTERN=RECIPE"
  std::string calibration_file;
  std::string calibration_path;
  std::optional<uint32_t> calibration_tokens;
  bool source_activations = false;
  std::string evaluation_file;
  std::string evaluation_path;
  uint32_t windows = 0;
  uint32_t window_tokens = 0;
  uint64_t seed = 0;
  std::string request_id;
  bool detach = false;
};

std::string MakeRequestId() {
  std::random_device random;
  return absl::StrFormat("cli-%08x%08x", random(), random());
}

absl::StatusOr<QuantizeRequest> MakeQuantizeRequest(const QuantizeArguments& arguments) {
  QuantizeRequest request;
  request.set_request_id(arguments.request_id.empty() ? MakeRequestId() : arguments.request_id);
  request.set_source(arguments.source);
  request.set_output(arguments.output);
  request.set_recipe(arguments.recipe);
  request.set_embedding_recipe(arguments.embedding_recipe);
  request.set_seed(arguments.seed);
  for (const std::string& text : arguments.overrides) {
    // Recipes have '=' in them, tensor names do not.
    const size_t equals = text.find('=');
    auto* tensor_override = request.add_overrides();
    tensor_override->set_pattern(text.substr(0, equals));
    tensor_override->set_recipe(text.substr(equals + 1));
  }
  if (!arguments.calibration_path.empty()) {
    request.mutable_calibration()->set_path(arguments.calibration_path);
  }
  if (!arguments.calibration_file.empty()) {
    absl::StatusOr<std::string> text =
        ReadInlineText(arguments.calibration_file, "--calibration-path");
    if (!text.ok()) return text.status();
    request.mutable_calibration()->set_inline_text(*std::move(text));
  }
  if (arguments.calibration_tokens.has_value()) {
    request.mutable_calibration()->set_tokens(*arguments.calibration_tokens);
  }
  if (arguments.source_activations) {
    request.mutable_calibration()->set_activations(v1::Calibration::ACTIVATIONS_SOURCE);
  }
  if (!arguments.evaluation_path.empty()) {
    request.mutable_evaluation()->set_path(arguments.evaluation_path);
  }
  if (!arguments.evaluation_file.empty()) {
    absl::StatusOr<std::string> text = ReadInlineText(arguments.evaluation_file, "--evaluate-path");
    if (!text.ok()) return text.status();
    request.mutable_evaluation()->set_inline_text(*std::move(text));
  }
  if (request.has_evaluation()) {
    request.mutable_evaluation()->set_windows(arguments.windows);
    request.mutable_evaluation()->set_window_tokens(arguments.window_tokens);
  }
  return request;
}

CommandResult RunQuantize(Session& session, const QuantizeArguments& arguments) {
  const absl::StatusOr<QuantizeRequest> request = MakeQuantizeRequest(arguments);
  if (!request.ok()) return request.status();
  JobView view(session);
  return arguments.detach ? view.Start(*request) : view.Quantize(*request);
}

void AddTextOptions(CLI::App& command, QuantizeArguments& arguments) {
  CLI::Option* file =
      command
          .add_option(
              "--calibration", arguments.calibration_file,
              "Text to calibrate on: a file here, sent along (UTF-8, up to 2 MiB). Without it the "
              "source model writes its own")
          ->type_name("FILE");
  command
      .add_option("--calibration-path", arguments.calibration_path,
                  "Text to calibrate on: a file under the quantizer's source root")
      ->type_name("PATH")
      ->excludes(file);
  command
      .add_option("--calibration-tokens", arguments.calibration_tokens,
                  "Tokens to calibrate on [8192]; 0: none, every weight counts the same")
      ->type_name("N");
  command.add_flag("--source-activations", arguments.source_activations,
                   "Calibrate on the source model's activations, not on those that the layers "
                   "already quantized leave");
  CLI::Option* evaluate =
      command
          .add_option("--evaluate", arguments.evaluation_file,
                      "Text to measure source and packed model on: a file here, sent along")
          ->type_name("FILE");
  CLI::Option* evaluate_path =
      command
          .add_option("--evaluate-path", arguments.evaluation_path,
                      "Text to measure on: a file under the quantizer's source root")
          ->type_name("PATH")
          ->excludes(evaluate);
  const auto add_windows = [&](const char* name, uint32_t& value, const char* help) {
    CLI::Option* option = command.add_option(name, value, help)->type_name("N");
    option->check([evaluate, evaluate_path](const std::string&) {
      return evaluate->empty() && evaluate_path->empty()
                 ? std::string("needs --evaluate or --evaluate-path")
                 : std::string();
    });
  };
  add_windows("--windows", arguments.windows, "Windows of the text to measure on [all]");
  add_windows("--window-tokens", arguments.window_tokens, "Tokens in a window [512]");
}

}  // namespace

void AddQuantizeCommand(CLI::App& app, Session& session) {
  auto owned = std::make_shared<QuantizeArguments>();
  QuantizeArguments& arguments = *owned;
  CLI::App* command = app.add_subcommand("quantize", "Quantize a model and follow the job");
  command->footer(kQuantizeFooter);
  command
      ->add_option(
          "SOURCE", arguments.source,
          "Model under the quantizer's source root: a Hugging Face directory or a GGUF file")
      ->required()
      ->option_text(" ");
  command->add_option("OUTPUT", arguments.output, "Name of the model to make under its model root")
      ->required()
      ->option_text(" ");
  command->add_option("-r,--recipe", arguments.recipe, "Codec and options for the linear layers")
      ->required()
      ->option_text("RECIPE (required)");
  command
      ->add_option("--embedding-recipe", arguments.embedding_recipe,
                   "For the embedding and the output head [icquant:bits=8,inner=rtn,outliers=0]")
      ->option_text("RECIPE");
  command
      ->add_option(
          "--override", arguments.overrides,
          "For the tensors whose names match, * and ? as in a shell; the first match wins; may be "
          "repeated")
      ->option_text("PATTERN=RECIPE")
      ->allow_extra_args(false)
      ->check([](const std::string& text) {
        const size_t equals = text.find('=');
        const bool complete = equals != std::string::npos && equals > 0 && equals + 1 < text.size();
        return complete ? std::string() : "'" + text + "' is not PATTERN=RECIPE";
      });
  AddTextOptions(*command, arguments);
  command->add_option("--seed", arguments.seed, "Seed of everything random [0]")->type_name("N");
  command
      ->add_option("--request-id", arguments.request_id,
                   "Name of this request; the same name attaches to the same job [made up]")
      ->type_name("ID");
  command->add_flag("--detach", arguments.detach, "Start the job and return");
  command->callback([&session, owned] {
    session.command = [&session, owned] { return RunQuantize(session, *owned); };
  });
}

}  // namespace quantloom::cli
