#include "core/codec/icquant.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/codec/code_packing.h"
#include "core/codec/encode_input.h"
#include "core/codec/gap_code.h"
#include "core/codec/icquant_levels.h"
#include "core/codec/icquant_matrix.h"
#include "core/codec/icquant_row.h"
#include "core/codec/icquant_shared_codebook.h"

namespace quantloom {
namespace {

// A column that calibration never saw keeps this share of the mean importance, so that its weights
// still get their nearest level and every centroid is defined.
constexpr double kLeastImportance = 1e-6;
// Choices left to the encoder are made on this many rows, evenly spaced.
constexpr uint64_t kSampleRows = 96;
// The shared codebook is trained on about this many weights, evenly spaced rows. Fewer cost error:
// rows left out have outliers beyond its largest level.
constexpr uint64_t kTrainingWeights = uint64_t{1} << 20;

// A matrix to encode: checked weights, positive importance.
struct Source {
  absl::Span<const float> weights;
  uint64_t rows;
  uint64_t cols;
  std::vector<double> importance;
  float largest;  // |w|

  absl::Span<const float> row(uint64_t r) const { return weights.subspan(r * cols, cols); }
};

// Row `i` of `count` evenly spaced ones.
uint64_t SampleRow(uint64_t i, uint64_t count, uint64_t rows) { return i * rows / count; }

std::vector<double> PositiveImportance(absl::Span<const float> importance, uint64_t cols) {
  double sum = 0;
  for (const float value : importance) sum += static_cast<double>(value);
  if (sum == 0) return std::vector<double>(cols, 1.0);
  const double mean = sum / static_cast<double>(cols);
  std::vector<double> positive(cols);
  // Relative to the mean, so that squares of large weights stay far from overflow.
  for (uint64_t c = 0; c < cols; ++c) {
    positive[c] = static_cast<double>(importance[c]) / mean + kLeastImportance;
  }
  return positive;
}

absl::StatusOr<Source> CheckedSource(const EncodeInput& input, ThreadTeam& team) {
  QL_ASSIGN_OR_RETURN(const float largest, CheckEncodeInput("icquant", input, team));
  return Source{.weights = input.weights,
                .rows = input.rows,
                .cols = input.cols,
                .importance = PositiveImportance(input.importance, input.cols),
                .largest = largest};
}

// log2 by repeated squaring: basic arithmetic alone, so that choices are the same everywhere.
double Log2(double x) {
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent) * 2;  // in [1, 2)
  double result = exponent - 1;
  for (double bit = 0.5; bit > 1e-9; bit /= 2) {
    mantissa *= mantissa;
    if (mantissa >= 2) {
      mantissa /= 2;
      result += bit;
    }
  }
  return result;
}

int FirstCode(const IcquantOptions& options) {
  return options.bits == 8 && options.codebook == IcquantCodebook::kInt8 ? -127 : 0;
}

// What a thread needs to encode rows.
struct Worker {
  Worker(const IcquantOptions& options, const IcquantSharedCodebook* shared, uint64_t cols)
      : fitter(options, shared), codes(cols) {}
  IcquantRow row;
  IcquantLevelFitter fitter;
  IcquantLevels levels;
  std::vector<uint8_t> codes;
  uint64_t symbols[kMaxIndexBits + 1] = {};  // of the rows done, by index_bits
};

// Splits, fits and codes one row; returns its weighted error.
double EncodeRow(const Source& source, const IcquantOptions& options, uint64_t r, Worker& worker) {
  const absl::Span<const float> weights = source.row(r);
  worker.row.Split(weights, source.importance, IcquantRowOutliers(options.outliers, source.cols));
  worker.fitter.Fit(worker.row, worker.levels);
  const int first_code = FirstCode(options);
  AssignNearest(weights, worker.row.outlier_columns(), worker.levels, first_code,
                worker.codes.data());
  return RowError(weights, source.importance, worker.row.outlier_columns(), worker.levels,
                  first_code, worker.codes.data());
}

IcquantSharedCodebook SharedCodebook(const Source& source, const IcquantOptions& options,
                                     ThreadTeam& team) {
  if (options.codebook != IcquantCodebook::kTensor) return {};
  const uint64_t count = std::clamp<uint64_t>(kTrainingWeights / source.cols, 1, source.rows);
  const uint64_t outliers = IcquantRowOutliers(options.outliers, source.cols);
  return TrainSharedCodebook(
      options, count,
      [&](uint64_t i, IcquantRow& row) {
        row.Split(source.row(SampleRow(i, count, source.rows)), source.importance, outliers);
      },
      team);
}

// Bits per weight of a form's codebooks.
double CodebookBits(const IcquantOptions& options, uint64_t rows, uint64_t cols) {
  const double levels = std::ldexp(options.outliers > 0 ? 2.0 : 1.0, options.bits);
  const double offset = options.offset == IcquantOffset::kRow ? 16 : 0;
  double row_bits = 0;
  switch (options.codebook) {
    case IcquantCodebook::kFp16:
      row_bits = 16 * levels;
      break;
    case IcquantCodebook::kInt8:
      row_bits = (options.bits == 8 ? 0 : 8 * levels) + 16 + offset;
      break;
    case IcquantCodebook::kTensor:
      row_bits = 8 * levels / static_cast<double>(rows) + 16;
      break;
    case IcquantCodebook::kRange:
    case IcquantCodebook::kAuto:
      row_bits = options.outliers > 0 ? 96 : 32;
      break;
  }
  return row_bits / static_cast<double>(cols);
}

// The resolved forms that the options leave open, cheapest codebooks last among equals.
std::vector<IcquantOptions> CandidateForms(const IcquantOptions& options, float largest) {
  const bool kmeans = options.inner == IcquantInner::kKmeans;
  const bool any = options.codebook == IcquantCodebook::kAuto;
  const auto allowed = [&](IcquantCodebook form) { return any || options.codebook == form; };
  std::vector<IcquantOptions> forms;
  const auto add = [&](IcquantCodebook form, IcquantOffset offset) {
    IcquantOptions candidate = options;
    candidate.codebook = form;
    candidate.offset = offset;
    forms.push_back(candidate);
  };
  const bool bytes_with_outliers = options.bits == 8 && options.outliers > 0;
  if (allowed(IcquantCodebook::kInt8) && !bytes_with_outliers) {
    for (const IcquantOffset offset : {IcquantOffset::kNone, IcquantOffset::kRow}) {
      if (options.offset == IcquantOffset::kAuto || options.offset == offset) {
        add(IcquantCodebook::kInt8, offset);
      }
    }
  }
  if (any && options.offset == IcquantOffset::kRow) return forms;
  if (kmeans && allowed(IcquantCodebook::kTensor))
    add(IcquantCodebook::kTensor, IcquantOffset::kNone);
  const bool fits_half = largest <= kMaxHalf;
  if (kmeans && allowed(IcquantCodebook::kFp16) && fits_half) {
    add(IcquantCodebook::kFp16, IcquantOffset::kNone);
  }
  // Eight bits without outliers stay in the integer form when there is a choice: its kernel is the
  // faster one, and it is no worse.
  const bool range = bytes_with_outliers || !any || options.bits != 8;
  if (!kmeans && range && allowed(IcquantCodebook::kRange) && fits_half) {
    add(IcquantCodebook::kRange, IcquantOffset::kNone);
  }
  return forms;
}

struct Form {
  IcquantOptions options;
  IcquantSharedCodebook shared;
};

// The candidate with the least log2(D) / 2 + R on the sample: at high rate an error halves in
// amplitude per bit, so this is the rate at equal error. D is the weighted relative error, R the
// form's bits per weight.
absl::StatusOr<Form> ChooseForm(const Source& source, const IcquantOptions& options,
                                ThreadTeam& team) {
  const std::vector<IcquantOptions> candidates = CandidateForms(options, source.largest);
  if (candidates.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("icquant: codebook=fp16 and range hold |w| up to ", kMaxHalf,
                     "; there is one of ", source.largest));
  }
  if (candidates.size() == 1) {
    return Form{candidates[0], SharedCodebook(source, candidates[0], team)};
  }
  const uint64_t count = std::min(kSampleRows, source.rows);
  std::vector<double> errors(count);
  Form best;
  double best_score = std::numeric_limits<double>::infinity();
  for (const IcquantOptions& candidate : candidates) {
    const IcquantSharedCodebook shared = SharedCodebook(source, candidate, team);
    team.ParallelFor(count, 4, [&](size_t begin, size_t end, int) {
      Worker worker(candidate, &shared, source.cols);
      for (size_t i = begin; i < end; ++i) {
        errors[i] = EncodeRow(source, candidate, SampleRow(i, count, source.rows), worker);
      }
    });
    double error = 0;
    for (const double row_error : errors) error += row_error;
    double signal = 0;
    for (uint64_t i = 0; i < count; ++i) {
      const absl::Span<const float> row = source.row(SampleRow(i, count, source.rows));
      for (uint64_t c = 0; c < source.cols; ++c) {
        signal += source.importance[c] * static_cast<double>(row[c]) * static_cast<double>(row[c]);
      }
    }
    // Errors below float's own resolution all count as that.
    const double distortion = signal == 0 ? 1 : std::max(error / signal, 1e-14);
    const double score = Log2(distortion) / 2 + CodebookBits(candidate, source.rows, source.cols);
    if (score < best_score) {
      best_score = score;
      best = {candidate, shared};
    }
  }
  return best;
}

