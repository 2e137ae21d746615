// Atomic operations of the host, in code that is instrumented for race_check.cc: what they would be without.
#include <cstdint>

// NOLINTBEGIN: names are the compiler's
extern "C" {

#define CONCLAVE_FETCH(bits, operation)                                                                   \
  std::uint##bits##_t __tsan_atomic##bits##_##operation(volatile void* memory, std::uint##bits##_t value, \
                                                        int) {                                            \
    return __atomic_##operation(static_cast<volatile std::uint##bits##_t*>(memory), value,                \
                                __ATOMIC_SEQ_CST);                                                        \
  }
#define CONCLAVE_COMPARE_EXCHANGE(bits, kind, is_weak)                                              \
  bool __tsan_atomic##bits##_compare_exchange_##kind(volatile void* memory, void* expected,         \
                                                     std::uint##bits##_t value, int, int) {         \
    return __atomic_compare_exchange_n(static_cast<volatile std::uint##bits##_t*>(memory),          \
                                       static_cast<std::uint##bits##_t*>(expected), value, is_weak, \
                                       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                         \
  }
#define CONCLAVE_ATOMICS(bits)                                                                               \
  std::uint##bits##_t __tsan_atomic##bits##_load(const volatile void* memory, int) {                         \
    return __atomic_load_n(static_cast<const volatile std::uint##bits##_t*>(memory), __ATOMIC_SEQ_CST);      \
  }                                                                                                          \
  void __tsan_atomic##bits##_store(volatile void* memory, std::uint##bits##_t value, int) {                  \
    __atomic_store_n(static_cast<volatile std::uint##bits##_t*>(memory), value, __ATOMIC_SEQ_CST);           \
  }                                                                                                          \
  std::uint##bits##_t __tsan_atomic##bits##_exchange(volatile void* memory, std::uint##bits##_t value,       \
                                                     int) {                                                  \
    return __atomic_exchange_n(static_cast<volatile std::uint##bits##_t*>(memory), value, __ATOMIC_SEQ_CST); \
  }                                                                                                          \
  CONCLAVE_FETCH(bits, fetch_add)                                                                            \
  CONCLAVE_FETCH(bits, fetch_sub)                                                                            \
  CONCLAVE_FETCH(bits, fetch_and)                                                                            \
  CONCLAVE_FETCH(bits, fetch_or)                                                                             \
  CONCLAVE_FETCH(bits, fetch_xor)                                                                            \
  CONCLAVE_COMPARE_EXCHANGE(bits, strong, false)                                                             \
  CONCLAVE_COMPARE_EXCHANGE(bits, weak, true)

CONCLAVE_ATOMICS(8)
CONCLAVE_ATOMICS(16)
CONCLAVE_ATOMICS(32)
CONCLAVE_ATOMICS(64)

void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
}
// NOLINTEND
