#include "engine/cuda/cuda_batch.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

constexpr int32_t kPaddingPosition = -1;
// Rows times partitions that get blocks of their own: several blocks for each of a hundred
// multiprocessors. Beyond, a row's blocks take its partitions in turn.
constexpr size_t kMaxPartials = 1024;
// A step's graph takes in the order of a megabyte.
constexpr size_t kMaxRecordings = 64;
constexpr size_t kFirstBlockCapacity = 1024;

// Few numbers to pad to: 1, 2, 4, 8, then whole token tiles of the products.
size_t PaddedRows(size_t rows, size_t most) {
  const size_t padded = rows <= 8 ? std::bit_ceil(rows) : (rows + 7) / 8 * 8;
  return std::min(padded, most);
}

}  // namespace

CudaBatch::CudaBatch(CudaContext& context, size_t max_rows, size_t max_selected)
    : context_(context), max_rows_(max_rows), max_selected_(max_selected) {
  layout_.tokens = max_selected;
  layout_.positions = layout_.tokens + max_rows;
  layout_.tables = layout_.positions + max_rows;
  layout_.tiles = layout_.tables + max_rows;
  layout_.blocks = layout_.tiles + 2 * max_rows;
  for (Slot& slot : slots_) {
    for (CudaEvent* event : {&slot.batch_copied, &slot.selection_copied, &slot.choices_copied,
                             &slot.tiles_copied, &slot.begun, &slot.ended, &slot.chosen_copied}) {
      *event = context_.OrNote(context_.CreateEvent());
    }
  }
  Reserve(kFirstBlockCapacity);
  if (max_selected == 0) return;
  const uint64_t choice_bytes =
      max_selected * (sizeof(cuda::SampleParameters) + kMaxLogitEdits * sizeof(cuda::SampleEdit));
  const uint64_t chosen_bytes = max_selected * sizeof(cuda::SampledToken);
  choices_ = context_.OrNote(context_.Allocate(choice_bytes));
  chosen_ = context_.OrNote(context_.Allocate(chosen_bytes));
  for (Slot& slot : slots_) {
    slot.choices = context_.OrNote(context_.AllocatePinned(choice_bytes));
    slot.chosen = context_.OrNote(context_.AllocatePinned(chosen_bytes));
  }
}

CudaBatch::~CudaBatch() { ForgetRecordings(); }

void CudaBatch::ForgetRecordings() {
  for (auto& [key, recording] : recordings_) context_.runtime().Destroy(recording.graph);
  recordings_.clear();
}

void CudaBatch::Reserve(size_t blocks) {
  if (blocks <= block_capacity_ || !context_.ok()) return;
  ForgetRecordings();  // they know the memory that is left behind
  const size_t capacity = std::bit_ceil(std::max(blocks, kFirstBlockCapacity));
  const uint64_t bytes = (layout_.blocks + capacity) * sizeof(uint32_t);
  for (Slot& slot : slots_) slot.words = context_.OrNote(context_.AllocatePinned(bytes));
  device_ = context_.OrNote(context_.Allocate(bytes));
  if (context_.ok()) block_capacity_ = capacity;
}

void CudaBatch::Wait(const CudaEvent& copied) const {
  if (context_.ok()) context_.Note(context_.runtime().Wait(copied.get()));
}

void CudaBatch::Record(const CudaEvent& copied) {
  if (context_.ok()) context_.Note(context_.runtime().Record(copied.get(), context_.stream()));
}

void CudaBatch::CopyToDevice(void* to, const void* from, size_t bytes) {
  if (!context_.ok() || bytes == 0) return;
  context_.Note(context_.runtime().CopyToDevice(to, from, bytes, context_.stream()));
}

void CudaBatch::Copy(size_t begin, size_t end) {
  CopyToDevice(device_.as<uint32_t>() + begin, slot().words.as<uint32_t>() + begin,
               (end - begin) * sizeof(uint32_t));
}

