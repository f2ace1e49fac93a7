# The one architecture that a build is for. CMake keeps what a Mac was asked for apart from
# CMAKE_SYSTEM_PROCESSOR, which stays the machine's; instruction sets here go by the latter.
if(CMAKE_OSX_ARCHITECTURES)
  list(LENGTH CMAKE_OSX_ARCHITECTURES n_architectures)
  if(n_architectures GREATER 1)
    message(FATAL_ERROR
      "CMAKE_OSX_ARCHITECTURES is ${CMAKE_OSX_ARCHITECTURES}: expected one architecture, since each has "
      "kernels of its own. Build once for arm64 and once for x86_64.")
  endif()
  set(CMAKE_SYSTEM_PROCESSOR "${CMAKE_OSX_ARCHITECTURES}")
endif()
