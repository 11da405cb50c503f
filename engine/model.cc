#include "engine/model.h"

#include <numeric>
#include <utility>

#include "core/base/status.h"

namespace quantloom {

class Model::Workspace {
 public:
  Workspace(Backend& backend, const ModelConfig& c, size_t n, size_t logit_rows)
      : angles(backend.Buffer(n, c.head_dim)),
        hidden(backend.Buffer(n, c.hidden_size)),
        normed(backend.Buffer(n, c.hidden_size)),
        qkv(backend.Buffer(n, (c.num_heads + 2 * c.num_kv_heads) * c.head_dim)),
        attended(backend.Buffer(n, c.num_heads * c.head_dim)),
        gate_up(backend.Buffer(n, 2 * c.intermediate_size)),
        gated(backend.Buffer(n, c.intermediate_size)),
        projected(backend.Buffer(n, c.hidden_size)),
        head_input(backend.Buffer(logit_rows, c.hidden_size)),
        logits(backend.Buffer(logit_rows, c.vocab_size)),
        all_rows(n),
        host_angles(n * c.head_dim) {
    std::iota(all_rows.begin(), all_rows.end(), 0);
  }

  std::unique_ptr<DeviceBuffer> angles;      // [n, d] cosines and sines of the rows' positions
  std::unique_ptr<DeviceBuffer> hidden;      // [n, h] residual stream
  std::unique_ptr<DeviceBuffer> normed;      // [n, h] input of a residual branch
  std::unique_ptr<DeviceBuffer> qkv;         // [n, (n_q + 2 n_kv) d]
  std::unique_ptr<DeviceBuffer> attended;    // [n, n_q d]
  std::unique_ptr<DeviceBuffer> gate_up;     // [n, 2 i]
  std::unique_ptr<DeviceBuffer> gated;       // [n, i]
  std::unique_ptr<DeviceBuffer> projected;   // [n, h] output of a residual branch
  std::unique_ptr<DeviceBuffer> head_input;  // [logit rows, h]
  std::unique_ptr<DeviceBuffer> logits;      // [logit rows, vocab]
  std::vector<uint32_t> all_rows;            // 0 .. n-1
  std::vector<float> host_angles;            // [n, d]
};

void Model::WorkspaceDeleter::operator()(Workspace* workspace) const { delete workspace; }

Model::WorkspacePtr Model::CreateWorkspace(size_t max_rows, size_t max_logit_rows) const {
  return WorkspacePtr(new Workspace(backend_, config_, max_rows, max_logit_rows));
}

absl::StatusOr<std::unique_ptr<Model>> Model::Create(const ModelConfig& config,
                                                     WeightSource& weights, Backend& backend) {
  QL_RETURN_IF_ERROR(config.Validate());
  std::unique_ptr<Model> model(new Model(config, backend));
  QL_ASSIGN_OR_RETURN(model->embedding_, weights.Matrix("model.embed_tokens.weight",
                                                        config.vocab_size, config.hidden_size));
  for (uint64_t i = 0; i < config.num_layers; ++i) QL_RETURN_IF_ERROR(model->LoadLayer(weights, i));
  QL_ASSIGN_OR_RETURN(model->final_norm_, weights.Vector("model.norm.weight", config.hidden_size));
  model->head_name_ = {"model.embed_tokens.weight"};
  if (!config.tie_word_embeddings) {
    model->head_name_ = {"lm_head.weight"};
    QL_ASSIGN_OR_RETURN(model->head_,
                        weights.Matrix("lm_head.weight", config.vocab_size, config.hidden_size));
  }
  return model;
}

absl::Status Model::LoadLayer(WeightSource& weights, uint64_t index) {
  const ModelConfig& c = config_;
  const uint64_t q_rows = c.num_heads * c.head_dim;
  const uint64_t kv_rows = c.num_kv_heads * c.head_dim;
  const std::string prefix = absl::StrCat("model.layers.", index, ".");
  const auto name = [&](absl::string_view suffix) { return absl::StrCat(prefix, suffix); };

  Layer& l = layers_.emplace_back();
  l.qkv_names = {name("self_attn.q_proj.weight"), name("self_attn.k_proj.weight"),
                 name("self_attn.v_proj.weight")};
  l.o_name = {name("self_attn.o_proj.weight")};
  l.gate_up_names = {name("mlp.gate_proj.weight"), name("mlp.up_proj.weight")};
  l.down_name = {name("mlp.down_proj.weight")};

  QL_ASSIGN_OR_RETURN(l.attention_norm,
                      weights.Vector(name("input_layernorm.weight"), c.hidden_size));
  QL_ASSIGN_OR_RETURN(l.q, weights.Matrix(l.qkv_names[0], q_rows, c.hidden_size));
  QL_ASSIGN_OR_RETURN(l.k, weights.Matrix(l.qkv_names[1], kv_rows, c.hidden_size));
  QL_ASSIGN_OR_RETURN(l.v, weights.Matrix(l.qkv_names[2], kv_rows, c.hidden_size));
  if (c.attention_bias) {
    QL_ASSIGN_OR_RETURN(l.q_bias, weights.Vector(name("self_attn.q_proj.bias"), q_rows));
    QL_ASSIGN_OR_RETURN(l.k_bias, weights.Vector(name("self_attn.k_proj.bias"), kv_rows));
    QL_ASSIGN_OR_RETURN(l.v_bias, weights.Vector(name("self_attn.v_proj.bias"), kv_rows));
  }
  if (c.qk_norm) {
    QL_ASSIGN_OR_RETURN(l.q_norm, weights.Vector(name("self_attn.q_norm.weight"), c.head_dim));
    QL_ASSIGN_OR_RETURN(l.k_norm, weights.Vector(name("self_attn.k_norm.weight"), c.head_dim));
  }
  QL_ASSIGN_OR_RETURN(l.o, weights.Matrix(l.o_name[0], c.hidden_size, q_rows));
  QL_ASSIGN_OR_RETURN(l.mlp_norm,
                      weights.Vector(name("post_attention_layernorm.weight"), c.hidden_size));
  QL_ASSIGN_OR_RETURN(l.gate,
                      weights.Matrix(l.gate_up_names[0], c.intermediate_size, c.hidden_size));
  QL_ASSIGN_OR_RETURN(l.up, weights.Matrix(l.gate_up_names[1], c.intermediate_size, c.hidden_size));
  QL_ASSIGN_OR_RETURN(l.down, weights.Matrix(l.down_name[0], c.hidden_size, c.intermediate_size));
  for (const auto* matrix : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down})
    layer_weight_bytes_ += (*matrix)->weight_bytes();
  return absl::OkStatus();
}

