// quantloom load
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/generation_options.h"
#include "cli/load_generator.h"
#include "cli/load_progress.h"
#include "cli/load_report.h"
#include "cli/load_workload.h"
#include "cli/local_text.h"
#include "cli/session.h"
#include "cli/units.h"
#include "nlohmann/json.hpp"

namespace quantloom::cli {

using ::quantloom::v1::ListModelsRequest;
using ::quantloom::v1::ListModelsResponse;
using ::quantloom::v1::Model;
using ::quantloom::v1::ModelService;

namespace {

constexpr char kLoadFooter[] =
    "Lengths are 128, uniform:16,512, normal:128,32 (mean, deviation) or lognormal:128,0.5 "
    "(median, deviation\n"
    "of the logarithm), in tokens; prompts are random tokens unless there is a file of them. All "
    "that is random\n"
    "follows from --load-seed.\n\n"
    "Latencies count from when a request was due: with --rate a server that falls behind is "
    "charged for it.\n"
    "They are of requests that ended OK. Ctrl-C ends the run with the figures so far.\n\n"
    "Examples:\n"
    "  quantloom load --streams 16 --duration 60s --warmup 5s\n"
    "  quantloom load --rate 4 --prompt-tokens lognormal:256,0.8 --output-tokens uniform:16,256\n"
    "  quantloom load --streams 1000 --requests 1000 --plot load.svg\n"
    "  quantloom load --rate 2 --shared-prefix 1000 --json | jq "
    "'.latency_seconds.time_to_first_token'\n";
constexpr uint32_t kDefaultStreams = 4;
constexpr double kDefaultSeconds = 30;
constexpr char kArrivals[] = "Arrivals";
constexpr char kRequests[] = "Requests";
constexpr char kReport[] = "Report";

struct LoadArguments {
  LoadSchedule schedule;
  Workload::Options workload;
  std::string prompt_tokens = "128";
  std::string output_tokens = "64";
  std::string prompts_file;
  bool constant = false;
  bool stop_at_eos = false;
  std::string plot_file;
};

// What random prompts have to fit: the model that will answer.
absl::StatusOr<Model> FindModel(Session& session, const std::string& name) {
  const absl::StatusOr<ListModelsResponse> list = session.connection().Call(
      session.connection().models(), &ModelService::Stub::ListModels, ListModelsRequest());
  if (!list.ok()) return list.status();
  const Model* found = nullptr;
  int loaded = 0;
  for (const Model& model : list->models()) {
    const bool is_loaded = model.state() == quantloom::v1::MODEL_STATE_LOADED;
    if (is_loaded) ++loaded;
    if (name.empty() ? is_loaded : model.name() == name) found = &model;
  }
  if (!name.empty() && found == nullptr) {
    return absl::NotFoundError(absl::StrCat("the server has no model '", name, "'"));
  }
  if (name.empty() && loaded != 1) {
    return absl::FailedPreconditionError(
        absl::StrCat("the server has ", loaded, " models loaded; --model says which one"));
  }
  if (found->vocab_size() == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the server does not say what vocabulary '", found->name(), "' has"));
  }
  return *found;
}

absl::Status PrepareWorkload(Session& session, const LoadArguments& arguments,
                             Workload::Options& workload) {
  for (const auto& [option, text, length] :
       {std::tuple("--prompt-tokens", &arguments.prompt_tokens, &workload.prompt_tokens),
        std::tuple("--output-tokens", &arguments.output_tokens, &workload.output_tokens)}) {
    const absl::StatusOr<LengthDistribution> parsed = LengthDistribution::Parse(*text);
    if (!parsed.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(option, ": ", parsed.status().message()));
    }
    *length = *parsed;
  }
  workload.common.set_ignore_eos(!arguments.stop_at_eos);
  if (!arguments.prompts_file.empty()) {
    const absl::StatusOr<std::string> text =
        ReadText(arguments.prompts_file, std::numeric_limits<size_t>::max());
    if (!text.ok()) return text.status();
    auto prompts = ParsePrompts(*text);
    if (!prompts.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(arguments.prompts_file, ": ", prompts.status().message()));
    }
    workload.prompts = *std::move(prompts);
    return absl::OkStatus();
  }
  const absl::StatusOr<Model> model = FindModel(session, workload.common.model());
  if (!model.ok()) return model.status();
  workload.common.set_model(model->name());
  workload.vocab_size = model->vocab_size();
  workload.context_length = model->context_length();
  return absl::OkStatus();
}

