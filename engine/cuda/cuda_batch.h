// A ragged batch in device memory, how tokens are chosen after its rows, and the steps recorded for
// batches of its size.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/backend.h"
#include "engine/cuda/cuda_context.h"
#include "engine/ragged_batch.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/batch.h"
#include "kernels/cuda/sample.h"

namespace quantloom {

// A step of up to kRecordedRows rows is recorded as a graph when rows of its number come the second
// time (the first allocates what operators want to keep), and repeated from then on. For this, rows
// are padded to one of few numbers, and everything that changes from step to step is in memory that
// does not move.
//
// On the device there is one of everything, since steps run one after the other. What the host
// writes and reads is there for each of the steps that may be unfinished at a time, so that it
// waits for none but the one that it finishes.
class CudaBatch final : public DeviceBatch {
 public:
  static constexpr size_t kRecordedRows = 64;

  CudaBatch(CudaContext& context, size_t max_rows, size_t max_selected);
  ~CudaBatch() override;

  size_t rows() const override { return rows_; }
  size_t selected_rows() const override { return selected_rows_; }
  bool chooses() const override { return chooses_; }

  void Set(const RaggedBatch& batch);
  void Select(absl::Span<const uint32_t> rows);
  void SetChoices(absl::Span<const TokenChoice> choices);
  void RunStep(absl::FunctionRef<void()> operators);
  absl::Span<const ChosenToken> FinishStep();
  // Between the events before and after the step that was last finished. Zero on failure.
  absl::Duration StepTime() const;

  cuda::BatchView view() const;
  const uint32_t* selected() const { return device_.as<uint32_t>(); }
  const cuda::SampleParameters* parameters() const {  // [selected rows]
    return choices_.as<cuda::SampleParameters>();
  }
  const cuda::SampleEdit* edits() const { return EditsOf(choices_); }
  cuda::SampledToken* chosen() const { return chosen_.as<cuda::SampledToken>(); }
  // How attention is spread over blocks: 0, or the number of partitions that get blocks of their
  // own.
  uint32_t partitions() const { return partitions_; }
  // Room for their results, where `heads` heads of `head_dim` have some. Empty on failure.
  float* Partials(uint32_t heads, uint32_t head_dim);
  // Rows of a sequence side by side, as many as `group` query heads to a head of keys allow; none
  // for a batch that is recorded.
  absl::Span<const cuda::AttentionTile> Tiles(uint32_t group);

 private:
  // Arrays of 32-bit words, in host and device memory alike: selected, tokens, positions, tables,
  // tiles, blocks.
  struct Layout {
    size_t tokens = 0, positions = 0, tables = 0, tiles = 0, blocks = 0;
  };
  struct Recording {
    bool ran = false;
    cuda::Graph graph = nullptr;
  };
  // Rows, selected rows, partitions, whether tokens are chosen.
  using Key = std::tuple<size_t, size_t, uint32_t, bool>;
  // The host's part of a step. Its memory is pinned; what is copied from it must stay until the
  // copy's event has happened.
  struct Slot {
    CudaMemory words;    // as device_
    CudaMemory choices;  // as choices_
    CudaMemory chosen;   // as chosen_
    CudaEvent batch_copied, selection_copied, choices_copied, tiles_copied;
    CudaEvent begun, ended;
    CudaEvent chosen_copied;
    size_t chosen_rows = 0;  // of the step; 0: it chooses none
    std::vector<ChosenToken> finished;
  };

  bool is_recorded() const { return rows_ <= kRecordedRows; }
  // Of the step that is started next.
  Slot& slot() { return slots_[started_ % kUnfinishedSteps]; }
  cuda::SampleEdit* EditsOf(const CudaMemory& choices) const {
    return reinterpret_cast<cuda::SampleEdit*>(choices.as<cuda::SampleParameters>() +
                                               max_selected_);
  }
  // Makes room for that many words of block tables.
  void Reserve(size_t blocks);
  // Copies words [begin, end) to the device, some time before the event that is recorded next;
  // until then the host must leave them alone.
  void Copy(size_t begin, size_t end);
  void CopyToDevice(void* to, const void* from, size_t bytes);
  void Record(const CudaEvent& copied);
  void Wait(const CudaEvent& copied) const;
  void ForgetRecordings();
  // The step itself, without measuring it.
  void LaunchStep(absl::FunctionRef<void()> operators);

  CudaContext& context_;
  const size_t max_rows_;
  const size_t max_selected_;
  Layout layout_;
  size_t block_capacity_ = 0;
  std::array<Slot, kUnfinishedSteps> slots_;
  uint64_t started_ = 0;  // steps
  uint64_t finished_ = 0;
  CudaMemory device_;
  CudaMemory choices_;  // parameters [max_selected], then edits
  CudaMemory chosen_;   // [max_selected]

  const RaggedBatch* ragged_ = nullptr;
  size_t rows_ = 0;
  size_t selected_rows_ = 0;
  size_t asked_rows_ = 0;  // of the selected, those that are no padding
  bool chooses_ = false;
  uint32_t partitions_ = 0;
  size_t tile_count_ = 0;  // of those that were made for this batch; 0: none were
  CudaMemory partials_;
  std::map<Key, Recording> recordings_;
};

}  // namespace quantloom
