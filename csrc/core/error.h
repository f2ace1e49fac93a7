// Errors of the core. The binding layer turns each into the Python class of the same name.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace apex {

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct GgufError : Error {
    using Error::Error;
};
struct ImatrixError : Error {
    using Error::Error;
};
struct QuantizeError : Error {
    using Error::Error;
};
struct ModelError : Error {
    using Error::Error;
};
struct DataError : Error {
    using Error::Error;
};
struct OutputError : Error {
    using Error::Error;
};
struct DeviceError : Error {
    using Error::Error;
};
struct Cancelled : Error {
    using Error::Error;
};
// A caller's mistake, not a file's: ValueError in Python.
struct InvalidArgument : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

template <class... Parts>
std::string concat(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    return text.str();
}

template <class E, class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    throw E(concat(parts...));
}

}  // namespace apex
