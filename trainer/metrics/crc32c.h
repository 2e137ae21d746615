// CRC-32C (Castagnoli): reflected polynomial 0x82F63B78; of "123456789" it is 0xE3069283.
#pragma once

#include <cstdint>
#include <string_view>

namespace conclave {

std::uint32_t crc32c(std::string_view bytes);

// As stored in TensorBoard's records: a checksum of bytes that hold checksums would otherwise be degenerate.
constexpr std::uint32_t masked_crc(std::uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8U; }

}  // namespace conclave
