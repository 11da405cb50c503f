#include "engine/quantize/quality_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "core/base/file.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

using Json = nlohmann::ordered_json;

std::string Escape(absl::string_view text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
}

std::string ShapeText(absl::Span<const uint64_t> shape) { return absl::StrJoin(shape, " × "); }

constexpr char kStyle[] = R"(<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2330; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
.figure { border: 1px solid #d9dee7; border-radius: .5rem; padding: .7rem 1.1rem; }
.figure b { display: block; font-size: 1.35rem; } .figure span { color: #5a6475; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid #e6e9ef; }
th:first-child, td:first-child, td:nth-child(2), th:nth-child(2) { text-align: left; }
code { font-size: 12px; } svg { width: 100%; height: auto; }
</style>
)";

constexpr double kPlotWidth = 960, kPlotHeight = 220, kLeft = 60, kBottom = 24;

// One bar per tensor, in forward order, scaled to the largest; each bar names its tensor on hover.
// `parts` of a bar are stacked.
struct Bar {
  std::string label;
  std::vector<double> parts;
};

std::string BarPlot(const std::vector<Bar>& bars, const std::vector<std::string>& colors,
                    const std::vector<std::string>& names, absl::string_view unit) {
  double largest = 0;
  for (const Bar& bar : bars) {
    double sum = 0;
    for (double part : bar.parts) sum += part;
    largest = std::max(largest, sum);
  }
  if (bars.empty() || largest <= 0) return "<p>Nothing to show.</p>\n";
  std::string svg = absl::StrFormat("<svg viewBox=\"0 0 %g %g\" role=\"img\">\n",
                                    kPlotWidth + kLeft, kPlotHeight + kBottom + 20);
  for (int tick = 0; tick <= 4; ++tick) {
    const double y = 20 + kPlotHeight * (1 - tick / 4.0);
    absl::StrAppendFormat(&svg,
                          "<line x1=\"%g\" x2=\"%g\" y1=\"%g\" y2=\"%g\" stroke=\"#e6e9ef\"/>"
                          "<text x=\"%g\" y=\"%g\" font-size=\"11\" text-anchor=\"end\" "
                          "fill=\"#5a6475\">%.3g</text>\n",
                          kLeft, kLeft + kPlotWidth, y, y, kLeft - 6, y + 4, largest * tick / 4);
  }
  const double step = kPlotWidth / static_cast<double>(bars.size());
  for (size_t i = 0; i < bars.size(); ++i) {
    double top = 20 + kPlotHeight, total = 0;
    for (double part : bars[i].parts) total += part;
    absl::StrAppend(&svg, "<g><title>", Escape(bars[i].label), ": ",
                    absl::StrFormat("%.4g ", total), unit, "</title>");
    for (size_t part = 0; part < bars[i].parts.size(); ++part) {
      const double height = kPlotHeight * bars[i].parts[part] / largest;
      top -= height;
      absl::StrAppendFormat(&svg,
                            "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" "
                            "fill=\"%s\"/>",
                            kLeft + static_cast<double>(i) * step, top, std::max(step * 0.8, 0.5),
                            height, colors[part]);
    }
    svg += "</g>\n";
  }
  double x = kLeft;
  for (size_t part = 0; part < names.size(); ++part) {
    absl::StrAppendFormat(&svg,
                          "<rect x=\"%g\" y=\"0\" width=\"10\" height=\"10\" fill=\"%s\"/>"
                          "<text x=\"%g\" y=\"10\" font-size=\"11\" fill=\"#1c2330\">%s</text>\n",
                          x, colors[part], x + 14, names[part]);
    x += 30 + 7.0 * static_cast<double>(names[part].size());
  }
  absl::StrAppendFormat(&svg,
                        "<text x=\"%g\" y=\"%g\" font-size=\"11\" fill=\"#5a6475\">tensors, in "
                        "forward order</text>\n</svg>\n",
                        kLeft, kPlotHeight + kBottom + 14);
  return svg;
}

std::string Figure(absl::string_view value, absl::string_view label) {
  return absl::StrCat("<div class=\"figure\"><b>", value, "</b><span>", label, "</span></div>\n");
}

std::string Figures(const PackedManifest& manifest, const std::optional<QualityMetrics>& quality) {
  std::string html = "<div class=\"figures\">\n";
  html += Figure(absl::StrFormat("%.3f", manifest.linear_bits_per_weight),
                 "bits per weight, linear layers");
  html += Figure(absl::StrFormat("%.3f", manifest.bits_per_weight), "bits per weight, all tensors");
  html += Figure(absl::StrFormat("%.1f MB", static_cast<double>(manifest.packed_bytes) / 1e6),
                 "stored");
  if (quality) {
    html += Figure(
        absl::StrFormat("%.3f → %.3f", quality->perplexity_source, quality->perplexity_packed),
        "perplexity, source → packed");
    html += Figure(absl::StrFormat("%.4f", quality->kl_mean), "KL divergence, mean (nats)");
    html += Figure(absl::StrFormat("%.3f", quality->kl_p99), "KL divergence, 99th percentile");
    html += Figure(absl::StrFormat("%.1f %%", 100 * quality->top1_agreement), "top-1 agreement");
  }
  html += "</div>\n";
  if (quality) {
    absl::StrAppend(&html, "<p>Measured on ", quality->scored_tokens, " tokens of <i>",
                    Escape(quality->text_name), "</i> (SHA-256 <code>", quality->text_sha256,
                    "</code>).</p>\n");
  }
  return html;
}

}  // namespace

