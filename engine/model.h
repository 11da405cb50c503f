// The transformer graph of decoder-only models of the Llama family over a backend. Which parts a
// model has (grouped queries, biases, q/k norms, tied embeddings, rotary scaling) is data in its
// ModelConfig.
//
//   QL_ASSIGN_OR_RETURN(auto model, Model::Create(config, weights, backend));
//   auto workspace = model->CreateWorkspace(/*max_rows=*/512, /*max_logit_rows=*/16);
//   model->Forward(batch, kv.storage(), *workspace);
//   absl::Span<const float> logits = model->Logits({last_row}, *workspace);
//
// Thread-safety: immutable; Forward may run from several threads, each with a workspace and KV
// cache of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/format/model_config.h"
#include "engine/backend.h"
#include "engine/rotary.h"

namespace quantloom {

// Where a model's parameters come from, by Hugging Face name and expected shape.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual absl::StatusOr<std::unique_ptr<DeviceMatrix>> Matrix(const std::string& name,
                                                               uint64_t rows, uint64_t cols) = 0;
  virtual absl::StatusOr<std::unique_ptr<DeviceVector>> Vector(const std::string& name,
                                                               uint64_t size) = 0;
};

// Sees the inputs of linear layers during a forward pass (calibration): `inputs`, row-major
// [rows, cols], is what every matrix named in `linears` (those that share the input) is multiplied
// with.
using ActivationObserver =
    absl::FunctionRef<void(absl::Span<const std::string> linears, absl::Span<const float> inputs,
                           size_t rows, size_t cols)>;

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

  const ModelConfig& config() const { return config_; }
  Backend& backend() const { return backend_; }

  // For batches of up to `max_rows` tokens and up to `max_logit_rows` rows of logits at a time.
  WorkspacePtr CreateWorkspace(size_t max_rows, size_t max_logit_rows) const;

  // Runs the decoder layers over the batch (1 .. max_rows rows): stores the rows' keys and values
  // in `kv` and leaves their final hidden states in the workspace.
  void Forward(const RaggedBatch& batch, KvStorage& kv, Workspace& workspace,
               std::optional<ActivationObserver> observer = std::nullopt) const;
  // Logits of the given rows of the last Forward's batch (at most max_logit_rows), [rows, vocab];
  // valid until the workspace is next used.
  absl::Span<const float> Logits(absl::Span<const uint32_t> rows, Workspace& workspace) const;

  // Bytes of weights read by a step with one row: the decoder's linear layers, and the head.
  uint64_t layer_weight_bytes() const { return layer_weight_bytes_; }
  uint64_t head_weight_bytes() const { return head().weight_bytes(); }

 private:
  // h = hidden_size, d = head_dim, n_q = num_heads, n_kv = num_kv_heads, i = intermediate_size.
  struct Layer {
    std::unique_ptr<DeviceVector> attention_norm;          // [h]
    std::unique_ptr<DeviceMatrix> q, k, v;                 // [n_q d, h], [n_kv d, h], [n_kv d, h]
    std::unique_ptr<DeviceVector> q_bias, k_bias, v_bias;  // [n_q d], [n_kv d], [n_kv d] or null
    std::unique_ptr<DeviceVector> q_norm, k_norm;          // [d] or null
    std::unique_ptr<DeviceMatrix> o;                       // [h, n_q d]
    std::unique_ptr<DeviceVector> mlp_norm;                // [h]
    std::unique_ptr<DeviceMatrix> gate, up;                // [i, h]
    std::unique_ptr<DeviceMatrix> down;                    // [h, i]
    // Names of the matrices that share an input, in forward order.
    std::vector<std::string> qkv_names, o_name, gate_up_names, down_name;
  };

  Model(const ModelConfig& config, Backend& backend)
      : config_(config), backend_(backend), rotary_(config) {}
  absl::Status LoadLayer(WeightSource& weights, uint64_t index);
  void Attention(const Layer& layer, uint32_t index, const RaggedBatch& batch, KvStorage& kv,
                 Workspace& workspace, const std::optional<ActivationObserver>& observer) const;
  void Mlp(const Layer& layer, const RaggedBatch& batch, Workspace& workspace,
           const std::optional<ActivationObserver>& observer) const;
  const DeviceMatrix& head() const { return head_ ? *head_ : *embedding_; }

  ModelConfig config_;
  Backend& backend_;
  RotaryEmbedding rotary_;
  std::unique_ptr<DeviceMatrix> embedding_;  // [vocab, h]
  std::vector<Layer> layers_;
  std::unique_ptr<DeviceVector> final_norm_;  // [h]
  std::unique_ptr<DeviceMatrix> head_;        // [vocab, h], null when tied to the embedding
  std::vector<std::string> head_name_;
  uint64_t layer_weight_bytes_ = 0;
};

}  // namespace quantloom
