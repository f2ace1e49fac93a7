#include "model/sequence_state.h"

#include "llama-model.h"

namespace apex {

uint64_t state_bytes_per_sequence(const Model& model) {
    if (!model.is_recurrent() && !model.is_hybrid()) return 0;
    const llama_hparams& hparams = model.get()->hparams;
    uint64_t n_values = 0;
    for (uint32_t layer = 0; layer < hparams.n_layer(); ++layer) {
        // As llama_memory_recurrent allocates it, in F32 (src/llama-memory-recurrent.cpp).
        if (hparams.is_recr(layer)) n_values += hparams.n_embd_r() + hparams.n_embd_s();
    }
    return n_values * sizeof(float);
}

}  // namespace apex
