// ICQuant (arXiv 2505.00850): scalar quantization with separate quantizers for each row's inliers
// and outliers, and gap-coded outlier positions. icquant_matrix.h describes what is stored;
// docs/icquant.md the bytes and the reasons.
//
// Encoding a row: the outliers are its round(gamma cols) largest |w|; levels are fitted to either
// part (RTN: uniform over its range; k-means: the exact optimum under the columns' importance),
// rounded to the codebook form's grid and improved there; every weight takes the nearest level.
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
#include "core/codec/icquant_feedback.h"
#include "core/codec/icquant_levels.h"
#include "core/codec/icquant_matrix.h"
#include "core/codec/icquant_planes.h"
#include "core/codec/icquant_row.h"
#include "core/codec/icquant_shared_codebook.h"
#include "core/codec/icquant_tiles.h"
#include "core/codec/outlier_index.h"
#include "core/codec/plane_set.h"
#include "core/codec/recipe_options.h"
#include "core/codec/registry.h"
#include "core/rounding/hessian_factors.h"
#include "core/rounding/ldlq.h"
#include "core/rounding/proxy_loss.h"

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
// How often feedback refits the levels to the targets of the codes before.
constexpr int kRefits = 1;

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
  constexpr int kFractionBits = 29;
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent) * 2;  // in [1, 2)
  double result = exponent - 1;
  double bit = 0.5;
  for (int i = 0; i < kFractionBits; ++i, bit /= 2) {
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
};

