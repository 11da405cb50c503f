// quantloom models, model load, model unload, batch, info
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "cli/session.h"
#include "cli/table.h"
#include "cli/units.h"

namespace quantloom::cli {

using ::quantloom::v1::Codec;
using ::quantloom::v1::EngineState;
using ::quantloom::v1::GetRunningBatchRequest;
using ::quantloom::v1::GetServerInfoRequest;
using ::quantloom::v1::ListModelsRequest;
using ::quantloom::v1::ListModelsResponse;
using ::quantloom::v1::LoadModelRequest;
using ::quantloom::v1::Model;
using ::quantloom::v1::ModelService;
using ::quantloom::v1::ModelState_Name;
using ::quantloom::v1::Priority_Name;
using ::quantloom::v1::RunningBatch;
using ::quantloom::v1::SequencePhase_Name;
using ::quantloom::v1::SequenceState;
using ::quantloom::v1::ServerInfo;
using ::quantloom::v1::UnloadModelRequest;

namespace {

std::string StateText(const Model& model) {
  return absl::StrCat(
      absl::AsciiStrToLower(absl::StripPrefix(ModelState_Name(model.state()), "MODEL_STATE_")),
      model.update_available() ? " (outdated)" : "");
}

void AddModel(const Model& model, Table& table) {
  if (!model.problem().empty()) {
    table.Add({model.name(), "unusable", "", "", "", "", "", "", model.problem()});
    return;
  }
  table.Add({model.name(), StateText(model), FormatCount(static_cast<double>(model.parameters())),
             absl::StrFormat("%.2f", model.linear_bits_per_weight()),
             absl::StrFormat("%.2f", model.bits_per_weight()), FormatBytes(model.packed_bytes()),
             absl::StrCat(model.context_length()), model.chat() ? "yes" : "no", model.recipe()});
}

CommandResult RunModels(Session& session) {
  const absl::StatusOr<ListModelsResponse> response = session.connection().Call(
      session.connection().models(), &ModelService::Stub::ListModels, ListModelsRequest());
  if (!response.ok()) return response.status();
  if (session.json()) {
    session.OutJson(*response);
    return ExitCode::kOk;
  }
  if (response->models().empty()) {
    session.Note("No models.");
    return ExitCode::kOk;
  }
  constexpr Table::Align kRight = Table::Align::kRight;
  Table table({{"MODEL"},
               {"STATE"},
               {"WEIGHTS", kRight},
               {"LINEAR B/W", kRight},
               {"ALL B/W", kRight},
               {"SIZE", kRight},
               {"CONTEXT", kRight},
               {"CHAT"},
               {"RECIPE"}});
  for (const Model& model : response->models()) AddModel(model, table);
  session.console().Out(table.Render(session.console().out_color()));
  return ExitCode::kOk;
}

// Loading reads a whole model and unloading waits for running requests: both take what they take.
template <typename Request>
CommandResult ChangeModel(Session& session, const std::string& name,
                          grpc::Status (ModelService::Stub::*method)(grpc::ClientContext*,
                                                                     const Request&, Model*)) {
  Request request;
  request.set_name(name);
  const absl::StatusOr<Model> model = session.connection().Call(
      session.connection().models(), method, request, absl::InfiniteDuration());
  if (!model.ok()) return model.status();
  if (session.json()) {
    session.OutJson(*model);
  } else {
    session.console().Out(absl::StrCat(model->name(), ": ", StateText(*model), "\n"));
  }
  return ExitCode::kOk;
}

std::string PhaseText(const SequenceState& sequence) {
  std::string text = absl::AsciiStrToLower(
      absl::StripPrefix(SequencePhase_Name(sequence.phase()), "SEQUENCE_PHASE_"));
  if (sequence.scoring()) absl::StrAppend(&text, ", scoring");
  if (sequence.paused()) absl::StrAppend(&text, ", paused");
  if (sequence.preempted()) absl::StrAppend(&text, ", preempted");
  return text;
}

std::string EngineText(const EngineState& engine, bool color) {
  std::string text = absl::StrCat(
      engine.model(), engine.ending() ? " (ending)" : "", ": ", engine.running_requests(),
      " running, ", engine.waiting_requests(), " waiting; KV blocks ", engine.kv_blocks_used(),
      " used, ", engine.kv_blocks_cached(), " cached, of ", engine.kv_blocks_total(), " of ",
      engine.kv_block_tokens(), " tokens; step ", engine.steps(), ", ", engine.step_tokens(),
      " tokens; ", engine.preemptions(), " preempted\n");
  if (engine.sequences().empty()) return text;
  constexpr Table::Align kRight = Table::Align::kRight;
  Table table({{"REQUEST"},
               {"CLIENT"},
               {"PRIORITY"},
               {"PHASE"},
               {"PROMPT", kRight},
               {"CACHED", kRight},
               {"GENERATED", kRight},
               {"BLOCKS", kRight},
               {"AGE", kRight}});
  for (const SequenceState& sequence : engine.sequences()) {
    table.Add(
        {sequence.request_id(), sequence.client(),
         absl::AsciiStrToLower(absl::StripPrefix(Priority_Name(sequence.priority()), "PRIORITY_")),
         PhaseText(sequence), absl::StrCat(sequence.prompt_tokens()),
         absl::StrCat(sequence.cached_tokens()), absl::StrCat(sequence.generated_tokens()),
         absl::StrCat(sequence.kv_blocks()), FormatElapsed(ToDuration(sequence.age()))});
  }
  return absl::StrCat(text, table.Render(color));
}

CommandResult RunBatch(Session& session, const std::string& model) {
  GetRunningBatchRequest request;
  request.set_model(model);
  const absl::StatusOr<RunningBatch> batch = session.connection().Call(
      session.connection().models(), &ModelService::Stub::GetRunningBatch, request);
  if (!batch.ok()) return batch.status();
  if (session.json()) {
    session.OutJson(*batch);
    return ExitCode::kOk;
  }
  if (batch->engines().empty()) session.Note("No model is loaded.");
  for (const EngineState& engine : batch->engines()) {
    session.console().Out(EngineText(engine, session.console().out_color()));
  }
  return ExitCode::kOk;
}

std::string OptionList(const Codec& codec) {
  std::string text;
  for (const auto& option : codec.options()) {
    absl::StrAppend(&text, "  ", option.key(), ": ", option.description(), "\n");
  }
  return text;
}

CommandResult RunInfo(Session& session) {
  const absl::StatusOr<ServerInfo> info = session.connection().Call(
      session.connection().models(), &ModelService::Stub::GetServerInfo, GetServerInfoRequest());
  if (!info.ok()) return info.status();
  if (session.json()) {
    session.OutJson(*info);
    return ExitCode::kOk;
  }
  std::string text = RenderPairs({
      {"server", session.connection().options().server},
      {"version", info->version()},
      {"device", info->device()},
      {"SIMD target", info->simd_target()},
      {"threads", absl::StrCat(info->threads())},
      {"requests", absl::StrCat(info->max_running_requests(), " running, ",
                                info->max_waiting_requests(), " waiting (per model)")},
      {"KV cache", absl::StrCat(FormatGrouped(info->kv_cache_tokens()), " tokens (per model)")},
      {"largest message", absl::StrCat(FormatGrouped(info->max_message_bytes()), " bytes")},
      {"running since", FormatTime(info->start_time())},
  });
  for (const Codec& codec : info->codecs()) {
    absl::StrAppend(&text, "\ncodec ", codec.name(), ": ", codec.summary(), "\n",
                    OptionList(codec));
  }
  session.console().Out(text);
  return ExitCode::kOk;
}

void AddLoading(CLI::App& app, Session& session) {
  CLI::App* group = app.add_subcommand("model", "Load and unload models");
  group->require_subcommand(1);
  group->footer(
      "Examples:\n  quantloom model load smollm2-2bit\n  quantloom model unload smollm2-2bit\n");
  const auto add = [&](const char* verb, const char* help, auto method) {
    auto name = std::make_shared<std::string>();
    CLI::App* command = group->add_subcommand(verb, help);
    command->add_option("NAME", *name, "Model, as `quantloom models` lists it")
        ->required()
        ->option_text(" ");
    command->callback([&session, name, method] {
      session.command = [&session, name, method] { return ChangeModel(session, *name, method); };
    });
  };
  add("load", "Load a model, or the version that has replaced it; returns when it can serve",
      &ModelService::Stub::LoadModel);
  add("unload", "Stop serving a model, once its requests have ended",
      &ModelService::Stub::UnloadModel);
}

}  // namespace

void AddModelCommands(CLI::App& app, Session& session) {
  CLI::App* models = app.add_subcommand("models", "List the models that the server has");
  models->footer("Example:\n  quantloom models --json | jq -r '.models[].name'\n");
  models->callback([&session] { session.command = [&session] { return RunModels(session); }; });
  AddLoading(app, session);
  CLI::App* batch = app.add_subcommand("batch", "Show which requests the server runs and queues");
  const auto model = std::make_shared<std::string>();
  batch->add_option("--model", *model, "Model; all loaded ones without it")->type_name("NAME");
  batch->footer("Example:\n  watch quantloom batch --model smollm2-2bit\n");
  batch->callback([&session, model] {
    session.command = [&session, model] { return RunBatch(session, *model); };
  });
  CLI::App* info = app.add_subcommand("info", "Show what the server is, runs on and allows");
  info->footer("Example:\n  quantloom info --server gpu1:7102\n");
  info->callback([&session] { session.command = [&session] { return RunInfo(session); }; });
}

}  // namespace quantloom::cli
