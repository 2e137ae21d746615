// HTML pages that are one file: style, scripts and data are inside, nothing comes from the network, and the
// page itself forbids it (Content-Security-Policy).
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace conclave::html {

// Text for an element or a quoted attribute: & < > " ' become references, bytes that are no valid UTF-8
// become U+FFFD.
std::string escape(std::string_view text);

// JSON as it may stand inside <script>: no "<", so that no text in it ends the element or opens a comment.
std::string embeddable_json(std::string_view json);

struct Page {
  std::string title;
  std::string data;         // valid JSON: what the script shows
  std::string_view script;  // of assets.h; builds the page from the data
};

std::string render(const Page& page);

// Creates the directories above `path`. Throws Error if the page can't be written.
void write(const std::filesystem::path& path, const Page& page);

}  // namespace conclave::html
