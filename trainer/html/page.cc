#include "trainer/html/page.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "comm/base/error.h"
#include "trainer/durable_file.h"
#include "trainer/html/assets.h"

namespace conclave::html {
namespace {

// Bytes that are no UTF-8 become U+FFFD; the JSON library knows how.
std::string valid_utf8(std::string_view text) {
  const std::string quoted =
      nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return nlohmann::json::parse(quoted).get<std::string>();
}

std::string replaced(std::string_view text, char character, std::string_view by) {
  std::string result;
  for (const char c : text) {
    if (c == character) {
      result += by;
    } else {
      result += c;
    }
  }
  return result;
}

}  // namespace

std::string escape(std::string_view text) {
  std::string result = replaced(valid_utf8(text), '&', "&amp;");
  result = replaced(result, '<', "&lt;");
  result = replaced(result, '>', "&gt;");
  result = replaced(result, '"', "&quot;");
  return replaced(result, '\'', "&#39;");
}

std::string embeddable_json(std::string_view json) { return replaced(json, '<', "\\u003c"); }

std::string render(const Page& page) {
  constexpr std::string_view kPolicy =
      "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
  std::string text = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
  text += fmt::format("<meta http-equiv=\"Content-Security-Policy\" content=\"{}\">\n", kPolicy);
  text += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
  text += "<meta name=\"color-scheme\" content=\"light dark\">\n";
  text += fmt::format("<title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n", escape(page.title),
                      kPageStyle);
  text +=
      "<noscript><p>This page draws itself with a script that it contains; scripts are off.</p></noscript>\n";
  text += "<main id=\"page\"></main>\n";
  text +=
      fmt::format("<script type=\"application/json\" id=\"data\">{}</script>\n", embeddable_json(page.data));
  text +=
      fmt::format("<script>\n{}</script>\n<script>\n{}</script>\n</body>\n</html>\n", kCharts, page.script);
  return text;
}

void write(const std::filesystem::path& path, const Page& page) {
  std::error_code failure;
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), failure);
  CONCLAVE_CHECK(!failure, "can't create {}: {}", path.parent_path().string(), failure.message());
  replace_file_durably(path, render(page));
}

}  // namespace conclave::html