Plane NewPlane(absl::string_view name, DType dtype, uint64_t bytes) {
  constexpr uint64_t kMask = IcquantMatrix::kPlaneAlignment - 1;
  Plane plane;
  plane.name = std::string(name);
  plane.dtype = dtype;
  plane.bytes.resize((bytes + kMask) & ~kMask);
  plane.shape = {plane.bytes.size() / DTypeSize(dtype)};
  return plane;
}

// The planes of a row's levels.
class LevelPlanes {
 public:
  LevelPlanes(const IcquantOptions& options, uint64_t rows)
      : options_(options), parts_(options.outliers > 0 ? 2 : 1) {
    const uint64_t levels = static_cast<uint64_t>(parts_) << options.bits;
    switch (options.codebook) {
      case IcquantCodebook::kFp16:
        planes_.push_back(NewPlane("codebook", DType::kF16, rows * levels * 2));
        break;
      case IcquantCodebook::kInt8:
        planes_.push_back(NewPlane("scale", DType::kBF16, rows * 2));
        if (options.offset == IcquantOffset::kRow) {
          planes_.push_back(NewPlane("offset", DType::kBF16, rows * 2));
        }
        if (options.bits != 8) planes_.push_back(NewPlane("codebook", DType::kI8, rows * levels));
        break;
      case IcquantCodebook::kTensor:
        planes_.push_back(NewPlane("scale", DType::kBF16, rows * 2));
        planes_.push_back(NewPlane("codebook", DType::kI8, levels));
        break;
      case IcquantCodebook::kRange:
      case IcquantCodebook::kAuto:
        planes_.push_back(NewPlane("range", DType::kF16, rows * (parts_ == 2 ? 12 : 4)));
        break;
    }
  }