// Splits, fits and codes one row; returns its weighted error.
double EncodeRow(const Source& source, const IcquantOptions& options, uint64_t r, Worker& worker) {
  const absl::Span<const float> weights = source.row(r);
  worker.row.Split(weights, source.importance, RowOutliers(options.outliers, source.cols));
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
  const uint64_t outliers = RowOutliers(options.outliers, source.cols);
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

// Encodes a matrix in a form that was chosen.
class Encoding {
 public:
  Encoding(const Source& source, const Form& form, ThreadTeam& team)
      : source_(source),
        form_(form),
        team_(team),
        parts_(form.options.outliers > 0 ? 2 : 1),
        code_row_bytes_(CodeRowBytes(form.options.bits, source.cols)),
        codes_(NewPlane("codes", DType::kU8, source.rows * code_row_bytes_)),
        level_planes_(form.options, source.rows),
        index_(source.rows, source.cols, RowOutliers(form.options.outliers, source.cols)) {
    workers_.reserve(team.size());
    for (int i = 0; i < team.size(); ++i) {
      workers_.emplace_back(form.options, &form.shared, source.cols);
    }
  }

  // With feedback where there is a Hessian.
  absl::StatusOr<EncodedMatrix> Run(HessianFactors* hessian) {
    return hessian == nullptr ? RoundToNearest() : RoundWithFeedback(*hessian);
  }

 private:
  absl::StatusOr<EncodedMatrix> RoundToNearest() {
    std::vector<double> errors(source_.rows);
    std::vector<double> signals(source_.rows);
    ForEachRow([&](uint64_t r, Worker& worker) {
      errors[r] = EncodeRow(source_, form_.options, r, worker);
      signals[r] = worker.row.inliers().WeightedSquares() + worker.row.outliers().WeightedSquares();
      StoreCodes(r, worker);
      level_planes_.StoreRow(r, worker.levels);
      index_.SetRow(r, worker.row.outlier_columns());
    });
    double error = 0;
    double signal = 0;
    for (uint64_t r = 0; r < source_.rows; ++r) {
      error += errors[r];
      signal += signals[r];
    }
    return Finish(signal == 0 ? 0 : error / signal);
  }

  // Positions and levels from the weights, then codes with feedback; then, positions kept, levels
  // from the targets of those codes, which are spread wider than the weights, and codes anew.
  absl::StatusOr<EncodedMatrix> RoundWithFeedback(HessianFactors& hessian) {
    const Incoherence incoherence(source_.rows, source_.cols, form_.options.incoherence);
    QL_ASSIGN_OR_RETURN(const auto factored,
                        hessian.Factor(incoherence, 1, ColumnOrder::kByImportance, team_));
    const BlockLdl& ldl = factored->ldl;
    const std::vector<float> weights_t =
        Transposed(source_.weights, source_.rows, source_.cols, team_, factored->columns);
    std::vector<float> decoded_t(weights_t.size());
    IcquantColumns columns(source_.rows, factored->columns, parts_, LevelCount());
    // What a column's error against its target costs: the proxy loss is tr(E D E^T).
    std::vector<float> costs(source_.cols);
    for (uint64_t i = 0; i < source_.cols; ++i) {
      costs[factored->columns[i]] = static_cast<float>(ldl.D(i, i));
    }
    const std::vector<double> target_importance = PositiveImportance(costs, source_.cols);
    ForEachRow([&](uint64_t r, Worker& worker) {
      worker.row.Split(source_.row(r), source_.importance,
                       RowOutliers(form_.options.outliers, source_.cols));
      index_.SetRow(r, worker.row.outlier_columns());
      FitRow(r, worker, columns);
    });
    QL_RETURN_IF_ERROR(
        Ldlq(ldl, weights_t, source_.rows, columns, absl::MakeSpan(decoded_t), team_));
    for (int round = 0; round < kRefits; ++round) {
      ForEachRow([&](uint64_t r, Worker& worker) {
        std::vector<float> targets(source_.cols);
        for (uint64_t c = 0; c < source_.cols; ++c) targets[c] = columns.target(r, c);
        worker.row.SplitAt(targets, target_importance, index_.row(r));
        FitRow(r, worker, columns);
      });
      QL_RETURN_IF_ERROR(
          Ldlq(ldl, weights_t, source_.rows, columns, absl::MakeSpan(decoded_t), team_));
    }
    const int first_code = FirstCode(form_.options);
    ForEachRow([&](uint64_t r, Worker& worker) {
      for (uint64_t c = 0; c < source_.cols; ++c) {
        worker.codes[c] = static_cast<uint8_t>(columns.code(r, c) + first_code);
      }
      StoreCodes(r, worker);
    });
    return Finish(ProxyLoss(factored->hessian, weights_t, decoded_t, source_.rows, team_));
  }

  uint32_t LevelCount() const { return form_.options.bits == 8 ? 255 : 1u << form_.options.bits; }

  template <typename Body>  // void(uint64_t row, Worker&)
  void ForEachRow(Body body) {
    team_.ParallelFor(source_.rows, 4, [&](size_t begin, size_t end, int id) {
      for (size_t r = begin; r < end; ++r) body(r, workers_[static_cast<size_t>(id)]);
    });
  }

  void FitRow(uint64_t r, Worker& worker, IcquantColumns& columns) {
    worker.fitter.Fit(worker.row, worker.levels);
    level_planes_.StoreRow(r, worker.levels);
    columns.SetRow(r, worker.levels, index_.row(r));
  }

  void StoreCodes(uint64_t r, const Worker& worker) {
    PackCodes(worker.codes.data(), form_.options.bits, source_.cols,
              codes_.bytes.data() + r * code_row_bytes_);
  }

  absl::StatusOr<EncodedMatrix> Finish(double relative_error) {
    IcquantOptions options = form_.options;
    if (options.codebook == IcquantCodebook::kTensor) level_planes_.StoreShared(form_.shared);
    EncodedMatrix encoded;
    encoded.planes.push_back(std::move(codes_));
    for (Plane& plane : level_planes_.Take()) encoded.planes.push_back(std::move(plane));
    if (options.outliers > 0) {
      QL_ASSIGN_OR_RETURN(options.index_bits,
                          index_.Write("icquant", options.index_bits, encoded.planes));
    }
    encoded.relative_error = relative_error;
    encoded.recipe = options.ToRecipe(/*stored=*/true);
    return encoded;
  }

  const Source& source_;
  const Form& form_;
  ThreadTeam& team_;
  uint32_t parts_;
  uint64_t code_row_bytes_;
  Plane codes_;
  IcquantLevelPlanes level_planes_;
  OutlierIndexWriter index_;
  std::vector<Worker> workers_;
};

// Evenly spaced rows of a matrix, as a matrix of their own.
class SampledRows {
 public:
  SampledRows(const Source& source, uint64_t count) : sample_(source) {
    sample_.rows = std::min(count, source.rows);
    for (uint64_t i = 0; i < sample_.rows; ++i) {
      const absl::Span<const float> row = source.row(SampleRow(i, sample_.rows, source.rows));
      weights_.insert(weights_.end(), row.begin(), row.end());
    }
    sample_.weights = weights_;
  }
  const Source& source() const { return sample_; }

 private:
  std::vector<float> weights_;
  Source sample_;
};

// The candidate with the least log2(D) / 2 + R: at high rate an error halves in amplitude per bit,
// so this is the rate at equal error. D is the relative error of a sample encoded in that form, by
// the rounding that the matrix will be encoded by (feedback spreads the targets wider than the
// weights, and favours other forms); R the form's bits per weight.
absl::StatusOr<Form> ChooseForm(const Source& source, const IcquantOptions& options,
                                HessianFactors* hessian, ThreadTeam& team) {
  const std::vector<IcquantOptions> candidates = CandidateForms(options, source.largest);
  if (candidates.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("icquant: codebook=fp16 and range hold |w| up to ", kMaxHalf,
                     "; there is one of ", source.largest));
  }
  if (candidates.size() == 1) {
    return Form{candidates[0], SharedCodebook(source, candidates[0], team)};
  }
  const SampledRows sample(source, kSampleRows);
  Form best;
  double best_score = std::numeric_limits<double>::infinity();
  for (const IcquantOptions& candidate : candidates) {
    const Form form{candidate, SharedCodebook(source, candidate, team)};
    QL_ASSIGN_OR_RETURN(const EncodedMatrix encoded,
                        Encoding(sample.source(), form, team).Run(hessian));
    // Errors below float's own resolution all count as that.
    const double distortion = std::clamp(encoded.relative_error, 1e-14, 1e14);
    const double score = Log2(distortion) / 2 + CodebookBits(candidate, source.rows, source.cols);
    if (score < best_score) {
      best_score = score;
      best = form;
    }
  }
  return best;
}

