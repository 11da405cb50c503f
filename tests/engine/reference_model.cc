#include "tests/engine/reference_model.h"

#include <cmath>
#include <complex>
#include <numbers>

namespace quantloom::testing {
namespace {

using Vec = std::vector<double>;

class Reference {
 public:
  Reference(const ModelConfig& config, const std::map<std::string, std::vector<float>>& weights,
            ReferenceInputs* inputs)
      : config_(config), weights_(weights), inputs_(inputs) {}

  std::vector<Vec> Run(const std::vector<int32_t>& tokens) {
    std::vector<Vec> hidden;
    const auto& table = weights_.at("model.embed_tokens.weight");
    const auto h = static_cast<std::ptrdiff_t>(config_.hidden_size);
    for (int32_t token : tokens)
      hidden.emplace_back(table.begin() + token * h, table.begin() + (token + 1) * h);
    for (uint64_t layer = 0; layer < config_.num_layers; ++layer) {
      prefix_ = "model.layers." + std::to_string(layer) + ".";
      Attention(hidden);
      Mlp(hidden);
    }
    prefix_ = "";
    std::vector<Vec> logits;
    const char* head = config_.tie_word_embeddings ? "model.embed_tokens" : "lm_head";
    for (const Vec& x : hidden) logits.push_back(Linear(head, Norm("model.norm", x)));
    return logits;
  }

 private:
  Vec Linear(const std::string& name, const Vec& x) const {
    const auto& w = weights_.at(prefix_ + name + ".weight");
    if (inputs_ != nullptr) (*inputs_)[prefix_ + name + ".weight"].push_back(x);
    Vec y(w.size() / x.size(), 0.0);
    for (size_t r = 0; r < y.size(); ++r)
      for (size_t c = 0; c < x.size(); ++c) y[r] += static_cast<double>(w[r * x.size() + c]) * x[c];
    const auto bias = weights_.find(prefix_ + name + ".bias");
    if (bias != weights_.end())
      for (size_t r = 0; r < y.size(); ++r) y[r] += bias->second[r];
    return y;
  }

  Vec Norm(const std::string& name, const Vec& x) const {
    const auto& w = weights_.at(prefix_ + name + ".weight");
    double square = 0;
    for (double value : x) square += value * value;
    const double scale =
        1 / std::sqrt(square / static_cast<double>(x.size()) + config_.rms_norm_eps);
    Vec y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * w[i];
    return y;
  }

  double Frequency(size_t i) const {
    const double f = std::pow(
        config_.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(config_.head_dim));
    const RopeScaling& scaling = config_.rope_scaling;
    if (scaling.type == RopeScaling::Type::kNone) return f;
    if (scaling.type == RopeScaling::Type::kLinear) return f / scaling.factor;
    // As in Llama 3.1's reference code: by wavelength.
    const double wavelength = 2 * std::numbers::pi / f;
    const auto context = static_cast<double>(scaling.original_max_position);
    if (wavelength < context / scaling.high_freq_factor) return f;
    if (wavelength > context / scaling.low_freq_factor) return f / scaling.factor;
    const double smooth = (context / wavelength - scaling.low_freq_factor) /
                          (scaling.high_freq_factor - scaling.low_freq_factor);
    return (1 - smooth) * f / scaling.factor + smooth * f;
  }

  // The heads of a projection: normalized where the model does, each pair (i, i + d/2) turned as a
  // complex number.
  std::vector<Vec> Heads(const Vec& x, size_t position, const std::string& norm) const {
    const size_t d = config_.head_dim;
    std::vector<Vec> heads;
    for (size_t begin = 0; begin < x.size(); begin += d) {
      Vec head(x.begin() + static_cast<std::ptrdiff_t>(begin),
               x.begin() + static_cast<std::ptrdiff_t>(begin + d));
      if (!norm.empty() && config_.qk_norm) head = Norm(norm, head);
      if (!norm.empty()) {
        for (size_t i = 0; i < d / 2; ++i) {
          const auto turned = std::complex<double>(head[i], head[i + d / 2]) *
                              std::polar(1.0, static_cast<double>(position) * Frequency(i));
          head[i] = turned.real();
          head[i + d / 2] = turned.imag();
        }
      }
      heads.push_back(head);
    }
    return heads;
  }

  void Attention(std::vector<Vec>& hidden) const {
    const size_t d = config_.head_dim;
    std::vector<std::vector<Vec>> keys;
    std::vector<std::vector<Vec>> values;
    for (size_t t = 0; t < hidden.size(); ++t) {
      const Vec x = Norm("input_layernorm", hidden[t]);
      const auto queries = Heads(Linear("self_attn.q_proj", x), t, "self_attn.q_norm");
      keys.push_back(Heads(Linear("self_attn.k_proj", x), t, "self_attn.k_norm"));
      values.push_back(Heads(Linear("self_attn.v_proj", x), t, ""));
      Vec mixed;
      for (size_t h = 0; h < config_.num_heads; ++h) {
        const size_t kv = h * config_.num_kv_heads / config_.num_heads;
        Vec out(d, 0.0);
        double total = 0;
        for (size_t p = 0; p <= t; ++p) {
          double dot = 0;
          for (size_t i = 0; i < d; ++i) dot += queries[h][i] * keys[p][kv][i];
          const double weight = std::exp(dot / std::sqrt(static_cast<double>(d)));
          total += weight;
          for (size_t i = 0; i < d; ++i) out[i] += weight * values[p][kv][i];
        }
        for (double& value : out) mixed.push_back(value / total);
      }
      const Vec projected = Linear("self_attn.o_proj", mixed);
      for (size_t i = 0; i < projected.size(); ++i) hidden[t][i] += projected[i];
    }
  }

  void Mlp(std::vector<Vec>& hidden) const {
    for (Vec& row : hidden) {
      const Vec x = Norm("post_attention_layernorm", row);
      Vec gate = Linear("mlp.gate_proj", x);
      const Vec up = Linear("mlp.up_proj", x);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      const Vec down = Linear("mlp.down_proj", gate);
      for (size_t i = 0; i < down.size(); ++i) row[i] += down[i];
    }
  }

  const ModelConfig& config_;
  const std::map<std::string, std::vector<float>>& weights_;
  ReferenceInputs* inputs_;
  std::string prefix_;
};

}  // namespace

std::vector<std::vector<double>> ReferenceLogits(
    const ModelConfig& config, const std::map<std::string, std::vector<float>>& weights,
    const std::vector<int32_t>& tokens, ReferenceInputs* inputs) {
  return Reference(config, weights, inputs).Run(tokens);
}

}  // namespace quantloom::testing
