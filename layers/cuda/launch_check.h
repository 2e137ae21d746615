// The error of a refused launch: apart from the kernels, whose compiler doesn't read the tree's headers.
#pragma once

namespace conclave::cuda {

// Throws Error with the kernel's name and CUDA's words.
[[noreturn]] void refuse_launch(const char* kernel, const char* words);

}  // namespace conclave::cuda
