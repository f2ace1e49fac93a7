// Is a string from a file text that Python will accept and a terminal can show?
#pragma once

#include <string>

namespace apex {

// Strict: no overlong forms, no surrogates, nothing beyond U+10FFFF (Unicode, table 3-7).
bool is_utf8(const std::string& text);

// C0, DEL or C1, in text that is UTF-8: line ends and the starts of escape sequences.
bool has_control_character(const std::string& text);

}  // namespace apex
