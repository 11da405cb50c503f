// The picture of a load run, as SVG.
#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "cli/load_report.h"
#include "cli/units.h"

namespace quantloom::cli {
namespace {

// Layout, in SVG units.
constexpr double kWidth = 960;
constexpr double kHeight = 800;
constexpr double kLeft = 80;
constexpr double kRight = 930;
constexpr double kCdfTop = 80;
constexpr double kCdfBottom = 380;
constexpr double kRateTop = 480;
constexpr double kRateBottom = 730;
constexpr size_t kCurvePoints = 400;  // of a distribution function

// Okabe and Ito's palette, which colour-blind readers tell apart.
constexpr std::array<const char*, 4> kColors = {"#0072b2", "#d55e00", "#009e73", "#cc79a7"};

struct Series {
  const char* title;
  const char* color;
  std::vector<std::pair<double, double>> points;  // in SVG units
};

std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(text,
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

std::string Text(double x, double y, const char* anchor, const std::string& text,
                 const char* extra = "") {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>%s</text>\n", x, y,
                         anchor, extra, Escape(text));
}

std::string Line(double x1, double y1, double x2, double y2, const char* color) {
  return absl::StrFormat("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n",
                         x1, y1, x2, y2, color);
}

std::string Curves(const std::vector<Series>& all, double top) {
  std::string svg;
  double x = kLeft + 8;
  for (const Series& series : all) {
    if (series.points.empty()) continue;
    absl::StrAppend(&svg, "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"", series.color,
                    "\" points=\"");
    for (const auto& [px, py] : series.points) absl::StrAppendFormat(&svg, "%.1f,%.1f ", px, py);
    absl::StrAppend(&svg, "\"/>\n", Line(x, top - 12, x + 18, top - 12, series.color),
                    Text(x + 24, top - 8, "start", series.title));
    x += 50 + 7.2 * static_cast<double>(std::string(series.title).size());
  }
  return svg;
}

// The least of 1, 2, 5 times a power of ten that is not below `value`.
double RoundUp(double value) {
  const double power = std::pow(10, std::floor(std::log10(value)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= value * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

std::string Seconds(double seconds) {
  if (seconds < 0.9995e-3) return absl::StrFormat("%g µs", seconds * 1e6);
  return seconds < 0.9995 ? absl::StrFormat("%g ms", seconds * 1e3)
                          : absl::StrFormat("%g s", seconds);
}

std::string Distributions(const LoadSummary& summary) {
  const std::array<std::pair<const char*, std::vector<double>>, 4> samples = {
      {{"time to first token", summary.time_to_first_token},
       {"between tokens", summary.inter_token},
       {"whole request", summary.end_to_end},
       {"in the queue", summary.queue_time}}};
  constexpr double kLeast = 1e-4;  // seconds; what is shorter is drawn here
  double most = kLeast * 10;
  for (const auto& [title, sample] : samples) {
    for (const double value : sample) most = std::max(most, value);
  }
  const double first = std::log10(kLeast);
  const auto decades = static_cast<int>(std::lround(std::ceil(std::log10(most) - 1e-9) - first));
  const auto x_of = [&](double value) {
    return kLeft + (kRight - kLeft) * (std::log10(std::max(value, kLeast)) - first) / decades;
  };
  const auto y_of = [](double share) { return kCdfBottom - (kCdfBottom - kCdfTop) * share; };
  std::string svg = Text(kLeft, kCdfTop - 34, "start", "Share of requests, and of tokens, within",
                         " font-weight=\"bold\"");
  for (int decade = 0; decade <= decades; ++decade) {
    const double value = std::pow(10, first + decade);
    absl::StrAppend(&svg, Line(x_of(value), kCdfTop, x_of(value), kCdfBottom, "#ddd"),
                    Text(x_of(value), kCdfBottom + 20, "middle", Seconds(value)));
  }
  for (const double share : {0.0, 0.5, 0.9, 0.99}) {
    absl::StrAppend(&svg, Line(kLeft, y_of(share), kRight, y_of(share), "#ddd"),
                    Text(kLeft - 8, y_of(share) + 4, "end", absl::StrFormat("%g %%", 100 * share)));
  }
  std::vector<Series> all;
  for (size_t i = 0; i < samples.size(); ++i) {
    std::vector<double> sorted = samples[i].second;
    std::sort(sorted.begin(), sorted.end());
    Series series{.title = samples[i].first, .color = kColors[i], .points = {}};
    const size_t stride = std::max<size_t>(1, sorted.size() / kCurvePoints);
    for (size_t rank = 0; rank < sorted.size(); rank += stride) {
      series.points.emplace_back(
          x_of(sorted[rank]), y_of(static_cast<double>(rank) / static_cast<double>(sorted.size())));
    }
    if (!sorted.empty()) series.points.emplace_back(x_of(sorted.back()), y_of(1));
    all.push_back(std::move(series));
  }
  return svg + Curves(all, kCdfTop);
}

std::string Rates(const LoadSummary& summary, double warmup) {
  double most = 1;
  double last = 1e-3;
  for (const Throughput& moment : summary.throughput) {
    most = std::max({most, moment.prompt, moment.generated});
    last = std::max(last, moment.time + summary.throughput_interval / 2);
  }
  const double step = RoundUp(most / 5);
  const double top = step * std::ceil(most / step);
  const auto x_of = [&](double time) { return kLeft + (kRight - kLeft) * time / last; };
  const auto y_of = [&](double rate) {
    return kRateBottom - (kRateBottom - kRateTop) * rate / top;
  };
  std::string svg =
      Text(kLeft, kRateTop - 34, "start", "Tokens per second over time", " font-weight=\"bold\"");
  if (warmup > 0) {
    absl::StrAppend(&svg,
                    absl::StrFormat("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" "
                                    "fill=\"#eee\"/>\n",
                                    kLeft, kRateTop, x_of(std::min(warmup, last)) - kLeft,
                                    kRateBottom - kRateTop));
  }
  for (int line = 0; line <= std::lround(top / step); ++line) {
    const double rate = line * step;
    absl::StrAppend(&svg, Line(kLeft, y_of(rate), kRight, y_of(rate), "#ddd"),
                    Text(kLeft - 8, y_of(rate) + 4, "end", FormatCount(rate)));
  }
  const double time_step = RoundUp(last / 10);
  for (int mark = 0; mark * time_step <= last; ++mark) {
    const double time = mark * time_step;
    absl::StrAppend(&svg,
                    Text(x_of(time), kRateBottom + 20, "middle", absl::StrFormat("%g s", time)));
  }
  std::vector<Series> all = {{.title = "generated", .color = kColors[0], .points = {}},
                             {.title = "of prompts", .color = kColors[1], .points = {}}};
  for (const Throughput& moment : summary.throughput) {
    all[0].points.emplace_back(x_of(moment.time), y_of(moment.generated));
    all[1].points.emplace_back(x_of(moment.time), y_of(moment.prompt));
  }
  return svg + Curves(all, kRateTop);
}

}  // namespace

std::string RenderLoadPlot(const LoadSummary& summary, const LoadResult& result,
                           const std::string& title) {
  return absl::StrCat(
      absl::StrFormat("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" "
                      "font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n"
                      "<rect width=\"%g\" height=\"%g\" fill=\"#fff\"/>\n",
                      kWidth, kHeight, kWidth, kHeight),
      Text(kLeft, 26, "start", title, " font-size=\"15\""), Distributions(summary),
      Rates(summary, result.warmup), "</svg>\n");
}

}  // namespace quantloom::cli
