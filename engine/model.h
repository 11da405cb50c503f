// The transformer graph of decoder-only models of the Llama family over a backend. Which parts a
// model has (grouped queries, biases, q/k norms, tied embeddings, rotary scaling) is data in its
// ModelConfig.
//
//   QL_ASSIGN_OR_RETURN(auto model, Model::Create(config, weights, backend));
//   auto workspace = model->CreateWorkspace(/*max_rows=*/512, /*max_logit_rows=*/16);
//   QL_ASSIGN_OR_RETURN(absl::Span<const float> logits,
//                       model->Step(batch, {last_row}, kv.storage(), *workspace));
//
// Thread-safety: immutable; Forward may run from several threads, each with a workspace and KV
// cache of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/format/model_config.h"
#include "engine/backend.h"
#include "engine/decoder_layer.h"

namespace quantloom {

class Model {
 public:
  // The activations of one forward pass; see model.cc for shapes.
  class Workspace;
  struct WorkspaceDeleter {
    void operator()(Workspace* workspace) const;
  };
  using WorkspacePtr = std::unique_ptr<Workspace, WorkspaceDeleter>;

  // `backend` must outlive the model. Errors name the tensor.
  static absl::StatusOr<std::unique_ptr<Model>> Create(const ModelConfig& config,
                                                       WeightSource& weights, Backend& backend);

  const ModelConfig& config() const { return stages_.config(); }
  Backend& backend() const { return stages_.backend(); }

  // For batches of up to `max_rows` tokens and up to `max_logit_rows` rows of logits at a time.
  WorkspacePtr CreateWorkspace(size_t max_rows, size_t max_logit_rows) const;
  // Bytes of its buffers.
  static uint64_t WorkspaceBytes(const ModelConfig& config, size_t max_rows, size_t max_logit_rows);

  // Starts a step: runs the decoder layers over the batch (1 .. max_rows rows), stores the rows'
  // keys and values in `kv`, computes the logits of `logit_rows` of the batch (at most
  // max_logit_rows), and from the last choices.size() of these chooses tokens. A workspace serves
  // one `kv`. Where the backend runs_ahead(), one more step may be started before this one is
  // finished, unless logits of this one are wanted.
  void StartStep(const RaggedBatch& batch, absl::Span<const uint32_t> logit_rows,
                 absl::Span<const TokenChoice> choices, KvStorage& kv, Workspace& workspace) const;
  // What came of a step: the first logit rows' logits, as many as were asked for, [rows, vocab],
  // and the tokens chosen, by logit row. Valid until the next StartStep, the tokens until the one
  // after it.
  struct StepResult {
    absl::Span<const float> logits;
    absl::Span<const ChosenToken> chosen;
  };
  // Waits for the oldest step that was started. Errors: the backend's status, which stays.
  absl::StatusOr<StepResult> FinishStep(size_t logits, Workspace& workspace) const;
  // Both, for logits alone.
  absl::StatusOr<absl::Span<const float>> Step(const RaggedBatch& batch,
                                               absl::Span<const uint32_t> logit_rows, KvStorage& kv,
                                               Workspace& workspace) const;
  // How long the device worked on the workspace's step that was last finished.
  absl::Duration StepTime(const Workspace& workspace) const;
  // The same in two: the layers, then, as often as wanted, logits of some rows of the last
  // Forward's batch, which must still be there.
  void Forward(const RaggedBatch& batch, KvStorage& kv, Workspace& workspace) const;
  absl::StatusOr<absl::Span<const float>> Logits(absl::Span<const uint32_t> rows,
                                                 Workspace& workspace) const;

  // Bytes of weights read by a step with one row: the decoder's linear layers, and the head.
  uint64_t layer_weight_bytes() const { return layer_weight_bytes_; }
  uint64_t head_weight_bytes() const { return head().weight_bytes(); }

 private:
  Model(const ModelConfig& config, Backend& backend) : stages_(config, backend) {}
  const DeviceMatrix& head() const { return head_ ? *head_ : *embedding_; }
  // The operators of both, on the workspace's batch.
  void RunLayers(KvStorage& kv, Workspace& workspace) const;
  void RunHead(Workspace& workspace) const;

  DecoderStages stages_;
  std::unique_ptr<DeviceMatrix> embedding_;  // [vocab, h]
  std::vector<DecoderLayer> layers_;
  std::unique_ptr<DeviceVector> final_norm_;  // [h]
  std::unique_ptr<DeviceMatrix> head_;        // [vocab, h], null when tied to the embedding
  uint64_t layer_weight_bytes_ = 0;
};

}  // namespace quantloom
