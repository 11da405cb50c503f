// quantloom inspect
#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/bit_totals.h"
#include "cli/session.h"
#include "cli/table.h"
#include "cli/units.h"

namespace quantloom::cli {

using ::quantloom::v1::GetModelRequest;
using ::quantloom::v1::Model;
using ::quantloom::v1::ModelService;
using ::quantloom::v1::Tensor;

namespace {

// Numbers the recipes in the order of their first appearance: they are long, and few.
class RecipeLegend {
 public:
  std::string Number(const std::string& recipe) {
    auto found = std::find(recipes_.begin(), recipes_.end(), recipe);
    if (found == recipes_.end()) found = recipes_.insert(recipes_.end(), recipe);
    return absl::StrCat("[", found - recipes_.begin() + 1, "]");
  }

  std::string Render() const {
    std::vector<std::pair<std::string, std::string>> pairs;
    for (size_t i = 0; i < recipes_.size(); ++i) {
      pairs.emplace_back(absl::StrCat("[", i + 1, "]"), recipes_[i]);
    }
    return RenderPairs(pairs);
  }

 private:
  std::vector<std::string> recipes_;
};

std::string Bits(double bits) { return bits == 0 ? "-" : absl::StrFormat("%.4f", bits); }

std::vector<std::string> BitCells(const Tensor& bits) {
  return {Bits(bits.bits_per_weight()), Bits(bits.code_bits()),     Bits(bits.index_bits()),
          Bits(bits.checkpoint_bits()), Bits(bits.codebook_bits()), Bits(bits.padding_bits())};
}

// The GPUs that calibration text passed through, and for how many tensors; empty for none.
std::string CalibrationDevices(const Model& model) {
  std::map<std::string, int> tensors;
  for (const Tensor& tensor : model.tensors()) {
    if (!tensor.calibration_device().empty()) ++tensors[tensor.calibration_device()];
  }
  return absl::StrJoin(tensors, ", ", [&](std::string* out, const auto& device) {
    absl::StrAppend(out, device.first, " (", device.second, " of ", model.tensors_size(),
                    " tensors)");
  });
}

std::string RenderTensors(const Model& model, bool color) {
  constexpr Table::Align kRight = Table::Align::kRight;
  Table table({{"TENSOR"},
               {"SHAPE", kRight},
               {"RECIPE", kRight},
               {"B/W", kRight},
               {"CODES", kRight},
               {"INDEX", kRight},
               {"CHECKPOINTS", kRight},
               {"CODEBOOKS", kRight},
               {"PADDING", kRight},
               {"ERROR", kRight}});
  RecipeLegend legend;
  const auto add = [&](const std::string& name, const std::string& shape, const std::string& recipe,
                       const Tensor& bits, const std::string& error) {
    std::vector<std::string> cells = {name, shape, recipe};
    for (std::string& cell : BitCells(bits)) cells.push_back(std::move(cell));
    cells.push_back(error);
    table.Add(std::move(cells));
  };
  for (const Tensor& tensor : model.tensors()) {
    add(tensor.name(), absl::StrJoin(tensor.shape(), "x"), legend.Number(tensor.recipe()), tensor,
        tensor.relative_error() > 0 ? absl::StrFormat("%.5f", tensor.relative_error()) : "-");
  }
  table.AddRule();
  const BitTotals quantized = TotalBits(model, [](const Tensor& t) { return t.recipe() != "raw"; });
  const BitTotals all = TotalBits(model, [](const Tensor&) { return true; });
  add(absl::StrCat(quantized.tensors, " quantized"),
      FormatCount(static_cast<double>(quantized.weights)), "", quantized.bits, "");
  add(absl::StrCat(all.tensors, " in all"), FormatCount(static_cast<double>(all.weights)), "",
      all.bits, "");
  return absl::StrCat(table.Render(color), "\n", legend.Render());
}

CommandResult RunInspect(Session& session, const std::string& name) {
  GetModelRequest request;
  request.set_name(name);
  request.set_include_tensors(true);
  const absl::StatusOr<Model> model = session.connection().Call(
      session.connection().models(), &ModelService::Stub::GetModel, request);
  if (!model.ok()) return model.status();
  if (session.json()) {
    session.OutJson(*model);
    return ExitCode::kOk;
  }
  if (!model->problem().empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("model '", model->name(), "' cannot be used: ", model->problem()));
  }
  std::vector<std::pair<std::string, std::string>> pairs = {
      {"model", model->name()},
      {"architecture", model->architecture()},
      {"weights", FormatGrouped(model->parameters())},
      {"context", absl::StrCat(FormatGrouped(model->context_length()), " tokens")},
      {"vocabulary", FormatGrouped(model->vocab_size())},
      {"bits/weight", absl::StrFormat("%.3f linear layers, %.3f all tensors",
                                      model->linear_bits_per_weight(), model->bits_per_weight())},
      {"size", FormatBytes(model->packed_bytes())},
  };
  if (std::string devices = CalibrationDevices(*model); !devices.empty()) {
    pairs.emplace_back("calibrated on", std::move(devices));
  }
  session.console().Out(
      absl::StrCat(RenderPairs(pairs), "\n", RenderTensors(*model, session.console().out_color())));
  return ExitCode::kOk;
}

}  // namespace

void AddInspectCommand(CLI::App& app, Session& session) {
  auto name = std::make_shared<std::string>();
  CLI::App* command =
      app.add_subcommand("inspect", "Show a packed model's tensors and where their bits go");
  command->footer(
      "Bits are per weight of the tensor. INDEX: positions of outliers; CHECKPOINTS: random "
      "access into them;\n"
      "CODEBOOKS: centroids, scales and offsets; ERROR: importance-weighted relative squared error "
      "of encoding.\n\n"
      "Examples:\n"
      "  quantloom inspect smollm2-2bit\n"
      "  quantloom inspect smollm2-2bit --json | jq '.tensors | max_by(.relative_error)'\n");
  command->add_option("MODEL", *name, "Model, as `quantloom models` lists it")
      ->required()
      ->option_text(" ");
  command->callback([&session, name] {
    session.command = [&session, name] { return RunInspect(session, *name); };
  });
}

}  // namespace quantloom::cli
