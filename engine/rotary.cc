#include "engine/rotary.h"

#include <cmath>
#include <cstddef>

namespace quantloom {
namespace {

constexpr double kTwoPi = 6.28318530717958647692;

// a^(1/n) for a > 0 by Newton's method. The start is above the root (Bernoulli's inequality), from
// where the iterates fall monotonically until rounding stops them.
double Root(double a, int n) {
  double y = 1 + (a - 1) / n;
  while (true) {
    double power = 1;  // y^(n-1); infinity is harmless, the step is then y (n-1)/n
    for (int i = 1; i < n; ++i) power *= y;
    const double next = ((n - 1) * y + a / power) / n;
    if (!(next < y)) return y;
    y = next;
  }
}

struct SinCos {
  double sin;
  double cos;
};

// Taylor polynomials to degree 17 and 16 after reduction to [-pi/4, pi/4]; error below 1e-15 for
// angles up to 2^20 quarter turns (pi/2 in two parts, the first of 33 bits: n * first is exact).
SinCos SinCosOf(double angle) {
  constexpr double kQuarterHigh = 1.57079632673412561417e+00;
  constexpr double kQuarterLow = 6.07710050650619224932e-11;
  const auto quarters = static_cast<int64_t>(std::floor(angle * (4 / kTwoPi) + 0.5));
  const auto n = static_cast<double>(quarters);
  const double x = (angle - n * kQuarterHigh) - n * kQuarterLow;
  const double x2 = x * x;
  double sin = 1;
  double cos = 1;
  for (int i = 16; i >= 2; i -= 2) {
    sin = 1 - sin * x2 / (i * (i + 1));
    cos = 1 - cos * x2 / (i * (i - 1));
  }
  sin *= x;
  switch (quarters & 3) {
    case 0:
      return {sin, cos};
    case 1:
      return {cos, -sin};
    case 2:
      return {-sin, -cos};
    default:
      return {-cos, sin};
  }
}

double Scaled(double frequency, const RopeScaling& scaling) {
  switch (scaling.type) {
    case RopeScaling::Type::kNone:
      return frequency;
    case RopeScaling::Type::kLinear:
      return frequency / scaling.factor;
    case RopeScaling::Type::kLlama3:
      break;
  }
  // Llama 3.1: wavelengths beyond the original context are stretched by `factor`, short ones kept,
  // those between interpolated.
  const auto context = static_cast<double>(scaling.original_max_position);
  const double turns = context * frequency / kTwoPi;  // in the original context
  if (turns < scaling.low_freq_factor) return frequency / scaling.factor;
  if (turns > scaling.high_freq_factor) return frequency;
  const double smooth =
      (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1 - smooth) * frequency / scaling.factor + smooth * frequency;
}

}  // namespace

RotaryEmbedding::RotaryEmbedding(const ModelConfig& config) : frequencies_(config.head_dim / 2) {
  // theta^(-2 i / head_dim) = ratio^i.
  const double ratio = 1 / Root(config.rope_theta, static_cast<int>(config.head_dim / 2));
  double frequency = 1;
  for (double& f : frequencies_) {
    f = Scaled(frequency, config.rope_scaling);
    frequency *= ratio;
  }
}

void RotaryEmbedding::Angles(uint32_t position, float* out) const {
  const size_t half = frequencies_.size();
  for (size_t i = 0; i < half; ++i) {
    const SinCos value = SinCosOf(position * frequencies_[i]);
    out[i] = static_cast<float>(value.cos);
    out[half + i] = static_cast<float>(value.sin);
  }
}

}  // namespace quantloom