nlohmann::ordered_json SettingsJson(const LoadArguments& arguments,
                                    const Workload::Options& workload) {
  const LoadSchedule& schedule = arguments.schedule;
  nlohmann::ordered_json json = {{"model", workload.common.model()}};
  if (schedule.streams > 0) {
    json["streams"] = schedule.streams;
  } else {
    json["requests_per_second"] = schedule.rate;
    json["arrivals"] = schedule.poisson ? "poisson" : "constant";
  }
  if (std::isfinite(schedule.duration)) json["duration_seconds"] = schedule.duration;
  if (schedule.requests != std::numeric_limits<uint64_t>::max()) {
    json["requests"] = schedule.requests;
  }
  json["warmup_seconds"] = schedule.warmup;
  if (arguments.prompts_file.empty()) {
    json["prompt_tokens"] = arguments.prompt_tokens;
    json["shared_prefix_tokens"] = workload.shared_prefix;
  } else {
    json["prompts"] = workload.prompts.size();
  }
  json["output_tokens"] = arguments.output_tokens;
  json["cancel_fraction"] = workload.cancel_fraction;
  json["seed"] = workload.seed;
  return json;
}

std::string PlotTitle(const LoadSchedule& schedule, const LoadSummary& summary,
                      const std::string& model) {
  return absl::StrCat(
      model, model.empty() ? "" : ": ",
      schedule.streams > 0 ? absl::StrCat(schedule.streams, " streams")
                           : absl::StrFormat("%g requests/s, %s", schedule.rate,
                                             schedule.poisson ? "Poisson" : "evenly"),
      absl::StrFormat(", %s requests, %.1f tokens/s generated", FormatGrouped(summary.sent),
                      summary.Rate(summary.generated_tokens)));
}

absl::Status WritePlot(const std::string& path, const std::string& text) {
  FILE* file = fopen(path.c_str(), "wbe");
  if (file == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open '", path, "'"));
  }
  const bool written = fwrite(text.data(), 1, text.size(), file) == text.size();
  if (fclose(file) == 0 && written) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot write '", path, "'"));
}

// The error that a run without any success ends with.
absl::Status NothingWorked(const LoadResult& result, const LoadSummary& summary) {
  if (summary.ok() > 0 || result.messages.empty() || result.stopped) return absl::OkStatus();
  const auto& [code, message] = *result.messages.begin();
  return absl::Status(static_cast<absl::StatusCode>(code),
                      absl::StrCat("no request ended OK: ", message));
}

CommandResult RunLoad(Session& session, const LoadArguments& arguments) {
  Workload::Options options = arguments.workload;
  if (absl::Status status = PrepareWorkload(session, arguments, options); !status.ok()) {
    return status;
  }
  LoadSchedule schedule = arguments.schedule;
  schedule.seed = options.seed;
  if (const absl::Duration timeout = session.connection().options().timeout;
      timeout > absl::ZeroDuration()) {
    schedule.timeout = timeout;
  }
  const Workload workload(options);
  LoadGenerator generator(session.connection().generation(), workload, schedule);
  LoadResult result;
  {
    CatchInterrupts();
    const InterruptScope interrupts([&] { generator.Stop(); });
    LoadProgress progress(session, schedule);
    result = generator.Run([&](const LoadGenerator::Progress& now) { progress.Show(now); });
  }
  const LoadSummary summary = LoadSummary::Of(result);
  Console& console = session.console();
  if (session.json()) {
    console.Out(LoadJson(result, summary, SettingsJson(arguments, options))
                    .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) +
                "\n");
  } else {
    console.Out(RenderLoad(result, summary, console.out_color()));
  }
  if (!arguments.plot_file.empty()) {
    absl::Status status = WritePlot(
        arguments.plot_file,
        RenderLoadPlot(summary, result, PlotTitle(schedule, summary, options.common.model())));
    if (!status.ok()) return status;
  }
  if (absl::Status status = NothingWorked(result, summary); !status.ok()) return status;
  return result.stopped ? ExitCode::kInterrupted : ExitCode::kOk;
}

CLI::Option* AddDuration(CLI::App& command, const std::string& name, double& seconds,
                         const std::string& help) {
  return command
      .add_option_function<std::string>(
          name,
          [name, &seconds](const std::string& text) {
            absl::Duration duration;
            if (!ParseTimeout(text, &duration)) {
              throw CLI::ValidationError(name, "'" + text + "' is not a duration like 30s or 5m");
            }
            seconds = absl::ToDoubleSeconds(duration);
          },
          help)
      ->option_text("DURATION")
      ->group(kArrivals);
}

