#include "engine/quantize/layerwise.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "engine/hessian_sum.h"
#include "engine/kv_cache.h"

namespace quantloom {
namespace {

// Tokens that pass a stage together: enough for products to run from the cache, a multiple of the
// Hessian's chunk.
constexpr size_t kBatchTokens = 4 * Hessian::kChunkTokens;
constexpr uint32_t kBlockTokens = 16;

// Windows that pass the stages together.
struct WindowBatch {
  RaggedBatch rows;
  std::vector<BlockTable> blocks;  // of each window
  size_t first_token = 0;          // of the text
};

class LayerwisePass {
 public:
  LayerwisePass(const ModelConfig& config, WeightSource& weights, Backend& backend,
                InputGroupHandler handle, absl::FunctionRef<absl::Status()> step)
      : config_(config),
        weights_(weights),
        backend_(backend),
        handle_(handle),
        step_(step),
        stages_(config, backend) {}

  absl::Status Run(const CalibrationText& text) {
    QL_RETURN_IF_ERROR(MakeBatches(text));
    QL_RETURN_IF_ERROR(Embed());
    for (uint64_t i = 0; i < config_.num_layers; ++i) {
      QL_ASSIGN_OR_RETURN(DecoderLayer layer, DecoderLayer::Load(config_, weights_, i));
      QL_RETURN_IF_ERROR(RunLayer(layer));
    }
    return FinishWithHead();
  }

 private:
  using Stage = absl::FunctionRef<void(const RaggedBatch& rows, LayerActivations& x)>;

  absl::Status MakeBatches(const CalibrationText& text) {
    size_t longest = 0;
    for (const std::vector<int32_t>& window : text.windows) {
      longest = std::max(longest, window.size());
      for (const int32_t token : window) {
        if (token < 0 || static_cast<uint64_t>(token) >= config_.vocab_size) {
          return absl::InvalidArgumentError(
              absl::StrCat("token ", token, " is not in the vocabulary"));
        }
      }
    }
    if (longest == 0 || longest > config_.max_position) {
      return absl::InvalidArgumentError(absl::StrCat("calibration window of ", longest,
                                                     " tokens; the model's context is 1 to ",
                                                     config_.max_position));
    }
    const size_t max_rows = std::max(longest, kBatchTokens);
    x_ = std::make_unique<LayerActivations>(backend_, config_, max_rows);
    ModelConfig one_layer = config_;
    one_layer.num_layers = 1;
    // A window's last block may be partly used.
    QL_ASSIGN_OR_RETURN(kv_, KvCache::Create(backend_, one_layer, max_rows * kBlockTokens,
                                             kBlockTokens, backend_.exact_kv_element()));
    for (size_t w = 0; w < text.windows.size();) {
      auto batch = std::make_unique<WindowBatch>();
      batch->first_token = tokens_;
      const size_t first = w;
      for (size_t rows = 0; w < text.windows.size(); ++w) {
        rows += text.windows[w].size();
        if (rows > max_rows) break;
        kv_->blocks().Cover(text.windows[w].size(), batch->blocks.emplace_back());
      }
      for (size_t i = first; i < w; ++i) {
        batch->rows.Add(text.windows[i], 0, batch->blocks[i - first]);
      }
      tokens_ += batch->rows.size();
      // The next batch uses the same blocks: a stage needs no other batch's keys.
      for (const BlockTable& table : batch->blocks) {
        BlockTable freed = table;
        kv_->blocks().Release(freed);
      }
      batches_.push_back(std::move(batch));
    }
    return absl::OkStatus();
  }

  // Runs `stage` over every batch, hidden states given and kept.
  absl::Status ForEachBatch(Stage stage) {
    const size_t h = config_.hidden_size;
    for (const std::unique_ptr<WindowBatch>& batch : batches_) {
      const size_t n = batch->rows.size();
      float* hidden = hidden_.data() + batch->first_token * h;
      backend_.Write({hidden, n * h}, *x_->hidden);
      current_ = batch.get();
      stage(batch->rows, *x_);
      const absl::Span<const float> left = backend_.Read(*x_->hidden, n);
      QL_RETURN_IF_ERROR(backend_.status());
      std::copy(left.begin(), left.end(), hidden);
      QL_RETURN_IF_ERROR(step_());
    }
    return absl::OkStatus();
  }

  // The current batch's part of branch_, rows of `cols`.
  absl::Span<float> Branch(size_t cols) {
    return absl::MakeSpan(branch_).subspan(current_->first_token * cols,
                                           current_->rows.size() * cols);
  }
  void KeepBranch(const DeviceBuffer& buffer) {
    const absl::Span<const float> values = backend_.Read(buffer, current_->rows.size());
    std::copy(values.begin(), values.end(), Branch(buffer.cols()).begin());
  }