  void StoreRow(uint64_t row, const IcquantLevels& levels) {
    const uint64_t per_part = uint64_t{1} << options_.bits;
    for (Plane& plane : planes_) {
      if (plane.name == "scale") {
        Store(plane, row, &levels.scale, 1);
      } else if (plane.name == "offset") {
        Store(plane, row, &levels.offset, 1);
      } else if (plane.name == "range") {
        Store(plane, row * (parts_ == 2 ? 6 : 2), levels.ranges.data(), parts_ == 2 ? 6 : 2);
      } else if (options_.codebook != IcquantCodebook::kTensor) {
        for (size_t part = 0; part < parts_; ++part) {
          const uint64_t first = (row * parts_ + part) * per_part;
          if (plane.dtype == DType::kF16) {
            Store(plane, first, levels.halves[part].data(), per_part);
          } else {
            Store(plane, first, levels.centroids[part].data(), per_part);
          }
        }
      }
    }
  }

  void StoreShared(const IcquantSharedCodebook& shared) {
    const uint64_t per_part = uint64_t{1} << options_.bits;
    for (size_t part = 0; part < parts_; ++part) {
      Store(planes_.back(), part * per_part, shared.centroids[part].data(), per_part);
    }
  }

  std::vector<Plane> Take() { return std::move(planes_); }

 private:
  template <typename T>
  static void Store(Plane& plane, uint64_t first, const T* values, uint64_t count) {
    std::memcpy(plane.bytes.data() + first * sizeof(T), values, count * sizeof(T));
  }

  IcquantOptions options_;
  size_t parts_;
  std::vector<Plane> planes_;
};

// Outlier columns of every row, and their gap code.
class OutlierIndex {
 public:
  OutlierIndex(uint64_t rows, uint64_t cols, uint64_t per_row)
      : rows_(rows),
        segments_((cols + kGapSegmentColumns - 1) / kGapSegmentColumns),
        per_row_(per_row),
        counts_(rows),
        columns_(rows * per_row) {}

