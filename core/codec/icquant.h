// ICQuant (arXiv 2505.00850): scalar quantization with separate quantizers for each row's inliers
// and outliers, and gap-coded outlier positions. icquant_matrix.h describes what is stored;
// docs/icquant.md the bytes and the reasons.
//
// Encoding a row: the outliers are its round(gamma cols) largest |w|; levels are fitted to either
// part (RTN: uniform over its range; k-means: the exact optimum under the columns' importance),
// rounded to the codebook form's grid and improved there; every weight takes the nearest level.
#pragma once

#include "core/codec/registry.h"

namespace quantloom {

CodecRegistration IcquantRegistration();

}  // namespace quantloom
