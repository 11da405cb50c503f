#include "core/transform/small_hadamard.h"

#include <array>
#include <cassert>
#include <optional>

#include "absl/strings/string_view.h"

namespace quantloom {
namespace {

bool IsPrime(size_t n) {
  if (n < 2) return false;
  for (size_t d = 2; d * d <= n; ++d) {
    if (n % d == 0) return false;
  }
  return true;
}

// The quadratic character of a finite field with q = p or q = p^2 elements, p an odd prime. Element
// e of the larger field is a + b * sqrt(r), with a = e mod p, b = e div p and r the smallest
// quadratic non-residue mod p.
class QuadraticCharacter {
 public:
  QuadraticCharacter(size_t p, size_t degree) : p_(p), q_(degree == 1 ? p : p * p), prime_(p, -1) {
    prime_[0] = 0;
    for (size_t a = 1; a < p; ++a) prime_[a * a % p] = 1;
    while (prime_[non_residue_] != -1) ++non_residue_;
  }

  size_t q() const { return q_; }

  // chi(x - y): 0 for x = y, 1 for a square, -1 for the others.
  int8_t OfDifference(size_t x, size_t y) const {
    const size_t a = (x % p_ + p_ - y % p_) % p_;
    if (q_ == p_) return prime_[a];
    // z is a square in the larger field if and only if its norm, a^2 - r b^2, is one in the prime
    // field.
    const size_t b = (x / p_ + p_ - y / p_) % p_;
    return prime_[(a * a + (p_ - non_residue_) * (b * b % p_)) % p_];
  }

 private:
  size_t p_, q_;
  std::vector<int8_t> prime_;  // the character of the prime field
  size_t non_residue_ = 1;
};

// Paley, "On orthogonal matrices", 1933. Both constructions border the Jacobsthal matrix
// Q(i, j) = chi(i - j) to S = [0, 1; +-1, Q] of order q + 1, where S S^T = q I.
int8_t Bordered(const QuadraticCharacter& chi, size_t i, size_t j, int8_t left) {
  if (i == 0) return j == 0 ? 0 : 1;
  return j == 0 ? left : chi.OfDifference(i - 1, j - 1);
}

// Order q + 1 for q = 3 mod 4: S is skew, H = I + S.
std::vector<int8_t> PaleyOne(const QuadraticCharacter& chi) {
  const size_t order = chi.q() + 1;
  std::vector<int8_t> h(order * order);
  for (size_t i = 0; i < order; ++i) {
    for (size_t j = 0; j < order; ++j) h[i * order + j] = i == j ? 1 : Bordered(chi, i, j, -1);
  }
  return h;
}

// Order 2 (q + 1) for q = 1 mod 4: S is symmetric, H = S (x) [1, 1; 1, -1] + I (x) [1, -1; -1, -1].
std::vector<int8_t> PaleyTwo(const QuadraticCharacter& chi) {
  const size_t order = 2 * (chi.q() + 1);
  std::vector<int8_t> h(order * order);
  for (size_t i = 0; i < order; ++i) {
    for (size_t j = 0; j < order; ++j) {
      const int8_t s = Bordered(chi, i / 2, j / 2, 1);
      const bool last = i % 2 == 1 && j % 2 == 1;
      const bool first = i % 2 == 0 && j % 2 == 0;
      h[i * order + j] = s != 0 ? (last ? -s : s) : (first ? 1 : -1);
    }
  }
  return h;
}

// Williamson, "Hadamard's determinant theorem and the sum of four squares", 1944: four symmetric
// circulant matrices with A^2 + B^2 + C^2 + D^2 = 4p I, given by their first rows. They were found
// by searching symmetric sequences whose power spectra add up to 4p at every frequency.
struct WilliamsonRows {
  size_t p;
  std::array<absl::string_view, 4> first_rows;
};
constexpr WilliamsonRows kWilliamson[] = {
    {23,
     {"+-++-++--++++++--++-++-", "+++---++-+-++-+-++---++", "++---+---+-++-+---+---+",
      "+++-+++-+------+-+++-++"}},
    {29,
     {"+++-+---++++-++++-++++---+-++", "++-+-+++-++-+----+-++-+++-+-+",
      "++-+++--+-++------++-+--+++-+", "+--+++--++-+------+-++--+++--"}},
    {39,
     {"+---+---+-++-++----++----++-++-+---+---", "++--+++-+--++-+----------+-++--+-+++--+",
      "+-++------++--+-+-++++-+-+--++------++-", "+---+--++++----+-+-++-+-+----++++--+---"}},
    {43,
     {"+---++--++++-+-+++-++--++-+++-+-++++--++---", "+++-+-++--+-+-++++-+----+-++++-+-+--++-+-++",
      "++---++++-+--+--++--------++--+--+-++++---+",
      "++-++++++----+-+--++-++-++--+-+----++++++-+"}},
};

const WilliamsonRows* FindWilliamson(size_t order) {
  for (const WilliamsonRows& rows : kWilliamson) {
    if (4 * rows.p == order) return &rows;
  }
  return nullptr;
}

// H = [A, B, C, D; -B, A, -D, C; -C, D, A, -B; -D, -C, B, A].
std::vector<int8_t> Williamson(const WilliamsonRows& rows) {
  constexpr int kBlock[4][4] = {{0, 1, 2, 3}, {1, 0, 3, 2}, {2, 3, 0, 1}, {3, 2, 1, 0}};
  constexpr int8_t kSign[4][4] = {{1, 1, 1, 1}, {-1, 1, -1, 1}, {-1, 1, 1, -1}, {-1, -1, 1, 1}};
  const size_t p = rows.p, order = 4 * p;
  std::vector<int8_t> h(order * order);
  for (size_t i = 0; i < order; ++i) {
    for (size_t j = 0; j < order; ++j) {
      const char entry = rows.first_rows[kBlock[i / p][j / p]][(j % p + p - i % p) % p];
      const int8_t sign = kSign[i / p][j / p];
      h[i * order + j] = entry == '+' ? sign : -sign;
    }
  }
  return h;
}

// The field of q elements where q is an odd prime or the square of one.
std::optional<QuadraticCharacter> CharacterOf(size_t q) {
  if (IsPrime(q)) return QuadraticCharacter(q, 1);
  for (size_t p = 3; p * p <= q; p += 2) {
    if (p * p == q && IsPrime(p)) return QuadraticCharacter(p, 2);
  }
  return std::nullopt;
}

}  // namespace

bool HasSmallHadamard(size_t order) {
  if (order % 8 != 4 || order < 12 || order > kMaxSmallHadamardOrder) return false;
  return IsPrime(order - 1) || CharacterOf(order / 2 - 1) || FindWilliamson(order) != nullptr;
}

std::vector<int8_t> SmallHadamard(size_t order) {
  assert(HasSmallHadamard(order));
  if (IsPrime(order - 1)) return PaleyOne(QuadraticCharacter(order - 1, 1));
  if (const auto chi = CharacterOf(order / 2 - 1)) return PaleyTwo(*chi);
  return Williamson(*FindWilliamson(order));
}

}  // namespace quantloom
