// The one product behind Hessians, their factorization and LDLQ: C += A^T B for panels of 48
// columns, each element of C one chain of fused multiply-adds in a fixed order, vectorized across
// the columns of B. So its bits depend neither on the SIMD target nor on who computes which block,
// and a chain may be cut anywhere and continued later.
//
// A panel is a matrix [k, 48], rows one after the other; narrower matrices are padded with zeros.
// 48 columns are whole register tiles on every target (8 rows of C by 3 vectors of 512 bits, 4 by 3
// of 256 or 128 bits), and with 256 rows of fp32 two panels stay in the second-level cache.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quantloom {

inline constexpr size_t kPanelColumns = 48;

// Panels that hold n columns.
inline constexpr size_t PanelCount(size_t n) { return (n + kPanelColumns - 1) / kPanelColumns; }

// c[i, j] = fma(a[k-1, i], b[k-1, j], ... fma(a[0, i], b[0, j], c[i, j])) for i < m, j < 48.
// a: [k, 48] of which the first m columns are read (a may point at a panel's later column, as long
// as m columns follow in the row); b: [k, 48]; c: [m, 48]. c overlaps neither.
void AddPanelProduct(const float* a, const float* b, size_t k, size_t m, float* c);
void AddPanelProduct(const double* a, const double* b, size_t k, size_t m, double* c);

}  // namespace quantloom
