#include "engine/cpu_backend.h"

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/ops.h"
#include "tests/kernels/icquant_matrices.h"
#include "tests/kernels/lossless_matrix.h"

namespace quantloom {
namespace {

using cpu::RandomFloats;
using cpu::SameBits;

constexpr IncoherenceOptions kPlain = {.kind = IncoherenceKind::kNone};
constexpr IncoherenceOptions kInputSide = {.kind = IncoherenceKind::kInput, .input_seed = 5};
constexpr IncoherenceOptions kTwoSided = {.input_seed = 5, .output_seed = 6};
constexpr IncoherenceOptions kOtherSeed = {.input_seed = 7, .output_seed = 8};
constexpr IncoherenceOptions kOtherBlocks = {
    .blocks = HadamardBlocks::k128, .input_seed = 5, .output_seed = 9};

constexpr size_t kCols = 192;  // Hadamard(12) (x) Sylvester(16), or three blocks of Sylvester(64)

std::vector<float> Row(const std::vector<float>& values, size_t row, size_t cols) {
  return {values.begin() + row * cols, values.begin() + (row + 1) * cols};
}

// The backend with a team of its own.
class TeamBackend {
 public:
  explicit TeamBackend(int threads) : team_(threads), backend_(CreateCpuBackend(team_).value()) {}
  Backend* operator->() { return backend_.get(); }
  Backend& operator*() { return *backend_; }

  std::unique_ptr<DeviceMatrix> Matrix(std::unique_ptr<PackedMatrix> matrix) {
    return backend_->MatrixFromPacked(std::move(matrix), MatrixUse::kRows).value();
  }
  std::unique_ptr<DeviceBuffer> Rows(const std::vector<float>& values, size_t cols) {
    auto buffer = backend_->Buffer(values.size() / cols, cols);
    backend_->Write(values, *buffer);
    return buffer;
  }
  std::vector<float> Values(const DeviceBuffer& buffer) {
    const absl::Span<const float> values = backend_->Read(buffer, buffer.max_rows());
    return {values.begin(), values.end()};
  }

  std::vector<float> Linear(const std::vector<const DeviceMatrix*>& weights,
                            const std::vector<const DeviceVector*>& biases,
                            const std::vector<float>& x) {
    const size_t n = x.size() / kCols;
    size_t rows = 0;
    for (const DeviceMatrix* weight : weights) rows += weight->rows();
    const auto input = Rows(x, kCols);
    const auto y = backend_->Buffer(n, rows);
    backend_->Linear(weights, biases, n, *input, *y);
    return Values(*y);
  }

 private:
  ThreadTeam team_;
  std::unique_ptr<Backend> backend_;
};

// Matrices over one input that differ in every way; the last one reads quantized activations.
class MixedGroup {
 public:
  MixedGroup() : icquant_({4, IcquantCodebook::kInt8, true, true, 24, kCols}, 1) {
    uint32_t seed = 10;
    for (const auto& [rows, options] : {std::pair<size_t, IncoherenceOptions>{96, kTwoSided},
                                        {40, kInputSide},
                                        {24, kPlain},
                                        {12, kOtherSeed},
                                        {33, kOtherBlocks}}) {
      lossless_.push_back([rows = rows, seed = seed++, options = options] {
        return RandomLossless(rows, kCols, seed, options);
      });
    }
  }

  size_t size() const { return lossless_.size() + 1; }
  bool lossless(size_t m) const { return m < lossless_.size(); }
  std::unique_ptr<PackedMatrix> Make(size_t m) const {
    if (lossless(m)) return lossless_[m]();
    return icquant_.Open();
  }