  void SetRow(uint64_t row, absl::Span<const uint32_t> columns) {
    counts_[row] = static_cast<uint32_t>(columns.size());
    std::copy(columns.begin(), columns.end(), columns_.data() + row * per_row_);
  }

  // Calls visit(segment, columns relative to it) for the row's segments in order.
  template <typename Visit>
  void ForEachSegment(uint64_t row, Visit visit) const {
    const uint32_t* column = columns_.data() + row * per_row_;
    const uint32_t* end = column + counts_[row];
    uint32_t relative[kGapSegmentColumns];
    for (uint64_t segment = 0; segment < segments_; ++segment) {
      size_t count = 0;
      for (; column != end && *column / kGapSegmentColumns == segment; ++column) {
        relative[count++] = *column % kGapSegmentColumns;
      }
      visit(segment, absl::Span<const uint32_t>(relative, count));
    }
  }

  // The planes for a given B, with `symbols` symbols in all.
  std::vector<Plane> Write(int index_bits, uint64_t symbols) const {
    Plane index =
        NewPlane("index", DType::kU8, (symbols * static_cast<uint64_t>(index_bits) + 7) / 8);
    Plane counts = NewPlane("index_counts", DType::kU8, rows_ * segments_);
    const uint64_t groups = (rows_ + IcquantMatrix::kBaseRows - 1) / IcquantMatrix::kBaseRows;
    Plane bases = NewPlane("index_base", DType::kU32, groups * sizeof(uint32_t));
    uint64_t symbol = 0;
    for (uint64_t row = 0; row < rows_; ++row) {
      if (row % IcquantMatrix::kBaseRows == 0) {
        const uint32_t base = static_cast<uint32_t>(symbol);
        std::memcpy(bases.bytes.data() + row / IcquantMatrix::kBaseRows * sizeof(base), &base,
                    sizeof(base));
      }
      ForEachSegment(row, [&](uint64_t segment, absl::Span<const uint32_t> columns) {
        const uint32_t count = SegmentSymbols(columns, index_bits);
        WriteSegment(columns, index_bits, symbol, index.bytes.data());
        counts.bytes[row * segments_ + segment] = static_cast<uint8_t>(count);
        symbol += count;
      });
    }
    std::vector<Plane> planes;
    planes.push_back(std::move(index));
    planes.push_back(std::move(counts));
    planes.push_back(std::move(bases));
    return planes;
  }

 private:
  uint64_t rows_;
  uint64_t segments_;
  uint64_t per_row_;
  std::vector<uint32_t> counts_;
  std::vector<uint32_t> columns_;
};

// The index width with the fewest bits, or the one asked for.
int ChooseIndexBits(const IcquantOptions& options, const uint64_t* symbols) {
  if (options.index_bits != 0) return options.index_bits;
  int best = kMinIndexBits;
  for (int bits = kMinIndexBits + 1; bits <= kMaxIndexBits; ++bits) {
    if (symbols[bits] * static_cast<uint64_t>(bits) < symbols[best] * static_cast<uint64_t>(best)) {
      best = bits;
    }
  }
  return best;
}

