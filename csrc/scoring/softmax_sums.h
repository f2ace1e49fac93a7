// What a vocabulary adds up to, of one row of logits: all that its scores are made of.
#pragma once

#include <cfloat>
#include <cstdint>

namespace apex {

// Pads a row: exp(it - max) is below any sum's last bit.
inline constexpr float kNoLogit = -FLT_MAX;

// Coded log-probabilities of so much and less do not count: tools/perplexity/perplexity.cpp,
// log_softmax.
inline constexpr double kCodedFloor = -16;

struct SoftmaxSums {
    double sum = 0;  // of exp(x - max); of a coded row, entries at or below its floor left out
    double difference =
        0;             // of a candidate: the reference's exp(x - max) times (x - its own entry)
    float max = 0;     // the entry `top`
    float target = 0;  // the entry of the token that follows
    int32_t top = 0;   // the first of the largest entries
    int32_t is_finite = 1;  // else nothing but top is meant to be read
};

}  // namespace apex