class IcquantCodec final : public Codec {
 public:
  explicit IcquantCodec(const IcquantOptions& options) : options_(options) {}

  bool transforms_outputs() const override {
    return options_.incoherence.kind == IncoherenceKind::kTwoSided;
  }

  std::string recipe() const override { return options_.ToRecipe(/*stored=*/false); }

  absl::StatusOr<EncodedMatrix> Encode(const EncodeInput& input, ThreadTeam& team) const override {
    QL_ASSIGN_OR_RETURN(Source source, CheckedSource(input, team));
    IcquantOptions options = options_;
    std::vector<float> transformed;
    if (options.incoherence.kind != IncoherenceKind::kNone) {
      options.incoherence.input_seed = input.input_seed;
      options.incoherence.output_seed = input.output_seed;
      transformed.assign(input.weights.begin(), input.weights.end());
      Incoherence(input.rows, input.cols, options.incoherence)
          .TransformWeights(absl::MakeSpan(transformed), team);
      // The inputs' importance is spread over all columns.
      QL_ASSIGN_OR_RETURN(
          source,
          CheckedSource({.weights = transformed, .rows = input.rows, .cols = input.cols}, team));
    }
    if (RowOutliers(options.outliers, input.cols) == 0) {
      options.outliers = 0;
      options.index_bits = 0;
    }
    options.ldlq &= input.hessian != nullptr;
    HessianFactors* const hessian = options.ldlq ? input.hessian : nullptr;
    QL_ASSIGN_OR_RETURN(const Form form, ChooseForm(source, options, hessian, team));
    return Encoding(source, form, team).Run(hessian);
  }

 private:
  IcquantOptions options_;
};

absl::StatusOr<std::unique_ptr<Codec>> Create(const Recipe& recipe) {
  if (IsTileInner(recipe)) return CreateIcquantTiles(recipe);
  QL_ASSIGN_OR_RETURN(const IcquantOptions options, IcquantOptions::FromRecipe(recipe));
  return std::make_unique<IcquantCodec>(options);
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> Open(const Recipe& recipe, uint64_t rows,
                                                   uint64_t cols,
                                                   absl::Span<const PlaneView> planes) {
  if (IsTileInner(recipe)) return OpenIcquantTiles(recipe, rows, cols, planes);
  QL_ASSIGN_OR_RETURN(const IcquantOptions options, IcquantOptions::FromRecipe(recipe));
  return IcquantMatrix::Open(options, rows, cols, planes);
}

}  // namespace

CodecRegistration IcquantRegistration() {
  return {
      .info = {.name = "icquant",
               .summary = "scalar quantizers for inliers and outliers of each row, outlier "
                          "positions gap-coded (arXiv 2505.00850)",
               .options =
                   {{"bits", "bits of a code: 1, 2, 3, 4 or 8; default 4"},
                    {"outliers",
                     "share of each row's largest weights coded apart, 0 to 0.25; default "
                     "0.05, or 0 with 8 bits"},
                    {"inner",
                     "kmeans (importance-weighted, up to 4 bits), rtn (uniform levels), or trellis "
                     "or e8p (the tiles of qtip or quip for the inliers, with the keys of those "
                     "codecs instead of codebook and offset); default kmeans, or rtn with 8 bits"},
                    {"codebook",
                     "fp16, int8 (with a scale per row), tensor (one for all rows, with a "
                     "scale per row), range (rtn only), or auto by rate and error; default "
                     "auto"},
                    {"offset",
                     "row (int8 codebooks also have an offset per row), none, or auto; "
                     "default auto"},
                    IncoherenceDescription("none"),
                    {"rounding",
                     "ldlq (feedback of rounding errors, with calibration) or nearest; default "
                     "ldlq, or nearest with 8 bits"},
                    {"index_bits", "bits of a gap symbol, 2 to 8, or auto by size; default auto"}}},
      .create = Create,
      .open = Open};
}

}  // namespace quantloom