void CudaBatch::Set(const RaggedBatch& batch) {
  const size_t n = batch.size();
  ragged_ = &batch;
  rows_ = n <= kRecordedRows ? PaddedRows(n, max_rows_) : n;
  selected_rows_ = asked_rows_ = 0;
  chooses_ = false;
  tile_count_ = 0;

  // Block tables of the sequences, as far as their last row reads; rows of one follow each other.
  std::vector<uint32_t> tables(rows_, 0);
  std::vector<int32_t> blocks;
  for (size_t row = 0; row < n; ++row) {
    const absl::Span<const int32_t> table = batch.block_table(row);
    if (row > 0 && batch.sequence(row) == batch.sequence(row - 1)) {
      tables[row] = tables[row - 1];
      continue;
    }
    tables[row] = static_cast<uint32_t>(blocks.size());
    blocks.insert(blocks.end(), table.begin(), table.end());
  }
  const uint32_t longest =
      *std::max_element(batch.positions().begin(), batch.positions().end()) + 1;
  const uint32_t partitions =
      std::bit_ceil((longest + cuda::kAttentionPartition - 1) / cuda::kAttentionPartition);
  partitions_ = is_recorded() && rows_ * partitions <= kMaxPartials ? partitions : 0;

  Reserve(blocks.size());
  Wait(slot().batch_copied);
  if (!context_.ok()) return;
  auto* const words = slot().words.as<uint32_t>();
  std::fill_n(words + layout_.tokens, rows_, 0);
  std::copy(batch.tokens().begin(), batch.tokens().end(), words + layout_.tokens);
  std::fill_n(words + layout_.positions, rows_, static_cast<uint32_t>(kPaddingPosition));
  std::copy(batch.positions().begin(), batch.positions().end(), words + layout_.positions);
  std::copy(tables.begin(), tables.end(), words + layout_.tables);
  std::copy(blocks.begin(), blocks.end(), words + layout_.blocks);
  Copy(layout_.tokens, layout_.tables + rows_);
  Copy(layout_.blocks, layout_.blocks + blocks.size());
  Record(slot().batch_copied);
}

void CudaBatch::Select(absl::Span<const uint32_t> rows) {
  asked_rows_ = rows.size();
  selected_rows_ = rows.empty() ? 0 : PaddedRows(rows.size(), max_selected_);
  Wait(slot().selection_copied);
  if (!context_.ok() || rows.empty()) return;
  auto* const words = slot().words.as<uint32_t>();
  std::fill_n(words, selected_rows_, 0);
  std::copy(rows.begin(), rows.end(), words);
  Copy(0, selected_rows_);
  Record(slot().selection_copied);
}

void CudaBatch::SetChoices(absl::Span<const TokenChoice> choices) {
  chooses_ = !choices.empty();
  if (!chooses_) return;
  Wait(slot().choices_copied);
  if (!context_.ok()) return;
  auto* const parameters = slot().choices.as<cuda::SampleParameters>();
  cuda::SampleEdit* const edits = EditsOf(slot().choices);
  std::fill_n(parameters, selected_rows_, cuda::SampleParameters{.temperature = -1});
  uint32_t edit = 0;
  for (size_t i = 0; i < choices.size(); ++i) {
    const TokenChoice& choice = choices[i];
    parameters[asked_rows_ - choices.size() + i] = {
        .random = choice.random,
        .top_p = TopPShare(choice.top_p),
        .temperature = choice.temperature,
        .min_p = choice.min_p,
        .top_k = static_cast<uint32_t>(choice.top_k),
        .first_edit = edit,
        .edits = static_cast<uint32_t>(choice.edits.size())};
    for (const LogitEdit& of_choice : choice.edits) {
      edits[edit++] = {of_choice.token, of_choice.addend};
    }
  }
  CopyToDevice(choices_.as<void>(), parameters, selected_rows_ * sizeof(*parameters));
  CopyToDevice(EditsOf(choices_), edits, edit * sizeof(*edits));
  Record(slot().choices_copied);
}

cuda::BatchView CudaBatch::view() const {
  const auto* const words = device_.as<uint32_t>();
  return {.tokens = reinterpret_cast<const int32_t*>(words + layout_.tokens),
          .positions = reinterpret_cast<const int32_t*>(words + layout_.positions),
          .tables = words + layout_.tables,
          .blocks = reinterpret_cast<const int32_t*>(words + layout_.blocks),
          .rows = static_cast<uint32_t>(rows_)};
}