 private:
  std::vector<std::function<std::unique_ptr<PackedMatrix>()>> lossless_;
  cpu::RandomIcquant icquant_;
};

// A mixed group on a backend, with biases for every other matrix.
struct LoadedGroup {
  explicit LoadedGroup(TeamBackend& backend) {
    for (size_t m = 0; m < group.size(); ++m) {
      owned.push_back(backend.Matrix(group.Make(m)));
      weights.push_back(owned.back().get());
      first.push_back(first.back() + owned.back()->rows());
      bias_values.push_back(RandomFloats(m % 2 == 0 ? owned.back()->rows() : 0, 50 + m));
      if (m % 2 == 0) owned_biases.push_back(backend->Vector(bias_values.back()));
      biases.push_back(m % 2 == 0 ? owned_biases.back().get() : nullptr);
    }
  }
  size_t rows() const { return first.back(); }

  MixedGroup group;
  std::vector<std::unique_ptr<DeviceMatrix>> owned;
  std::vector<std::unique_ptr<DeviceVector>> owned_biases;
  std::vector<const DeviceMatrix*> weights;
  std::vector<const DeviceVector*> biases;
  std::vector<std::vector<float>> bias_values;
  std::vector<size_t> first = {0};  // row of each matrix in the stack; their sum
};

TEST(CpuBackend, Linear_OfAMixedGroupIsWhatTheDequantizedMatricesGive) {
  TeamBackend backend(2);
  ThreadTeam team(1);
  const LoadedGroup loaded(backend);
  const size_t n = 5;
  const std::vector<float> x = RandomFloats(n * kCols, 3);
  const std::vector<float> y = backend.Linear(loaded.weights, {}, x);
  for (size_t m = 0; m < loaded.group.size(); ++m) {
    if (!loaded.group.lossless(m)) continue;
    SCOPED_TRACE(m);
    const auto matrix = loaded.group.Make(m);
    const std::vector<float> w = Dequantize(*matrix, team);
    for (size_t t = 0; t < n; ++t) {
      const float* from = y.data() + t * loaded.rows() + loaded.first[m];
      ExpectProduct({from, from + matrix->rows()}, w, Row(x, t, kCols), ProductErrorBound(*matrix));
    }
  }
}

TEST(CpuBackend, Linear_AMatrixGivesTheSameBitsAloneAndInAMixedGroup) {
  TeamBackend backend(2);
  const LoadedGroup loaded(backend);
  const size_t n = 6;
  const std::vector<float> x = RandomFloats(n * kCols, 4);
  const std::vector<float> y = backend.Linear(loaded.weights, loaded.biases, x);
  for (size_t m = 0; m < loaded.weights.size(); ++m) {
    const size_t rows = loaded.weights[m]->rows();
    std::vector<float> alone = backend.Linear({loaded.weights[m]}, {}, x), grouped;
    for (size_t t = 0; t < n; ++t) {
      const std::vector<float>& bias = loaded.bias_values[m];
      for (size_t r = 0; r < bias.size(); ++r) alone[t * rows + r] += bias[r];
      const float* from = y.data() + t * loaded.rows() + loaded.first[m];
      grouped.insert(grouped.end(), from, from + rows);
    }
    EXPECT_TRUE(SameBits(grouped, alone)) << m;
  }
}

TEST(CpuBackend, Linear_ARowGivesTheSameBitsInAnyBatchWithAnyTeam) {
  const size_t n = 70;
  const std::vector<float> x = RandomFloats(n * kCols, 5);
  TeamBackend one(1), three(3);
  const LoadedGroup of_one(one), of_three(three);
  const std::vector<float> y = one.Linear(of_one.weights, of_one.biases, x);
  EXPECT_TRUE(SameBits(three.Linear(of_three.weights, of_three.biases, x), y));
  for (size_t t = 0; t < n; t += 23) {
    const std::vector<float> alone =
        three.Linear(of_three.weights, of_three.biases, Row(x, t, kCols));
    EXPECT_TRUE(SameBits(alone, Row(y, t, of_one.rows()))) << t;
  }
}

// A buffer's forms of activations are made anew for whatever group reads it next.
TEST(CpuBackend, Linear_GroupsThatReadOneBufferInTurnDoNotDisturbEachOther) {
  TeamBackend backend(2);
  const LoadedGroup loaded(backend);
  const std::vector<float> x = RandomFloats(3 * kCols, 6);
  const auto input = backend.Rows(x, kCols);
  for (size_t m : {0, 5, 2, 3, 0, 1, 4}) {
    const auto y = backend->Buffer(3, loaded.weights[m]->rows());
    backend->Linear({loaded.weights[m]}, {}, 3, *input, *y);
    EXPECT_TRUE(SameBits(backend.Values(*y), backend.Linear({loaded.weights[m]}, {}, x))) << m;
  }
}

TEST(CpuBackend, LinearAdd_AddsTheRestoredProduct) {
  TeamBackend backend(2);
  const LoadedGroup loaded(backend);
  const size_t n = 3;
  const std::vector<float> x = RandomFloats(n * kCols, 7);
  for (const DeviceMatrix* weight : loaded.weights) {
    const size_t rows = weight->rows();
    std::vector<float> expected = RandomFloats(n * rows, 8);
    const auto input = backend.Rows(x, kCols), residual = backend.Rows(expected, rows);
    const auto scratch = backend->Buffer(n, rows);
    backend->LinearAdd(*weight, n, *input, *scratch, *residual);
    const std::vector<float> product = backend.Linear({weight}, {}, x);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += product[i];
    EXPECT_TRUE(SameBits(backend.Values(*residual), expected)) << rows;
  }
}

TEST(CpuBackend, GatedLinear_ActivatesRestoredProducts) {
  TeamBackend backend(2);
  const size_t n = 3, rows = 92;
  const std::vector<float> x = RandomFloats(n * kCols, 9);
  const IncoherenceOptions kinds[] = {kTwoSided, kInputSide, kPlain, kOtherSeed};
  for (const IncoherenceOptions& of_gate : kinds) {
    for (const IncoherenceOptions& of_up : kinds) {
      const auto gate = backend.Matrix(RandomLossless(rows, kCols, 20, of_gate));
      const auto up = backend.Matrix(RandomLossless(rows, kCols, 21, of_up));
      const auto input = backend.Rows(x, kCols);
      const auto scratch = backend->Buffer(n, 2 * rows), out = backend->Buffer(n, rows);
      backend->GatedLinear(*gate, *up, n, *input, *scratch, *out);
      const std::vector<float> g = backend.Linear({gate.get()}, {}, x);
      const std::vector<float> u = backend.Linear({up.get()}, {}, x);
      std::vector<float> expected(n * rows);
      cpu::SwiGlu(g.data(), u.data(), n * rows, expected.data());
      EXPECT_TRUE(SameBits(backend.Values(*out), expected))
          << static_cast<int>(of_gate.kind) << " " << static_cast<int>(of_up.kind);
    }
  }
}

TEST(CpuBackend, Embed_LooksUpRowsBehindATransformOfInputs) {
  TeamBackend backend(2);
  ThreadTeam team(1);
  const auto matrix = RandomLossless(30, kCols, 22, kInputSide);
  const std::vector<float> w = Dequantize(*matrix, team);
  const auto table = backend.Matrix(RandomLossless(30, kCols, 22, kInputSide));
  ASSERT_TRUE(table->decodes_rows());
  const std::vector<int32_t> tokens = {29, 0, 17, 17, 3};
  const auto out = backend->Buffer(tokens.size(), kCols);
  RaggedBatch ragged;
  ragged.Add(tokens, 0, {});
  const auto batch = backend->Batch(tokens.size(), 0);
  backend->SetBatch(ragged, *batch);
  backend->Embed(*table, *batch, *out);
  for (size_t t = 0; t < tokens.size(); ++t) {
    EXPECT_TRUE(SameBits(Row(backend.Values(*out), t, kCols), Row(w, tokens[t], kCols))) << t;
  }
}

}  // namespace
}  // namespace quantloom
