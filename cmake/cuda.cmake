# Which nvcc, and for which GPUs: both can be chosen with CMake's own variables.

# CMake looks on the PATH only.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(apex_nvcc nvcc PATHS "$ENV{CUDA_HOME}/bin" /usr/local/cuda/bin)
  if(NOT apex_nvcc)
    message(FATAL_ERROR "APEX_CUDA=ON needs nvcc, which is neither on the PATH nor in "
                        "/usr/local/cuda/bin; install CUDA's toolkit or set CMAKE_CUDA_COMPILER")
  endif()
  set(CMAKE_CUDA_COMPILER "${apex_nvcc}" CACHE FILEPATH "CUDA compiler")
endif()

# The GPU of this machine, or else Ampere to Hopper, with PTX for what comes after.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  execute_process(COMMAND nvidia-smi -L OUTPUT_VARIABLE apex_gpus ERROR_QUIET RESULT_VARIABLE failed)
  if(failed EQUAL 0 AND apex_gpus MATCHES "GPU 0")
    set(CMAKE_CUDA_ARCHITECTURES native CACHE STRING "GPUs to build for")
  else()
    set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90 CACHE STRING "GPUs to build for")
  endif()
endif()

enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
