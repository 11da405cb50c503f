#include "engine/decoder_layer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace quantloom {

absl::StatusOr<DecoderLayer> DecoderLayer::Load(const ModelConfig& config, WeightSource& weights,
                                                uint64_t index) {
  const uint64_t h = config.hidden_size;
  const uint64_t i = config.intermediate_size;
  const uint64_t q_rows = config.num_heads * config.head_dim;
  const uint64_t kv_rows = config.num_kv_heads * config.head_dim;
  const std::string prefix = absl::StrCat("model.layers.", index, ".");
  const auto name = [&](absl::string_view suffix) { return absl::StrCat(prefix, suffix); };
  const auto linear = [&](absl::string_view suffix, uint64_t rows, uint64_t cols) {
    return LinearWeight{name(suffix), rows, cols, nullptr};
  };

  DecoderLayer layer;
  layer.q = linear("self_attn.q_proj.weight", q_rows, h);
  layer.k = linear("self_attn.k_proj.weight", kv_rows, h);
  layer.v = linear("self_attn.v_proj.weight", kv_rows, h);
  layer.o = linear("self_attn.o_proj.weight", h, q_rows);
  layer.gate = linear("mlp.gate_proj.weight", i, h);
  layer.up = linear("mlp.up_proj.weight", i, h);
  layer.down = linear("mlp.down_proj.weight", h, i);

  QL_ASSIGN_OR_RETURN(layer.attention_norm, weights.Vector(name("input_layernorm.weight"), h));
  QL_ASSIGN_OR_RETURN(layer.mlp_norm, weights.Vector(name("post_attention_layernorm.weight"), h));
  if (config.attention_bias) {
    QL_ASSIGN_OR_RETURN(layer.q_bias, weights.Vector(name("self_attn.q_proj.bias"), q_rows));
    QL_ASSIGN_OR_RETURN(layer.k_bias, weights.Vector(name("self_attn.k_proj.bias"), kv_rows));
    QL_ASSIGN_OR_RETURN(layer.v_bias, weights.Vector(name("self_attn.v_proj.bias"), kv_rows));
  }
  if (config.qk_norm) {
    QL_ASSIGN_OR_RETURN(layer.q_norm,
                        weights.Vector(name("self_attn.q_norm.weight"), config.head_dim));
    QL_ASSIGN_OR_RETURN(layer.k_norm,
                        weights.Vector(name("self_attn.k_norm.weight"), config.head_dim));
  }
  return layer;
}

absl::Status DecoderLayer::LoadMatrices(WeightSource& weights) {
  for (const std::vector<LinearWeight*>& group : InputGroups()) {
    for (LinearWeight* linear : group) {
      QL_ASSIGN_OR_RETURN(linear->matrix, weights.Matrix(linear->name, linear->rows, linear->cols));
    }
  }
  return absl::OkStatus();
}

std::vector<std::vector<LinearWeight*>> DecoderLayer::InputGroups() {
  return {{&q, &k, &v}, {&o}, {&gate, &up}, {&down}};
}

LayerActivations::LayerActivations(Backend& backend, const ModelConfig& c, size_t n,
                                   size_t max_selected)
    : batch(backend.Batch(n, max_selected)),
      angles(backend.Buffer(n, c.head_dim)),
      hidden(backend.Buffer(n, c.hidden_size)),
      normed(backend.Buffer(n, c.hidden_size)),
      qkv(backend.Buffer(n, (c.num_heads + 2 * c.num_kv_heads) * c.head_dim)),
      attended(backend.Buffer(n, c.num_heads * c.head_dim)),
      gate_up(backend.Buffer(n, 2 * c.intermediate_size)),
      gated(backend.Buffer(n, c.intermediate_size)),
      projected(backend.Buffer(n, c.hidden_size)),
      host_angles(n * c.head_dim) {}

uint64_t LayerActivations::Bytes(const ModelConfig& c, size_t n) {
  const uint64_t floats = 2 * c.head_dim + 3 * c.hidden_size +
                          (2 * c.num_heads + 2 * c.num_kv_heads) * c.head_dim +
                          3 * c.intermediate_size;
  return n * floats * sizeof(float);
}

void DecoderStages::Begin(const RaggedBatch& batch, LayerActivations& x) const {
  const size_t n = batch.size();
  backend_.SetBatch(batch, *x.batch);
  for (size_t t = 0; t < n; ++t)
    rotary_.Angles(batch.positions()[t], x.host_angles.data() + t * config_.head_dim);
  backend_.Write({x.host_angles.data(), n * config_.head_dim}, *x.angles);
}

void DecoderStages::EnterBranch(const DeviceVector& norm, size_t n, LayerActivations& x) const {
  backend_.Norm(*x.hidden, n, norm, static_cast<float>(config_.rms_norm_eps), *x.normed);
}

void DecoderStages::Attend(const DecoderLayer& layer, uint32_t kv_layer, KvStorage& kv,
                           LayerActivations& x) const {
  AttentionParameters attention;
  attention.heads = static_cast<uint32_t>(config_.num_heads);
  attention.kv_heads = static_cast<uint32_t>(config_.num_kv_heads);
  attention.head_dim = static_cast<uint32_t>(config_.head_dim);
  attention.norm_eps = static_cast<float>(config_.rms_norm_eps);
  attention.q_norm = layer.q_norm.get();
  attention.k_norm = layer.k_norm.get();
  backend_.Linear({layer.q.matrix.get(), layer.k.matrix.get(), layer.v.matrix.get()},
                  {layer.q_bias.get(), layer.k_bias.get(), layer.v_bias.get()}, x.batch->rows(),
                  *x.normed, *x.qkv);
  backend_.RotateAndStore(*x.batch, attention, kv_layer, *x.angles, *x.qkv, kv);
  backend_.Attend(*x.batch, attention, kv_layer, *x.qkv, kv, *x.attended);
}

void DecoderStages::AddAttended(const DecoderLayer& layer, size_t n, LayerActivations& x) const {
  backend_.LinearAdd(*layer.o.matrix, n, *x.attended, *x.projected, *x.hidden);
}

void DecoderStages::Gate(const DecoderLayer& layer, size_t n, LayerActivations& x) const {
  backend_.GatedLinear(*layer.gate.matrix, *layer.up.matrix, n, *x.normed, *x.gate_up, *x.gated);
}

void DecoderStages::AddGated(const DecoderLayer& layer, size_t n, LayerActivations& x) const {
  backend_.LinearAdd(*layer.down.matrix, n, *x.gated, *x.projected, *x.hidden);
}

}  // namespace quantloom
