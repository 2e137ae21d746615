# NCCL: nccl.h and the library, for find_package(NCCL [version]).
#
# Looked for in NCCL_ROOT (variable or environment), in the CUDA Toolkit's folders where FindCUDAToolkit has run,
# and where the system keeps headers and libraries. Sets NCCL_FOUND and NCCL_VERSION, which nccl.h says, and
# defines the target NCCL::nccl.
set(nccl_prefixes "")
if(CUDAToolkit_FOUND)
  list(APPEND nccl_prefixes ${CUDAToolkit_TARGET_DIR} ${CUDAToolkit_LIBRARY_ROOT})
endif()
list(APPEND nccl_prefixes /usr/local/cuda)

# find_* look in NCCL_ROOT first of all (policy CMP0074), and in the system's places last.
find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} PATHS ${nccl_prefixes} PATH_SUFFIXES include)
find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR} PATHS ${nccl_prefixes} PATH_SUFFIXES lib lib64)
mark_as_advanced(NCCL_INCLUDE_DIR NCCL_LIBRARY)

if(NCCL_INCLUDE_DIR)
  set(nccl_numbers "")
  foreach(part MAJOR MINOR PATCH)
    file(STRINGS ${NCCL_INCLUDE_DIR}/nccl.h line REGEX "^#define NCCL_${part} +[0-9]+" LIMIT_COUNT 1)
    string(REGEX REPLACE ".*NCCL_${part} +" "" number "${line}")
    list(APPEND nccl_numbers "${number}")
  endforeach()
  list(JOIN nccl_numbers . NCCL_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_LIBRARY NCCL_INCLUDE_DIR VERSION_VAR NCCL_VERSION)

if(NCCL_FOUND AND NOT TARGET NCCL::nccl)
  add_library(NCCL::nccl UNKNOWN IMPORTED)
  set_target_properties(NCCL::nccl PROPERTIES IMPORTED_LOCATION ${NCCL_LIBRARY}
                                              INTERFACE_INCLUDE_DIRECTORIES ${NCCL_INCLUDE_DIR})
endif()
