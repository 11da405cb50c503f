// The quality report of a packed model: quality.json for programs, report.html (self-contained,
// with inline SVG plots) for people. Both hold figures that follow from the bytes alone, no times,
// so that equal jobs leave equal directories.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "core/format/packed_model.h"
#include "engine/quantize/quantize_model.h"

namespace quantloom {

inline constexpr char kQualityFile[] = "quality.json";
inline constexpr char kReportFile[] = "report.html";

// quality.json's text: the model's totals, its metrics when measured, a row per tensor.
std::string QualityJson(const PackedManifest& manifest,
                        const std::optional<QualityMetrics>& quality);

// report.html's text. `title` names the model; it is escaped.
std::string QualityHtml(absl::string_view title, const PackedManifest& manifest,
                        const std::optional<QualityMetrics>& quality);

// Writes both into `directory`, each atomically.
absl::Status WriteQualityReport(const std::filesystem::path& directory, absl::string_view title,
                                const PackedManifest& manifest,
                                const std::optional<QualityMetrics>& quality);

}  // namespace quantloom
