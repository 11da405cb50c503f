#include "cli/bit_totals.h"

#include <gtest/gtest.h>

namespace quantloom::cli {
namespace {

using ::quantloom::v1::Model;
using ::quantloom::v1::Tensor;

TEST(BitTotalsTest, TotalBits_WeighsTensorsByTheirSize) {
  Model model;
  Tensor* small = model.add_tensors();
  small->add_shape(10);
  small->set_recipe("raw");
  small->set_bits_per_weight(32);
  Tensor* large = model.add_tensors();
  large->add_shape(10);
  large->add_shape(9);
  large->set_recipe("icquant:bits=2");
  large->set_bits_per_weight(2.5);
  large->set_code_bits(2);
  large->set_index_bits(0.5);
  const BitTotals all = TotalBits(model, [](const Tensor&) { return true; });
  EXPECT_EQ(all.tensors, 2);
  EXPECT_EQ(all.weights, 100u);
  EXPECT_DOUBLE_EQ(all.bits.bits_per_weight(), (32 * 10 + 2.5 * 90) / 100);
  EXPECT_DOUBLE_EQ(all.bits.code_bits(), 1.8);
  EXPECT_DOUBLE_EQ(all.bits.index_bits(), 0.45);
  const BitTotals none = TotalBits(model, [](const Tensor&) { return false; });
  EXPECT_EQ(none.weights, 0u);
  EXPECT_EQ(none.bits.bits_per_weight(), 0);
}

}  // namespace
}  // namespace quantloom::cli
