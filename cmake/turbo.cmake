# The cache types turbo2, turbo3 and turbo4 inside ggml: csrc/turbo, and copies of the files of llama.cpp
# that have to know them, made by third_party/llama.cpp/turbo_edits.py. No target's flags and no header
# change, so that all other files compile, or are found in a compiler's cache, as without them.

set(turbo_source "${PROJECT_SOURCE_DIR}/csrc/turbo")
set(turbo_edited "${PROJECT_BINARY_DIR}/turbo")

# Pairs of keys and values that attention of one query reads as they are; all others are converted to
# 16 bits first, all of them for every token. Keys in turbo4 are for who knows that the model bears it.
set(APEX_TURBO_VEC q8_0-turbo4 q8_0-turbo3 q8_0-turbo2 f16-turbo4 f16-turbo3 turbo4-turbo4
    CACHE STRING "Pairs of cache types with a kernel for one query")

# Sources by their absolute paths, each with folders to include from.
function(apex_turbo_sources target)
  cmake_parse_arguments(PARSE_ARGV 1 turbo "" "" "SOURCES;INCLUDE")
  foreach(source ${turbo_SOURCES})
    target_sources(${target} PRIVATE "${source}")
    set_property(SOURCE "${source}" TARGET_DIRECTORY ${target}
      APPEND PROPERTY INCLUDE_DIRECTORIES ${turbo_source} ${turbo_edited} ${turbo_INCLUDE})
  endforeach()
endfunction()

# A file of llama.cpp's makes room for its edited copy.
function(apex_turbo_replace target folder name)
  get_target_property(sources ${target} SOURCES)
  set(found ${sources})
  list(FILTER found INCLUDE REGEX "(^|/)${name}$")
  list(LENGTH found n)
  if(NOT n EQUAL 1)
    message(FATAL_ERROR "${name} was expected once among the sources of ${target}, found ${n} times: "
                        "fit cmake/turbo.cmake to this version of llama.cpp, or build with "
                        "-DAPEX_TURBO=OFF")
  endif()
  list(REMOVE_ITEM sources ${found})
  set_property(TARGET ${target} PROPERTY SOURCES ${sources})
  apex_turbo_sources(${target} SOURCES "${turbo_edited}/${name}" INCLUDE "${folder}")
endfunction()

# llama_cpp: its folder. Called where its targets exist.
function(apex_add_turbo llama_cpp)
  set(ggml "${llama_cpp}/ggml/src")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS turbo_edits.py)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" "${CMAKE_CURRENT_SOURCE_DIR}/turbo_edits.py"
            "${llama_cpp}" "${turbo_edited}"
    ERROR_VARIABLE error ERROR_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${error}")
  endif()
  apex_turbo_replace(ggml-base "${ggml}" ggml.c)
  apex_turbo_replace(ggml-cpu "${ggml}/ggml-cpu" ggml-cpu.c)
  apex_turbo_sources(ggml-base SOURCES "${turbo_source}/encode.cpp" "${turbo_source}/decode.cpp")
  if(NOT TARGET ggml-cuda)
    return()
  endif()
  foreach(name convert.cu fattn.cu set-rows.cu ggml-cuda.cu)
    apex_turbo_replace(ggml-cuda "${ggml}/ggml-cuda" ${name})
  endforeach()
  apex_turbo_sources(ggml-cuda SOURCES "${turbo_source}/turbo_rows.cu")
  foreach(pair ${APEX_TURBO_VEC})
    string(TOUPPER "${pair}" upper)
    string(REPLACE "-" ";" types "${upper}")
    list(GET types 0 APEX_K)
    list(GET types 1 APEX_V)
    string(APPEND APEX_PAIRS " X(${APEX_K}, ${APEX_V})")
    set(instance "${turbo_edited}/turbo_vec_${pair}.cu")
    configure_file("${turbo_source}/turbo_vec.cu.in" "${instance}" @ONLY)
    apex_turbo_sources(ggml-cuda SOURCES "${instance}" INCLUDE "${ggml}/ggml-cuda")
  endforeach()
  configure_file("${turbo_source}/vec_pairs.cuh.in" "${turbo_edited}/vec_pairs.cuh" @ONLY)
endfunction()