void AddArrivals(CLI::App& command, LoadArguments& arguments) {
  LoadSchedule& schedule = arguments.schedule;
  CLI::Option* streams =
      command
          .add_option("--streams", schedule.streams,
                      "Closed loop: so many streams, each with one request after the other [4]")
          ->check(CLI::Range(1, 100'000))
          ->option_text("N")
          ->group(kArrivals);
  CLI::Option* rate =
      command
          .add_option("--rate", schedule.rate,
                      "Open loop: requests per second, whatever becomes of those before")
          ->check(CLI::Range(1e-3, 1e5))
          ->option_text("R")
          ->excludes(streams)
          ->group(kArrivals);
  command
      .add_flag("--constant", arguments.constant,
                "Requests of --rate come evenly; otherwise at random moments (Poisson)")
      ->needs(rate)
      ->group(kArrivals);
  command.add_option("--requests", schedule.requests, "Ends after so many, warm-up not counted")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 40))
      ->option_text("N")
      ->group(kArrivals);
  AddDuration(command, "--duration", schedule.duration,
              "Sends no more after this time, warm-up not counted [30s; no end with --requests]");
  AddDuration(command, "--warmup", schedule.warmup,
              "What is sent in the first so much time is not measured [0s]");
  command
      .add_option("--max-in-flight", schedule.max_in_flight,
                  "Requests of --rate beyond these wait here; their latency counts from when they "
                  "were due")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str()
      ->option_text("N")
      ->group(kArrivals);
}

void AddRequests(CLI::App& command, LoadArguments& arguments) {
  Workload::Options& workload = arguments.workload;
  CLI::Option* lengths =
      command.add_option("--prompt-tokens", arguments.prompt_tokens, "Length of random prompts")
          ->capture_default_str()
          ->option_text("LENGTH")
          ->group(kRequests);
  CLI::Option* prefix =
      command
          .add_option("--shared-prefix", workload.shared_prefix,
                      "Tokens that all random prompts begin with, beside --prompt-tokens others")
          ->check(CLI::Range(0, 1 << 20))
          ->option_text("N")
          ->group(kRequests);
  command
      .add_option(
          "--prompts", arguments.prompts_file,
          "Prompts to send in turn: lines of JSON, each a string, or an object with prompt, "
          "prompt_tokens or messages, and perhaps max_tokens; - for standard input")
      ->option_text("FILE")
      ->excludes(lengths)
      ->excludes(prefix)
      ->group(kRequests);
  command.add_option("--output-tokens", arguments.output_tokens, "Tokens to generate")
      ->capture_default_str()
      ->option_text("LENGTH")
      ->group(kRequests);
  command
      .add_flag("--stop-at-eos", arguments.stop_at_eos,
                "Answers end where the model ends them; otherwise they have the length drawn")
      ->group(kRequests);
  command
      .add_option(
          "--clients", workload.clients,
          "Requests come in turn from so many clients: NAME-1, NAME-2, ..., with the NAME of "
          "--client")
      ->check(CLI::Range(1, 1'000'000))
      ->option_text("N")
      ->group(kRequests);
  command
      .add_option("--cancel-fraction", workload.cancel_fraction,
                  "Share of requests to cancel after a random number of tokens [0]")
      ->check(CLI::Range(0.0, 1.0))
      ->option_text("X")
      ->group(kRequests);
}

}  // namespace

void AddLoadCommand(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<LoadArguments>();
  CLI::App* command =
      app.add_subcommand("load", "Send many requests, and measure how they are served");
  command->footer(kLoadFooter);
  AddModelOption(*command, arguments->workload.common);
  AddArrivals(*command, *arguments);
  AddRequests(*command, *arguments);
  AddSamplingOptions(*command, arguments->workload.common);
  AddServingOptions(*command, arguments->workload.common);
  command
      ->add_option("--load-seed", arguments->workload.seed,
                   "Decides arrivals, lengths, prompts and what is cancelled")
      ->capture_default_str()
      ->option_text("N")
      ->group(kRequests);
  command
      ->add_option("--plot", arguments->plot_file,
                   "Write a picture (SVG): distributions of the latencies, tokens/s over time")
      ->option_text("FILE")
      ->group(kReport);
  command->callback([&session, arguments, command] {
    LoadSchedule& schedule = arguments->schedule;
    schedule.poisson = !arguments->constant;
    if (schedule.rate == 0 && schedule.streams == 0) schedule.streams = kDefaultStreams;
    if (command->count("--requests") + command->count("--duration") == 0) {
      schedule.duration = kDefaultSeconds;
    }
    session.command = [&session, arguments] { return RunLoad(session, *arguments); };
  });
}

}  // namespace quantloom::cli
