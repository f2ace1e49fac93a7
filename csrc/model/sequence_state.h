// What a sequence costs beyond its tokens.
#pragma once

#include <cstdint>

#include "model/model.h"

namespace apex {

// Bytes that the recurrent layers keep for each sequence of a context; 0 without such layers.
uint64_t state_bytes_per_sequence(const Model& model);

}  // namespace apex
