// From an operator's arguments to those of its kernel, and the way to the host for operators without one.
#pragma once

#include <span>
#include <string>

#include "comm/cuda/memory.h"
#include "layers/context.h"
#include "layers/cuda/kernels.h"

namespace conclave::cuda {

inline StreamHandle stream_of(const Context& ctx) { return ctx.gpu->stream().handle(); }

inline ConstElements elements_of(const ConstTensorView& tensor) { return {tensor.raw(), tensor.dtype()}; }
inline Elements elements_of(const TensorView& tensor) { return {tensor.raw(), tensor.dtype()}; }

// Numbers that the host holds, in ctx.arena where kernels find them. They may change as soon as this returns.
template <class T>
const T* upload(Context& ctx, std::span<const T> values) {
  const auto count = static_cast<std::int64_t>(values.size());
  T* copy_of_them = ctx.arena->allocate({count}, dtype_of<T>).template data<T>();
  copy(ctx.gpu->stream(), copy_of_them, values.data(), values.size_bytes());
  return copy_of_them;
}
template <class T>
const T* upload(Context& ctx, const ConstTensorView& tensor) {
  return upload(ctx, tensor.values<T>());
}

// Values where kernels find them: a tensor of the host is uploaded.
template <class T>
const T* on_gpu(Context& ctx, const ConstTensorView& tensor) {
  return tensor.device().kind == DeviceKind::kCuda ? tensor.data<T>() : upload<T>(ctx, tensor);
}

// The CPU form of an operator that has no kernel: on the same memory, once the GPU has done what was
// enqueued.
template <class Function>
auto on_host(const Context& ctx, const char* name, Function function) {
  if (ctx.on_gpu()) {
    ctx.synchronize();
    ctx.gpu->count_on_host(name);
  }
  return function();
}

}  // namespace conclave::cuda