float* CudaBatch::Partials(uint32_t heads, uint32_t head_dim) {
  if (partials_.empty()) {
    partials_ = context_.OrNote(context_.Allocate(
        kMaxPartials * heads * cuda::AttentionPartialFloats(head_dim) * sizeof(float)));
  }
  return partials_.as<float>();
}

absl::Span<const cuda::AttentionTile> CudaBatch::Tiles(uint32_t group) {
  if (is_recorded()) return {};
  static_assert(sizeof(cuda::AttentionTile) == 2 * sizeof(uint32_t));
  if (tile_count_ == 0) {
    Wait(slot().tiles_copied);
    if (!context_.ok()) return {};
    auto* const tiles =
        reinterpret_cast<cuda::AttentionTile*>(slot().words.as<uint32_t>() + layout_.tiles);
    for (size_t row = 0; row < rows_; ++row) {
      const bool joins = row > 0 && ragged_->sequence(row) == ragged_->sequence(row - 1) &&
                         tiles[tile_count_ - 1].rows < cuda::AttentionTileRows(group);
      if (joins) {
        ++tiles[tile_count_ - 1].rows;
      } else {
        tiles[tile_count_++] = {static_cast<uint32_t>(row), 1};
      }
    }
    Copy(layout_.tiles, layout_.tiles + 2 * tile_count_);
    Record(slot().tiles_copied);
  }
  return {reinterpret_cast<const cuda::AttentionTile*>(device_.as<uint32_t>() + layout_.tiles),
          tile_count_};
}

void CudaBatch::RunStep(absl::FunctionRef<void()> operators) {
  context_.runtime().BeginRange(absl::StrCat("step of ", rows_, " rows").c_str());
  Record(slot().begun);
  LaunchStep(operators);
  Record(slot().ended);
  slot().chosen_rows = chooses_ ? asked_rows_ : 0;
  if (chooses_ && context_.ok()) {
    context_.Note(context_.runtime().CopyToHost(slot().chosen.as<void>(), chosen_.as<void>(),
                                                asked_rows_ * sizeof(cuda::SampledToken),
                                                context_.stream()));
    Record(slot().chosen_copied);
  }
  context_.runtime().EndRange();
  ++started_;
}

absl::Span<const ChosenToken> CudaBatch::FinishStep() {
  Slot& slot = slots_[finished_++ % kUnfinishedSteps];
  Wait(slot.chosen_rows > 0 ? slot.chosen_copied : slot.ended);
  slot.finished.clear();
  if (!context_.ok()) return {};
  const auto* const chosen = slot.chosen.as<cuda::SampledToken>();
  for (size_t i = 0; i < slot.chosen_rows; ++i) {
    slot.finished.push_back({chosen[i].token, chosen[i].logit});
  }
  return slot.finished;
}

absl::Duration CudaBatch::StepTime() const {
  if (finished_ == 0 || !context_.ok()) return absl::ZeroDuration();
  const Slot& slot = slots_[(finished_ - 1) % kUnfinishedSteps];
  return absl::Milliseconds(
      context_.OrNote(context_.runtime().Milliseconds(slot.begun.get(), slot.ended.get())));
}

void CudaBatch::LaunchStep(absl::FunctionRef<void()> operators) {
  if (!context_.ok()) return;
  if (!is_recorded()) return operators();
  if (recordings_.size() >= kMaxRecordings) ForgetRecordings();
  Recording& recording = recordings_[{rows_, selected_rows_, partitions_, chooses_}];
  if (!recording.ran) {
    recording.ran = true;
    return operators();
  }
  if (recording.graph == nullptr) {
    const absl::Status begun = context_.runtime().BeginCapture(context_.stream());
    if (!begun.ok()) return context_.Note(begun);
    operators();
    absl::StatusOr<cuda::Graph> graph = context_.runtime().EndCapture(context_.stream());
    if (graph.ok()) recording.graph = *graph;
    context_.Note(graph.status());
  }
  if (context_.ok()) context_.Note(context_.runtime().Launch(recording.graph, context_.stream()));
}

}  // namespace quantloom
