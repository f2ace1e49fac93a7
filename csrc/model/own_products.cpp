#include "model/own_products.h"

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "model/bf16_matmul.h"
#include "model/panel_matmul.h"
#include "model/panel_self_test.h"
#include "traits.h"

namespace apex {
namespace {

using Traits = std::unique_ptr<ggml::cpu::tensor_traits>;

// Stands before one of ggml's extra buffer types, which keeps all it had.
class OwnProducts : public ggml::cpu::extra_buffer_type {
  public:
    OwnProducts(ggml::cpu::extra_buffer_type* original, Traits of_halves, Traits of_panels)
        : original_(original), of_halves_(std::move(of_halves)), of_panels_(std::move(of_panels)) {}

    bool supports_op(ggml_backend_dev_t device, const ggml_tensor* op) override {
        return original_->supports_op(device, op);
    }
    ggml::cpu::tensor_traits* get_tensor_traits(const ggml_tensor* op) override {
        ggml::cpu::tensor_traits* traits = original_->get_tensor_traits(op);
        if (traits != nullptr) return traits;
        if (is_bf16_product(op)) return of_halves_.get();
        if (is_panel_product(op)) return of_panels_.get();
        return nullptr;
    }

  private:
    ggml::cpu::extra_buffer_type* original_;
    Traits of_halves_, of_panels_;
};

std::vector<ggml_type> list_panel_types() {
    std::vector<ggml_type> found;
    for (int type = 0; type < GGML_TYPE_COUNT; ++type) {
        if (has_panel_matmul(static_cast<ggml_type>(type))) {
            found.push_back(static_cast<ggml_type>(type));
        }
    }
    return found;
}

void install() {
    const auto& types = ggml_backend_cpu_get_extra_buffer_types();
    if (types.empty() || types.front()->context == nullptr) return;
    const kernels::Isa isa = kernels::best_isa();
    Traits of_halves = make_bf16_traits(isa), of_panels = make_panel_traits(isa);
    if (of_halves == nullptr && of_panels == nullptr) return;
    const std::vector<ggml_type> types_of_panels = list_panel_types();
    std::vector<Samples> expected;
    for (const ggml_type type : types_of_panels) expected.push_back(sample_products(type));
    // Lives as long as the process, like the type it stands before.
    types.front()->context =
        new OwnProducts(static_cast<ggml::cpu::extra_buffer_type*>(types.front()->context),
                        std::move(of_halves), std::move(of_panels));
    for (size_t i = 0; i < types_of_panels.size(); ++i) {
        const ggml_type type = types_of_panels[i];
        if (!same_bits(sample_products(type), expected[i])) leave_panels_to_ggml(type);
    }
}

}  // namespace

void install_own_products() {
    static std::once_flag once;
    std::call_once(once, install);
}

}  // namespace apex
