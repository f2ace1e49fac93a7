#include "core/utf8.h"

#include <cstddef>
#include <cstdint>

namespace apex {
namespace {

// Bytes of the character that begins with lead, 0 where none can.
size_t sequence_length(uint8_t lead) {
    if (lead < 0x80) return 1;
    if (lead < 0xc2) return 0;  // a continuation byte, or an overlong form of ASCII
    if (lead < 0xe0) return 2;
    if (lead < 0xf0) return 3;
    return lead < 0xf5 ? 4 : 0;
}

bool is_scalar_value(uint32_t code, size_t length) {
    if (length == 3 && code < 0x800) return false;
    if (length == 4 && (code < 0x10000 || code > 0x10ffff)) return false;
    return code < 0xd800 || code > 0xdfff;
}

}  // namespace

bool is_utf8(const std::string& text) {
    size_t i = 0;
    while (i < text.size()) {
        const auto lead = static_cast<uint8_t>(text[i]);
        const size_t length = sequence_length(lead);
        if (length == 0 || length > text.size() - i) return false;
        uint32_t code = lead & (0xffu >> length);
        for (size_t k = 1; k < length; ++k) {
            const auto byte = static_cast<uint8_t>(text[i + k]);
            if ((byte & 0xc0) != 0x80) return false;
            code = code << 6 | (byte & 0x3fu);
        }
        if (!is_scalar_value(code, length)) return false;
        i += length;
    }
    return true;
}

}  // namespace apex
