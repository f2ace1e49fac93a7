// What a vocabulary adds up to, of one row of logits: all that its scores are made of.
#pragma once

#include <cstdint>

namespace apex {

struct RowSums {
    double sum = 0;  // of exp(x - max); of a coded row, entries at or below its floor left out
    double difference =
        0;             // of a candidate: the reference's exp(x - max) times (x - its own entry)
    float max = 0;     // the entry `top`
    float target = 0;  // the entry of the token that follows
    int32_t top = 0;   // the first of the largest entries
    int32_t is_finite = 1;  // else nothing but top is meant to be read
};

}  // namespace apex
