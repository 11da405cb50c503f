#include "core/text/byte_level.h"

#include <array>
#include <cstdint>

#include "core/text/utf8.h"

namespace quantloom {
namespace {

constexpr char32_t kAlphabetEnd = 0x144;

constexpr bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<uint16_t, 256> MakeCharacters() {
  std::array<uint16_t, 256> characters{};
  uint16_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    characters[byte] = StandsForItself(byte) ? static_cast<uint16_t>(byte) : next++;
  }
  return characters;
}

constexpr std::array<uint16_t, 256> kCharacterOfByte = MakeCharacters();

constexpr std::array<int16_t, kAlphabetEnd> MakeBytes() {
  std::array<int16_t, kAlphabetEnd> bytes{};
  for (int16_t& byte : bytes) byte = -1;
  for (int byte = 0; byte < 256; ++byte) bytes[kCharacterOfByte[byte]] = static_cast<int16_t>(byte);
  return bytes;
}

constexpr std::array<int16_t, kAlphabetEnd> kByteOfCharacter = MakeBytes();
static_assert(kCharacterOfByte[' '] == 0x120 && kByteOfCharacter[0x143] == 0xAD);

}  // namespace

std::optional<std::string> BytesOfSpelling(absl::string_view spelling) {
  std::string bytes;
  bytes.reserve(spelling.size());
  while (!spelling.empty()) {
    const Utf8Unit unit = DecodeUtf8(spelling);
    if (unit.code_point >= kAlphabetEnd || kByteOfCharacter[unit.code_point] < 0) {
      return std::nullopt;
    }
    bytes.push_back(static_cast<char>(kByteOfCharacter[unit.code_point]));
    spelling.remove_prefix(unit.length);
  }
  return bytes;
}

std::string SpellingOfBytes(absl::string_view bytes) {
  std::string spelling;
  for (const char byte : bytes) AppendUtf8(kCharacterOfByte[static_cast<uint8_t>(byte)], spelling);
  return spelling;
}

}  // namespace quantloom
