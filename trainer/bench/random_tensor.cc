#include "trainer/bench/random_tensor.h"

#include <array>
#include <type_traits>

#include "layers/tensor/philox.h"

namespace conclave::bench {

Buffer random_tensor(Shape shape, DType dtype, const std::string& name, Device device) {
  Buffer buffer(shape, dtype, device);
  const RandomStream random(1, name);
  const auto fill = [&](auto values) {
    // 4,096 different values: enough that nothing is zero or repeats within a row.
    std::array<float, 4096> normals{};
    for (std::size_t i = 0; i < normals.size(); ++i) normals[i] = random.normal(i);
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<std::remove_reference_t<decltype(values[i])>>(normals[i * 7 % normals.size()]);
  };
  if (dtype == DType::kBFloat16) {
    fill(buffer.view().values<bfloat16>());
  } else {
    fill(buffer.view().values<float>());
  }
  return buffer;
}

DType compute_dtype(const std::string& compute) {
  return compute == "bf16" ? DType::kBFloat16 : DType::kFloat32;
}

}  // namespace conclave::bench
