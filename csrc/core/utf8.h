// Is a string from a file text that Python will accept?
#pragma once

#include <string>

namespace apex {

// Strict: no overlong forms, no surrogates, nothing beyond U+10FFFF (Unicode, table 3-7).
bool is_utf8(const std::string& text);

}  // namespace apex