void Model::Forward(const RaggedBatch& batch, KvStorage& kv, Workspace& w,
                    std::optional<ActivationObserver> observer) const {
  const size_t n = batch.size();
  for (size_t t = 0; t < n; ++t)
    rotary_.Angles(batch.positions()[t], w.host_angles.data() + t * config_.head_dim);
  backend_.Write({w.host_angles.data(), n * config_.head_dim}, *w.angles);

  backend_.Embed(*embedding_, batch.tokens(), *w.hidden);
  for (uint32_t i = 0; i < layers_.size(); ++i) {
    Attention(layers_[i], i, batch, kv, w, observer);
    Mlp(layers_[i], batch, w, observer);
  }
  if (observer) {
    const auto rows = absl::MakeConstSpan(w.all_rows).subspan(0, n);
    backend_.Norm(*w.hidden, rows, *final_norm_, static_cast<float>(config_.rms_norm_eps),
                  *w.normed);
    (*observer)(head_name_, backend_.Read(*w.normed, n), n, config_.hidden_size);
  }
}

void Model::Attention(const Layer& layer, uint32_t index, const RaggedBatch& batch, KvStorage& kv,
                      Workspace& w, const std::optional<ActivationObserver>& observer) const {
  const size_t n = batch.size();
  const auto rows = absl::MakeConstSpan(w.all_rows).subspan(0, n);
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  AttentionParameters attention;
  attention.heads = static_cast<uint32_t>(config_.num_heads);
  attention.kv_heads = static_cast<uint32_t>(config_.num_kv_heads);
  attention.head_dim = static_cast<uint32_t>(config_.head_dim);
  attention.norm_eps = eps;
  attention.q_norm = layer.q_norm.get();
  attention.k_norm = layer.k_norm.get();

  backend_.Norm(*w.hidden, rows, *layer.attention_norm, eps, *w.normed);
  if (observer) (*observer)(layer.qkv_names, backend_.Read(*w.normed, n), n, w.normed->cols());
  backend_.Linear({layer.q.get(), layer.k.get(), layer.v.get()},
                  {layer.q_bias.get(), layer.k_bias.get(), layer.v_bias.get()}, n, *w.normed,
                  *w.qkv);
  backend_.RotateAndStore(batch, attention, index, *w.angles, *w.qkv, kv);
  backend_.Attend(batch, attention, index, *w.qkv, kv, *w.attended);
  if (observer) (*observer)(layer.o_name, backend_.Read(*w.attended, n), n, w.attended->cols());
  backend_.LinearAdd(*layer.o, n, *w.attended, *w.projected, *w.hidden);
}

void Model::Mlp(const Layer& layer, const RaggedBatch& batch, Workspace& w,
                const std::optional<ActivationObserver>& observer) const {
  const size_t n = batch.size();
  const auto rows = absl::MakeConstSpan(w.all_rows).subspan(0, n);
  backend_.Norm(*w.hidden, rows, *layer.mlp_norm, static_cast<float>(config_.rms_norm_eps),
                *w.normed);
  if (observer) (*observer)(layer.gate_up_names, backend_.Read(*w.normed, n), n, w.normed->cols());
  backend_.GatedLinear(*layer.gate, *layer.up, n, *w.normed, *w.gate_up, *w.gated);
  if (observer) (*observer)(layer.down_name, backend_.Read(*w.gated, n), n, w.gated->cols());
  backend_.LinearAdd(*layer.down, n, *w.gated, *w.projected, *w.hidden);
}

absl::Span<const float> Model::Logits(absl::Span<const uint32_t> rows, Workspace& w) const {
  backend_.Norm(*w.hidden, rows, *final_norm_, static_cast<float>(config_.rms_norm_eps),
                *w.head_input);
  backend_.Linear({&head()}, {}, rows.size(), *w.head_input, *w.logits);
  return backend_.Read(*w.logits, rows.size());
}

}  // namespace quantloom