std::string QualityJson(const PackedManifest& manifest,
                        const std::optional<QualityMetrics>& quality) {
  Json json;
  json["recipe"] = manifest.recipe;
  json["source_sha256"] = manifest.source_sha256;
  json["linear_bits_per_weight"] = manifest.linear_bits_per_weight;
  json["bits_per_weight"] = manifest.bits_per_weight;
  json["packed_bytes"] = manifest.packed_bytes;
  if (quality) {
    json["quality"] = {{"text", quality->text_name},
                       {"text_sha256", quality->text_sha256},
                       {"scored_tokens", quality->scored_tokens},
                       {"perplexity_source", quality->perplexity_source},
                       {"perplexity_packed", quality->perplexity_packed},
                       {"kl_mean", quality->kl_mean},
                       {"kl_p99", quality->kl_p99},
                       {"top1_agreement", quality->top1_agreement}};
  }
  json["tensors"] = Json::array();
  for (const PackedTensorInfo& tensor : manifest.tensors) {
    json["tensors"].push_back({{"name", tensor.name},
                               {"shape", tensor.shape},
                               {"recipe", tensor.recipe},
                               {"bits_per_weight", tensor.bits_per_weight},
                               {"relative_error", tensor.relative_error}});
  }
  return json.dump(1) + "\n";
}

std::string QualityHtml(absl::string_view title, const PackedManifest& manifest,
                        const std::optional<QualityMetrics>& quality) {
  std::vector<Bar> errors, bits;
  std::string rows;
  for (const PackedTensorInfo& tensor : manifest.tensors) {
    if (tensor.recipe == "raw") continue;
    const BitBreakdown& b = tensor.bits;
    errors.push_back({tensor.name, {tensor.relative_error}});
    bits.push_back({tensor.name, {b.codes, b.index, b.checkpoints, b.codebooks, b.padding}});
    absl::StrAppendFormat(
        &rows,
        "<tr><td><code>%s</code></td><td>%s</td><td>%s</td><td>%.3f</td>"
        "<td>%.3f</td><td>%.3f</td><td>%.3f</td><td>%.3f</td><td>%.5f</td></tr>\n",
        Escape(tensor.name), Escape(tensor.recipe), ShapeText(tensor.shape), tensor.bits_per_weight,
        b.codes, b.index + b.checkpoints, b.codebooks, b.padding, tensor.relative_error);
  }
  return absl::StrCat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>", Escape(title),
      " – quality report</title>\n", kStyle, "</head><body>\n<h1>", Escape(title),
      "</h1>\n<p>Recipe <code>", Escape(manifest.recipe), "</code></p>\n",
      Figures(manifest, quality),
      "<h2>Relative error of each matrix</h2>\n<p>Importance-weighted: "
      "&Sigma; h (w &minus; w&prime;)² / &Sigma; h w².</p>\n",
      BarPlot(errors, {"#3567c4"}, {"relative error"}, ""), "<h2>Where the bits go</h2>\n",
      BarPlot(bits, {"#3567c4", "#e08a2e", "#b8567b", "#4d9a6a", "#9aa3b2"},
              {"codes", "outlier index", "checkpoints", "codebooks", "padding"}, "bits per weight"),
      "<h2>Tensors</h2>\n<table><tr><th>tensor</th><th>recipe</th><th>shape</th><th>b/w</th>"
      "<th>codes</th><th>index</th><th>codebooks</th><th>padding</th><th>error</th></tr>\n",
      rows, "</table>\n</body></html>\n");
}

absl::Status WriteQualityReport(const std::filesystem::path& directory, absl::string_view title,
                                const PackedManifest& manifest,
                                const std::optional<QualityMetrics>& quality) {
  QL_RETURN_IF_ERROR(WriteFileAtomically(directory / kQualityFile, QualityJson(manifest, quality)));
  return WriteFileAtomically(directory / kReportFile, QualityHtml(title, manifest, quality));
}

}  // namespace quantloom
