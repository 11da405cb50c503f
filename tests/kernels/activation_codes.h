// What the integer forms of activations hold, whatever their groups.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/linear.h"

namespace quantloom::cpu {

// read(group) of one of a row of codes' groups.
template <class Read>
auto ReadGroup(const Activations& a, size_t row, size_t group, const Read& read) {
  return a.form() == ActivationForm::kInt8Wide
             ? read(a.code_row<Activations::kWideGroupSteps>(row)[group])
             : read(a.code_row<Activations::kGroupSteps>(row)[group]);
}

// The block that column c belongs to: 16 of them a group, four columns in turn to each.
inline size_t BlockOf(const Activations& a, size_t c) {
  return c / a.group_cols() * 16 + c % 64 / 4;
}

inline int8_t CodeOf(const Activations& a, size_t row, size_t c) {
  return ReadGroup(a, row, c / a.group_cols(),
                   [&](const auto& group) { return group.codes[c % a.group_cols()]; });
}
inline float ScaleOf(const Activations& a, size_t row, size_t block) {
  return ReadGroup(a, row, block / 16, [&](const auto& group) { return group.scales[block % 16]; });
}
inline int32_t BiasOf(const Activations& a, size_t row, size_t block) {
  return ReadGroup(a, row, block / 16, [&](const auto& group) { return group.biases[block % 16]; });
}

}  // namespace quantloom::cpu
