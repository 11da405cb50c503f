// One decoder layer of a Llama-family model over a backend: its parameters, and its forward pass in
// the stages between which the inputs of its linear layers are known. Model runs the stages one
// after the other; layer-by-layer quantization stops between them.
//
//   stage        reads            leaves
//   Begin        ragged batch     batch, angles
//   EnterBranch  hidden           normed     input of q, k, v (or of gate, up)
//   Attend       normed           attended   input of o
//   AddAttended  attended         hidden
//   Gate         normed           gated      input of down
//   AddGated     gated            hidden
//
// Shapes: n = rows of the batch, h = hidden_size, d = head_dim, n_q = num_heads,
// n_kv = num_kv_heads, i = intermediate_size.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
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
  // A matrix whose rows will be looked up.
  virtual absl::StatusOr<std::unique_ptr<DeviceMatrix>> Table(const std::string& name,
                                                              uint64_t rows, uint64_t cols) {
    return Matrix(name, rows, cols);
  }
  virtual absl::StatusOr<std::unique_ptr<DeviceVector>> Vector(const std::string& name,
                                                               uint64_t size) = 0;
};

// A linear layer's matrix. Null until it is loaded.
struct LinearWeight {
  std::string name;
  uint64_t rows = 0;
  uint64_t cols = 0;
  std::unique_ptr<DeviceMatrix> matrix;
};

struct DecoderLayer {
  std::unique_ptr<DeviceVector> attention_norm;          // [h]
  LinearWeight q, k, v;                                  // [n_q d, h], [n_kv d, h], [n_kv d, h]
  std::unique_ptr<DeviceVector> q_bias, k_bias, v_bias;  // [n_q d], [n_kv d], [n_kv d] or null
  std::unique_ptr<DeviceVector> q_norm, k_norm;          // [d] or null
  LinearWeight o;                                        // [h, n_q d]
  std::unique_ptr<DeviceVector> mlp_norm;                // [h]
  LinearWeight gate, up;                                 // [i, h]
  LinearWeight down;                                     // [h, i]

  // The layer's norms and biases, and the names and shapes of its matrices. Errors name the tensor.
  static absl::StatusOr<DecoderLayer> Load(const ModelConfig& config, WeightSource& weights,
                                           uint64_t index);
  // Every matrix from `weights`.
  absl::Status LoadMatrices(WeightSource& weights);
  // The matrices in forward order, grouped by the input that they share.
  std::vector<std::vector<LinearWeight*>> InputGroups();
};

// Activations of one batch of up to `max_rows` rows while it passes through decoder layers; up to
// `max_selected` of its rows may be selected.
struct LayerActivations {
  LayerActivations(Backend& backend, const ModelConfig& config, size_t max_rows,
                   size_t max_selected = 0);
  // Bytes of the buffers below.
  static uint64_t Bytes(const ModelConfig& config, size_t max_rows);

  std::unique_ptr<DeviceBatch> batch;
  std::unique_ptr<DeviceBuffer> angles;     // [n, d] cosines and sines of the rows' positions
  std::unique_ptr<DeviceBuffer> hidden;     // [n, h] residual stream
  std::unique_ptr<DeviceBuffer> normed;     // [n, h] input of a residual branch
  std::unique_ptr<DeviceBuffer> qkv;        // [n, (n_q + 2 n_kv) d]
  std::unique_ptr<DeviceBuffer> attended;   // [n, n_q d]
  std::unique_ptr<DeviceBuffer> gate_up;    // [n, 2 i]
  std::unique_ptr<DeviceBuffer> gated;      // [n, i]
  std::unique_ptr<DeviceBuffer> projected;  // [n, h] output of a residual branch
  std::vector<float> host_angles;           // [n, d]
};

// The stages. Immutable; may run from several threads, each with activations and KV storage of its
// own.
class DecoderStages {
 public:
  // `backend` must outlive the object.
  DecoderStages(const ModelConfig& config, Backend& backend)
      : config_(config), backend_(backend), rotary_(config) {}

  void Begin(const RaggedBatch& batch, LayerActivations& x) const;
  void EnterBranch(const DeviceVector& norm, size_t n, LayerActivations& x) const;
  // `kv_layer`: the layer's index in `kv`, where the rows' keys and values are stored.
  void Attend(const DecoderLayer& layer, uint32_t kv_layer, KvStorage& kv,
              LayerActivations& x) const;
  void AddAttended(const DecoderLayer& layer, size_t n, LayerActivations& x) const;
  void Gate(const DecoderLayer& layer, size_t n, LayerActivations& x) const;
  void AddGated(const DecoderLayer& layer, size_t n, LayerActivations& x) const;

  const ModelConfig& config() const { return config_; }
  Backend& backend() const { return backend_; }

 private:
  ModelConfig config_;
  Backend& backend_;
  RotaryEmbedding rotary_;
};

}  // namespace quantloom
