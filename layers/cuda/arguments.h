// From an operator's arguments to those of its kernel, and the way to the host for operators without one.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <type_traits>

#include "comm/cuda/memory.h"
#include "layers/context.h"
#include "layers/cuda/kernels.h"
#include "layers/tensor/philox.h"

namespace conclave::cuda {

inline StreamHandle stream_of(const Context& ctx) { return ctx.gpu->stream().handle(); }

inline ConstElements elements_of(const ConstTensorView& tensor) { return {tensor.raw(), tensor.dtype()}; }
inline Elements elements_of(const TensorView& tensor) { return {tensor.raw(), tensor.dtype()}; }

inline RandomKey key_of(const RandomStream& random) {
  const std::array<std::uint32_t, 2> key = random.key();
  return {{key[0], key[1]}, random.substream()};
}

// Numbers that the host holds, in ctx.arena where kernels find them. They may change as soon as this returns.
template <class T>
const T* upload(Context& ctx, std::span<const T> values) {
  const auto count = static_cast<std::int64_t>(values.size());
  T* copy_of_them = ctx.arena->allocate({count}, dtype_of<T>).template data<T>();
  ctx.gpu->staging().upload(copy_of_them, values.data(), values.size_bytes());
  return copy_of_them;
}
template <class T>
const T* upload(Context& ctx, const ConstTensorView& tensor) {
  return upload(ctx, tensor.values<T>());
}

// The same for records of several numbers.
template <class Record>
const Record* upload_records(Context& ctx, std::span<const Record> records) {
  static_assert(std::is_trivially_copyable_v<Record>);
  const auto bytes = static_cast<std::int64_t>(records.size_bytes());
  void* copy_of_them = ctx.arena->allocate({bytes}, DType::kUInt8).raw();
  ctx.gpu->staging().upload(copy_of_them, records.data(), records.size_bytes());
  return static_cast<const Record*>(copy_of_them);
}

// Values where kernels find them: a tensor of the host is uploaded.
template <class T>
const T* on_gpu(Context& ctx, const ConstTensorView& tensor) {
  return tensor.device().kind == DeviceKind::kCuda ? tensor.data<T>() : upload<T>(ctx, tensor);
}

// Flags of the tokens that are padding; null where none is.
inline const std::uint8_t* padding_on_gpu(Context& ctx) {
  return ctx.padding.elements() > 0 ? on_gpu<std::uint8_t>(ctx, ctx.padding) : nullptr;
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
