// Structs of options as classes that take keyword arguments.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "bind/module.h"

namespace apex::bind {

// Options(name=value, ...): a field that is not named keeps its default in C++; a name that is no
// field, or a value of another type, is a TypeError. Fields can be read.
template <typename Options>
class OptionsClass {
  public:
    OptionsClass(py::module_& module, const char* name, const char* doc)
        : class_(module, name, doc), setters_(std::make_shared<Setters>()) {
        class_.def(py::init([setters = setters_, name = std::string(name)](const py::kwargs& all) {
            Options options;
            for (const auto& [key, value] : all) {
                const auto field = py::cast<std::string>(key);
                const auto found = setters->find(field);
                if (found == setters->end()) {
                    throw py::type_error(name + " has no option '" + field + "'");
                }
                try {
                    found->second(options, value);
                } catch (const py::cast_error&) {
                    throw py::type_error(name + ": " + field + " cannot be " +
                                         py::cast<std::string>(py::repr(value)));
                }
            }
            return options;
        }));
    }

    template <typename Member>
    OptionsClass& field(const char* name, Member Options::* member) {
        return add<Member>(name, [member](auto& options) -> auto& { return options.*member; });
    }

    // A field of a struct in the struct.
    template <typename Outer, typename Member>
    OptionsClass& field(const char* name, Outer Options::* outer, Member Outer::* member) {
        return add<Member>(
            name, [outer, member](auto& options) -> auto& { return options.*outer.*member; });
    }

  private:
    using Setters = std::map<std::string, std::function<void(Options&, py::handle)>>;

    template <typename Member, typename Get>
    OptionsClass& add(const char* name, const Get& get) {
        class_.def_property_readonly(
            name, [get](const Options& options) -> Member { return get(options); });
        (*setters_)[name] = [get](Options& options, py::handle value) {
            get(options) = py::cast<Member>(value);
        };
        return *this;
    }

    py::class_<Options> class_;
    std::shared_ptr<Setters> setters_;
};

}  // namespace apex::bind