  absl::Status Embed() {
    hidden_.resize(tokens_ * config_.hidden_size);
    branch_.resize(tokens_ *
                   std::max(config_.num_heads * config_.head_dim, config_.intermediate_size));
    QL_ASSIGN_OR_RETURN(
        const auto embedding,
        weights_.Table("model.embed_tokens.weight", config_.vocab_size, config_.hidden_size));
    return ForEachBatch([&](const RaggedBatch& rows, LayerActivations& x) {
      stages_.Begin(rows, x);
      backend_.Embed(*embedding, *x.batch, *x.hidden);
    });
  }

  // Observes the normed input of a residual branch, which is cheap to make again.
  absl::Status HandleBranchInput(const DeviceVector& norm, absl::Span<LinearWeight* const> group) {
    QL_ASSIGN_OR_RETURN(const auto sum, backend_.NewHessianSum(config_.hidden_size));
    QL_RETURN_IF_ERROR(ForEachBatch([&](const RaggedBatch& rows, LayerActivations& x) {
      stages_.EnterBranch(norm, rows.size(), x);
      sum->Add(*x.normed, rows.size());
    }));
    QL_ASSIGN_OR_RETURN(Hessian hessian, sum->Take());
    return handle_(group, std::move(hessian));
  }

  // Runs `stage`, which leaves the input of `linear` in `buffer`, and keeps that input.
  absl::Status HandleProduct(Stage stage, const DeviceBuffer& buffer, LinearWeight* linear) {
    QL_ASSIGN_OR_RETURN(const auto sum, backend_.NewHessianSum(buffer.cols()));
    QL_RETURN_IF_ERROR(ForEachBatch([&](const RaggedBatch& rows, LayerActivations& x) {
      stage(rows, x);
      sum->Add(buffer, rows.size());
      KeepBranch(buffer);
    }));
    QL_ASSIGN_OR_RETURN(Hessian hessian, sum->Take());
    return handle_({linear}, std::move(hessian));
  }

  absl::Status RunLayer(DecoderLayer& layer) {
    QL_RETURN_IF_ERROR(HandleBranchInput(*layer.attention_norm, {&layer.q, &layer.k, &layer.v}));
    QL_RETURN_IF_ERROR(HandleProduct(
        [&](const RaggedBatch& rows, LayerActivations& x) {
          stages_.Begin(rows, x);
          stages_.EnterBranch(*layer.attention_norm, rows.size(), x);
          stages_.Attend(layer, 0, kv_->storage(), x);
        },
        *x_->attended, &layer.o));
    QL_RETURN_IF_ERROR(ForEachBatch([&](const RaggedBatch& rows, LayerActivations& x) {
      backend_.Write(Branch(x.attended->cols()), *x.attended);
      stages_.AddAttended(layer, rows.size(), x);
    }));
    QL_RETURN_IF_ERROR(HandleBranchInput(*layer.mlp_norm, {&layer.gate, &layer.up}));
    QL_RETURN_IF_ERROR(HandleProduct(
        [&](const RaggedBatch& rows, LayerActivations& x) {
          stages_.EnterBranch(*layer.mlp_norm, rows.size(), x);
          stages_.Gate(layer, rows.size(), x);
        },
        *x_->gated, &layer.down));
    return ForEachBatch([&](const RaggedBatch& rows, LayerActivations& x) {
      backend_.Write(Branch(x.gated->cols()), *x.gated);
      stages_.AddGated(layer, rows.size(), x);
    });
  }

  absl::Status FinishWithHead() {
    QL_ASSIGN_OR_RETURN(const auto norm, weights_.Vector("model.norm.weight", config_.hidden_size));
    LinearWeight head{config_.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight",
                      config_.vocab_size, config_.hidden_size, nullptr};
    return HandleBranchInput(*norm, {&head});
  }

  const ModelConfig& config_;
  WeightSource& weights_;
  Backend& backend_;
  InputGroupHandler handle_;
  absl::FunctionRef<absl::Status()> step_;
  DecoderStages stages_;
  std::unique_ptr<LayerActivations> x_;
  std::unique_ptr<KvCache> kv_;  // of one layer and one batch
  std::vector<std::unique_ptr<WindowBatch>> batches_;
  const WindowBatch* current_ = nullptr;
  size_t tokens_ = 0;
  std::vector<float> hidden_;  // [tokens, h]
  std::vector<float> branch_;  // [tokens, the branch's width]
};

}  // namespace

absl::Status RunLayerwise(const ModelConfig& config, WeightSource& weights, Backend& backend,
                          const CalibrationText& text, InputGroupHandler handle,
                          absl::FunctionRef<absl::Status()> step) {
  return LayerwisePass(config, weights, backend, handle, step).Run(text);
}

}  // namespace quantloom