absl::StatusOr<EncodedMatrix> EncodeWithForm(const Source& source, const Form& form,
                                             ThreadTeam& team) {
  IcquantOptions options = form.options;
  Plane codes =
      NewPlane("codes", DType::kU8, source.rows * CodeRowBytes(options.bits, source.cols));
  LevelPlanes level_planes(options, source.rows);
  OutlierIndex index(source.rows, source.cols, IcquantRowOutliers(options.outliers, source.cols));
  std::vector<double> errors(source.rows);
  std::vector<double> signals(source.rows);
  std::vector<Worker> workers;
  for (int i = 0; i < team.size(); ++i) workers.emplace_back(options, &form.shared, source.cols);
  const uint64_t code_row_bytes = CodeRowBytes(options.bits, source.cols);

  team.ParallelFor(source.rows, 4, [&](size_t begin, size_t end, int id) {
    Worker& worker = workers[static_cast<size_t>(id)];
    for (size_t r = begin; r < end; ++r) {
      errors[r] = EncodeRow(source, options, r, worker);
      signals[r] = worker.row.inliers().WeightedSquares() + worker.row.outliers().WeightedSquares();
      PackCodes(worker.codes.data(), options.bits, source.cols,
                codes.bytes.data() + r * code_row_bytes);
      level_planes.StoreRow(r, worker.levels);
      if (options.outliers == 0) continue;
      index.SetRow(r, worker.row.outlier_columns());
      index.ForEachSegment(r, [&](uint64_t, absl::Span<const uint32_t> columns) {
        for (int bits = kMinIndexBits; bits <= kMaxIndexBits; ++bits) {
          worker.symbols[bits] += SegmentSymbols(columns, bits);
        }
      });
    }
  });
  if (options.codebook == IcquantCodebook::kTensor) level_planes.StoreShared(form.shared);

  EncodedMatrix encoded;
  encoded.planes.push_back(std::move(codes));
  for (Plane& plane : level_planes.Take()) encoded.planes.push_back(std::move(plane));
  if (options.outliers > 0) {
    uint64_t symbols[kMaxIndexBits + 1] = {};
    for (const Worker& worker : workers) {
      for (int bits = kMinIndexBits; bits <= kMaxIndexBits; ++bits) {
        symbols[bits] += worker.symbols[bits];
      }
    }
    options.index_bits = ChooseIndexBits(options, symbols);
    if (symbols[options.index_bits] > std::numeric_limits<uint32_t>::max()) {
      return absl::InvalidArgumentError(absl::StrCat("icquant: ", symbols[options.index_bits],
                                                     " index symbols; at most 2^32 - 1"));
    }
    for (Plane& plane : index.Write(options.index_bits, symbols[options.index_bits])) {
      encoded.planes.push_back(std::move(plane));
    }
  }
  double error = 0;
  double signal = 0;
  for (uint64_t r = 0; r < source.rows; ++r) {
    error += errors[r];
    signal += signals[r];
  }
  encoded.relative_error = signal == 0 ? 0 : error / signal;
  encoded.recipe = options.ToRecipe();
  return encoded;
}

class IcquantCodec final : public Codec {
 public:
  explicit IcquantCodec(const IcquantOptions& options) : options_(options) {}

  std::string recipe() const override { return options_.ToRecipe(); }

  absl::StatusOr<EncodedMatrix> Encode(const EncodeInput& input, ThreadTeam& team) const override {
    QL_ASSIGN_OR_RETURN(const Source source, CheckedSource(input, team));
    IcquantOptions options = options_;
    if (IcquantRowOutliers(options.outliers, input.cols) == 0) {
      options.outliers = 0;
      options.index_bits = 0;
    }
    QL_ASSIGN_OR_RETURN(const Form form, ChooseForm(source, options, team));
    return EncodeWithForm(source, form, team);
  }

 private:
  IcquantOptions options_;
};

absl::StatusOr<std::unique_ptr<Codec>> Create(const Recipe& recipe) {
  QL_ASSIGN_OR_RETURN(const IcquantOptions options, IcquantOptions::FromRecipe(recipe));
  return std::make_unique<IcquantCodec>(options);
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> Open(const Recipe& recipe, uint64_t rows,
                                                   uint64_t cols,
                                                   absl::Span<const PlaneView> planes) {
  QL_ASSIGN_OR_RETURN(const IcquantOptions options, IcquantOptions::FromRecipe(recipe));
  return IcquantMatrix::Open(options, rows, cols, planes);
}

}  // namespace

CodecRegistration IcquantRegistration() {
  return {
      .info = {.name = "icquant",
               .summary = "scalar quantizers for inliers and outliers of each row, outlier "
                          "positions gap-coded (arXiv 2505.00850)",
               .options = {{"bits", "bits of a code: 1, 2, 3, 4 or 8; default 4"},
                           {"outliers",
                            "share of each row's largest weights coded apart, 0 to 0.25; default "
                            "0.05, or 0 with 8 bits"},
                           {"inner",
                            "kmeans (importance-weighted, up to 4 bits) or rtn (uniform levels); "
                            "default kmeans, or rtn with 8 bits"},
                           {"codebook",
                            "fp16, int8 (with a scale per row), tensor (one for all rows, with a "
                            "scale per row), range (rtn only), or auto by rate and error; default "
                            "auto"},
                           {"offset",
                            "row (int8 codebooks also have an offset per row), none, or auto; "
                            "default auto"},
                           {"index_bits",
                            "bits of a gap symbol, 2 to 8, or auto by size; default auto"}}},
      .create = Create,
      .open = Open};
}

}  // namespace quantloom
